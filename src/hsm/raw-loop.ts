/**
 * The bench's baseline, a process of its own: what the token alone gives to this binding, as fast as it goes, with nothing of ours around it. One thread
 * for each session, each with one key of its own, a session object that dies with the session. An `encrypt` is C_GenerateRandom for the IV and
 * C_Encrypt of 32 bytes with AES-GCM; an `encrypt-alone` counts its IVs, and so asks the device once; a signature is C_Sign of a SHA-256 digest.
 *
 * Started by fork; takes one RawLoopOrder, gives one RawLoopAnswer, ends.
 */
import { readFileSync } from 'node:fs'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { PKCS11, type Attribute, type Mechanism } from 'pkcs11js'
import { bundleThread } from './bundle.ts'
import { keyRows, signingRows, type KeyPairRow } from './algorithms.ts'
import { CKA, CKF, CKK, CKM, CKO, CKU_USER } from './constants.ts'
import { classify, findDeviceError } from './errors.ts'
import { gcmMechanism } from './session.ts'
import { template } from './template.ts'
import type { SigningAlgorithm } from './token.ts'

export type RawLoopOperation = 'encrypt' | 'encrypt-alone' | 'sign-rsa-2048' | 'sign-ecdsa-p256'

export interface RawLoopOrder {
  readonly library: string
  readonly tokenLabel: string
  readonly pinFile: string
  readonly durationMs: number
  /** Before that, uncounted. Default 0. */
  readonly warmupMs?: number
  /** Default `encrypt`. */
  readonly operation?: RawLoopOperation
  /** Default 1. */
  readonly sessions?: number
}

export interface RawLoopResult {
  /** Of all sessions together. */
  readonly perSecond: number
  /** Processor time of a call, in all threads together. */
  readonly cpuMicroseconds: number
}

/** What kept it from running. `unsupported`: the token has no such mechanism. */
export type RawLoopAnswer = RawLoopResult | { readonly failure: string; readonly unsupported: boolean }

interface LoopTask {
  readonly library: string
  readonly slot: Uint8Array
  readonly operation: RawLoopOperation
  readonly durationMs: number
  readonly warmupMs: number
  /** Becomes 1 when all have their keys. */
  readonly start: SharedArrayBuffer
}

type Loop = (module: PKCS11, session: Buffer) => () => void

const signing =
  (row: KeyPairRow, algorithm: SigningAlgorithm): Loop =>
  (module, session) => {
    const common = { CKA_KEY_TYPE: row.keyType, CKA_TOKEN: false }
    const publicAttributes: Attribute[] = template({ CKA_CLASS: CKO.CKO_PUBLIC_KEY, ...common, ...row.parameters })
    const privateAttributes: Attribute[] = template({ CKA_CLASS: CKO.CKO_PRIVATE_KEY, ...common, CKA_SIGN: true })
    const mechanism: Mechanism = { mechanism: row.generate }
    const { privateKey } = module.C_GenerateKeyPair(session, mechanism, publicAttributes, privateAttributes)
    const { mechanism: signs, prefix, digestBytes } = signingRows[algorithm]
    const input = Buffer.concat([prefix, Buffer.alloc(digestBytes, 1)])
    const output = Buffer.alloc(512)
    return () => {
      module.C_SignInit(session, signs, privateKey)
      module.C_Sign(session, input, output)
    }
  }

const encrypting =
  (nextIv: (module: PKCS11, session: Buffer, iv: Buffer) => void): Loop =>
  (module, session) => {
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
    return () => {
      nextIv(module, session, iv)
      module.C_EncryptInit(session, gcmMechanism(iv, aad), key)
      module.C_Encrypt(session, plaintext, output)
    }
  }

const loops: Readonly<Record<RawLoopOperation, Loop>> = {
  encrypt: encrypting((module, session, iv) => void module.C_GenerateRandom(session, iv)),
  'encrypt-alone': encrypting((_module, _session, iv) => void iv.writeUInt32LE((iv.readUInt32LE() + 1) >>> 0)),
  'sign-rsa-2048': signing(keyRows['rsa-2048-sign'], 'RSASSA_PKCS1_V1_5_SHA_256'),
  'sign-ecdsa-p256': signing(keyRows['ec-p256'], 'ECDSA_SHA_256'),
}

