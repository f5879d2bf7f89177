/**
 * The bench's second baseline, a process of its own: one thread, one session, C_GenerateRandom for the IV and C_Encrypt of 32 bytes with AES-GCM, as fast as
 * the binding allows, with nothing of ours around it. The key is a session object that dies with the session.
 *
 * Started by fork; takes one RawLoopOrder, answers one RawLoopResult, ends.
 */
import { readFileSync } from 'node:fs'
import { PKCS11 } from 'pkcs11js'
import { CKA, CKF, CKK, CKM, CKO, CKU_USER } from './constants.ts'
import { gcmMechanism } from './session.ts'

export interface RawLoopOrder {
  readonly library: string
  readonly tokenLabel: string
  readonly pinFile: string
  readonly durationMs: number
}

export interface RawLoopResult {
  readonly perSecond: number
}

function run({ library, tokenLabel, pinFile, durationMs }: RawLoopOrder): RawLoopResult {
  const module = new PKCS11()
  module.load(library)
  module.C_Initialize({ flags: CKF.CKF_OS_LOCKING_OK })
  const slot = module.C_GetSlotList(true).find((each) => module.C_GetTokenInfo(each).label.trim() === tokenLabel)
  if (!slot) throw new Error(`no token is labelled ${tokenLabel}`)
  const session = module.C_OpenSession(slot, CKF.CKF_SERIAL_SESSION | CKF.CKF_RW_SESSION)
  module.C_Login(session, CKU_USER, readFileSync(pinFile, 'latin1').split('\n', 1)[0])
  const key = module.C_GenerateKey(session, { mechanism: CKM.CKM_AES_KEY_GEN }, [
    { type: CKA.CKA_CLASS, value: CKO.CKO_SECRET_KEY },
    { type: CKA.CKA_KEY_TYPE, value: CKK.CKK_AES },
    { type: CKA.CKA_VALUE_LEN, value: 32 },
    { type: CKA.CKA_TOKEN, value: false },
    { type: CKA.CKA_ENCRYPT, value: true },
  ])
  const aad = Buffer.alloc(96, 1)
  const plaintext = Buffer.alloc(32, 2)
  const iv = Buffer.alloc(12)
  const output = Buffer.alloc(64)
  let count = 0
  const startedAt = performance.now()
  const stopAt = startedAt + durationMs
  while (performance.now() < stopAt) {
    for (let n = 0; n < 64; n++) {
      module.C_GenerateRandom(session, iv)
      module.C_EncryptInit(session, gcmMechanism(iv, aad), key)
      module.C_Encrypt(session, plaintext, output)
    }
    count += 64
  }
  const perSecond = count / ((performance.now() - startedAt) / 1000)
  module.C_CloseSession(session)
  module.C_Finalize()
  return { perSecond }
}

process.once('message', (order: RawLoopOrder) => {
  process.send?.(run(order), () => process.disconnect())
})
