/**
 * The child process of `provision.mjs`: takes one request by message, answers `{ result }` or `{ problem }`, ends.
 * Everything PKCS#11 is here, so that a crash in the library ends only this process.
 */
import { createHash, randomBytes } from 'node:crypto'
import process from 'node:process'
import pkcs11 from 'pkcs11js'

// SoftHSM 2.6 creates its files with the process's mask; keys are for their owner alone.
process.umask(0o077)

function withModule(library, use) {
  const module = new pkcs11.PKCS11()
  module.load(library)
  module.C_Initialize({ flags: pkcs11.CKF_OS_LOCKING_OK })
  try {
    return use(module)
  } finally {
    module.C_Finalize()
    module.close()
  }
}

/** The slots whose token has been initialized, each with what it says of itself. */
function initializedTokens(module) {
  const slots = module.C_GetSlotList(true).map((slot) => ({ slot, info: module.C_GetTokenInfo(slot) }))
  return slots.filter(({ info }) => (info.flags & pkcs11.CKF_TOKEN_INITIALIZED) !== 0)
}

/** The labels of the tokens on which a user can log in. */
function list(module) {
  return initializedTokens(module)
    .filter(({ info }) => (info.flags & pkcs11.CKF_USER_PIN_INITIALIZED) !== 0)
    .map(({ info }) => labelOf(info))
}

function make(module, { label, pin, soPin }) {
  // SoftHSM always shows one slot with an uninitialized token. Its number changes once the token has a serial number.
  const [free] = module.C_GetSlotList(true)
  // C_InitToken wants 32 bytes, filled up with blanks.
  module.C_InitToken(free, soPin, label + ' '.repeat(32 - Buffer.byteLength(label)))
  const [made] = initializedTokens(module)
  const session = module.C_OpenSession(made.slot, pkcs11.CKF_SERIAL_SESSION | pkcs11.CKF_RW_SESSION)
  module.C_Login(session, pkcs11.CKU_SO, soPin)
  module.C_InitPIN(session, pin)
  module.C_Logout(session)
  module.C_Login(session, pkcs11.CKU_USER, pin)
  module.C_Logout(session)
  module.C_CloseSession(session)
  return list(module)
}

const labelOf = (info) => info.label.replaceAll('\0', '').trimEnd()

/** Lends a read-write session in which `user` is logged in on the token of this label. */
function withSession(module, label, user, pin, use) {
  const token = initializedTokens(module).find(({ info }) => labelOf(info) === label)
  if (token === undefined) throw new Error(`there is no token "${label}"`)
  const session = module.C_OpenSession(token.slot, pkcs11.CKF_SERIAL_SESSION | pkcs11.CKF_RW_SESSION)
  module.C_Login(session, user, pin)
  try {
    return use(session)
  } finally {
    module.C_Logout(session)
    module.C_CloseSession(session)
  }
}

const template = (values) => Object.entries(values).map(([name, value]) => ({ type: pkcs11[name], value }))

function find(module, session, values) {
  module.C_FindObjectsInit(session, template(values))
  const found = module.C_FindObjects(session, 100)
  module.C_FindObjectsFinal(session)
  return found
}

const read = (module, session, object, names) =>
  module
    .C_GetAttributeValue(
      session,
      object,
      names.map((name) => ({ type: pkcs11[name] })),
    )
    .map(({ value }) => value)

const transportLabel = 'holdfast/transport'
const transportBits = 3072

/**
 * The key pair that other tokens wrap for, made when there is none; answers its public half. Of several, which two processes could
 * have made at once, the one with the lowest CKA_ID counts, here as in the service.
 */