/** Looks at the clock now and then only. */
const callsPerLook: Readonly<Record<RawLoopOperation, number>> = {
  encrypt: 64,
  'encrypt-alone': 8,
  'sign-rsa-2048': 1,
  'sign-ecdsa-p256': 8,
}

function tell(message: 'ready' | number): void {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port, not a window
  parentPort?.postMessage(message)
}

function loop({ library, slot, operation, durationMs, warmupMs, start }: LoopTask): void {
  const module = new PKCS11()
  module.load(library)
  const session = module.C_OpenSession(Buffer.from(slot), CKF.CKF_SERIAL_SESSION | CKF.CKF_RW_SESSION)
  const once = loops[operation](module, session)
  tell('ready')
  Atomics.wait(new Int32Array(start), 0, 0)
  const callUntil = (stopAt: number): number => {
    let count = 0
    while (performance.now() < stopAt) {
      for (let n = 0; n < callsPerLook[operation]; n += 1) once()
      count += callsPerLook[operation]
    }
    return count
  }
  callUntil(performance.now() + warmupMs)
  const startedAt = performance.now()
  const count = callUntil(startedAt + durationMs)
  const perSecond = count / ((performance.now() - startedAt) / 1000)
  module.C_CloseSession(session)
  tell(perSecond)
}

/** The token has no such mechanism: nothing is wrong. */
class Unsupported extends Error {}

/** What a thread could not do. */
function refuse(error: unknown): never {
  const device = findDeviceError(error)
  const isUnsupported = device !== undefined && classify(device.code, false, { authFailed: [], gone: [] }).class === 'unsupported'
  throw isUnsupported ? new Unsupported(device.message) : error
}

const failureOf = (error: unknown): RawLoopAnswer => {
  const told = findDeviceError(error) ?? error
  return { failure: told instanceof Error ? told.message : String(told), unsupported: error instanceof Unsupported }
}

async function run({
  library,
  tokenLabel,
  pinFile,
  durationMs,
  warmupMs = 0,
  operation = 'encrypt',
  sessions = 1,
}: RawLoopOrder): Promise<RawLoopResult> {
  const module = new PKCS11()
  module.load(library)
  module.C_Initialize({ flags: CKF.CKF_OS_LOCKING_OK })
  const slot = module.C_GetSlotList(true).find((each) => module.C_GetTokenInfo(each).label.trim() === tokenLabel)
  if (!slot) throw new Error(`no token is labelled ${tokenLabel}`)
  // The login is the process's, for as long as it has a session.
  const anchor = module.C_OpenSession(slot, CKF.CKF_SERIAL_SESSION | CKF.CKF_RW_SESSION)
  module.C_Login(anchor, CKU_USER, readFileSync(pinFile, 'latin1').split('\n', 1)[0])
  const start = new SharedArrayBuffer(4)
  const task: LoopTask = { library, slot: Uint8Array.from(slot), operation, durationMs, warmupMs, start }
  const program = bundleThread(new URL(import.meta.url))
  let ready = 0
  let before = process.cpuUsage()
  const rates = Array.from({ length: sessions }, () => {
    const worker = new Worker(program, { eval: true, workerData: task, execArgv: [] })
    return new Promise<number>((resolve, reject) => {
      worker.on('message', (message: 'ready' | number) => {
        if (typeof message === 'number') resolve(message)
        else ready += 1
        if (ready < sessions) return
        Atomics.store(new Int32Array(start), 0, 1)
        Atomics.notify(new Int32Array(start), 0)
        setTimeout(() => (before = process.cpuUsage()), warmupMs)
      })
      worker.on('error', reject)
    })
  })
  let perSecond = 0
  for (const rate of await Promise.all(rates).catch(refuse)) perSecond += rate
  const { user, system } = process.cpuUsage(before)
  module.C_CloseSession(anchor)
  module.C_Finalize()
  return { perSecond, cpuMicroseconds: ((user + system) * 1000) / (perSecond * durationMs) }
}

if (isMainThread) {
  process.once('message', (order: RawLoopOrder) => {
    const answer = (given: RawLoopAnswer): void => void process.send?.(given, undefined, undefined, () => process.exit())
    run(order).then(answer, (error: unknown) => answer(failureOf(error)))
  })
} else loop(workerData as LoopTask)
