/**
 * The child process of `provision.mjs`: takes one request by message, answers `{ labels }` or `{ problem }`, ends.
 * Everything PKCS#11 is here, so that a crash in the library ends only this process.
 */
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
    .map(({ info }) => info.label.replaceAll('\0', '').trimEnd())
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

process.once('message', (request) => {
  let answer
  try {
    answer = { labels: withModule(request.library, (module) => (request.action === 'make' ? make(module, request) : list(module))) }
  } catch (error) {
    answer = { problem: error instanceof Error ? error.message : String(error) }
  }
  process.send(answer, () => process.disconnect())
})