function transport(module, { label, pin }) {
  return withSession(module, label, pkcs11.CKU_USER, pin, (session) => {
    const held = () => find(module, session, { CKA_CLASS: pkcs11.CKO_PRIVATE_KEY, CKA_LABEL: transportLabel, CKA_UNWRAP: true })
    if (held().length === 0) {
      const common = { CKA_TOKEN: true, CKA_PRIVATE: true, CKA_ID: randomBytes(16), CKA_LABEL: transportLabel, CKA_DERIVE: false }
      module.C_GenerateKeyPair(
        session,
        { mechanism: pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN },
        template({
          ...common,
          CKA_MODULUS_BITS: transportBits,
          CKA_PUBLIC_EXPONENT: Buffer.from([1, 0, 1]),
          // This copy is for reading. What wraps is the copy on the other token, which that token's security officer trusts.
          CKA_ENCRYPT: false,
          CKA_VERIFY: false,
          CKA_VERIFY_RECOVER: false,
          CKA_WRAP: false,
          CKA_MODIFIABLE: false,
        }),
        template({
          ...common,
          CKA_SENSITIVE: true,
          CKA_EXTRACTABLE: false,
          CKA_DECRYPT: false,
          CKA_SIGN: false,
          CKA_SIGN_RECOVER: false,
          CKA_UNWRAP: true,
          CKA_MODIFIABLE: false,
        }),
      )
    }
    const [[, modulus, exponent]] = held()
      .map((key) => read(module, session, key, ['CKA_ID', 'CKA_MODULUS', 'CKA_PUBLIC_EXPONENT']))
      .sort(([a], [b]) => a.compare(b))
    return { modulus: modulus.toString('hex'), exponent: exponent.toString('hex') }
  })
}

const kekLabel = 'holdfast/transport-kek'

/**
 * The security officer's part: marks the other tokens' transport keys CKA_TRUSTED here, so that this token wraps for them and for
 * nobody else; and makes the AES key that wraps what is too long for RSA. That key too is generated in the device, is trusted, and
 * leaves only under a trusted key. The security officer sees no private objects, so both are CKA_PRIVATE=false. Answers how many
 * objects were made.
 */
function trust(module, { label, soPin, others }) {
  return withSession(module, label, pkcs11.CKU_SO, soPin, (session) => {
    const common = { CKA_TOKEN: true, CKA_PRIVATE: false, CKA_TRUSTED: true, CKA_WRAP: true, CKA_ENCRYPT: false, CKA_VERIFY: false }
    let made = 0
    for (const other of others) {
      const key = {
        CKA_CLASS: pkcs11.CKO_PUBLIC_KEY,
        CKA_KEY_TYPE: pkcs11.CKK_RSA,
        CKA_MODULUS: Buffer.from(other.modulus, 'hex'),
        CKA_PUBLIC_EXPONENT: Buffer.from(other.exponent, 'hex'),
      }
      if (find(module, session, { ...key, CKA_TRUSTED: true, CKA_WRAP: true }).length > 0) continue
      const id = createHash('sha256').update(key.CKA_MODULUS).digest().subarray(0, 16)
      module.C_CreateObject(
        session,
        template({ ...key, ...common, CKA_ID: id, CKA_LABEL: `${transportLabel} of ${other.label}`, CKA_MODIFIABLE: false }),
      )
      made += 1
    }
    const kek = { CKA_CLASS: pkcs11.CKO_SECRET_KEY, CKA_KEY_TYPE: pkcs11.CKK_AES, CKA_LABEL: kekLabel }
    if (find(module, session, { ...kek, CKA_TRUSTED: true, CKA_WRAP: true }).length === 0) {
      module.C_GenerateKey(
        session,
        { mechanism: pkcs11.CKM_AES_KEY_GEN },
        template({
          ...kek,
          ...common,
          CKA_ID: randomBytes(16),
          CKA_VALUE_LEN: 32,
          CKA_SENSITIVE: true,
          CKA_EXTRACTABLE: true,
          CKA_WRAP_WITH_TRUSTED: true,
          CKA_DECRYPT: false,
          CKA_SIGN: false,
          CKA_UNWRAP: false,
          CKA_DERIVE: false,
          // Last: SoftHSM takes no other attribute once it has read this one.
          CKA_MODIFIABLE: false,
        }),
      )
      made += 1
    }
    return made
  })
}

const actions = { list, make, transport, trust }

process.once('message', (request) => {
  let answer
  try {
    answer = { result: withModule(request.library, (module) => actions[request.action](module, request)) }
  } catch (error) {
    answer = { problem: error instanceof Error ? error.message : String(error) }
  }
  process.send(answer, () => process.disconnect())
})
