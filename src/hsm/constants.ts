/**
 * The numbers of PKCS#11 (OASIS PKCS #11 v3.0, section 6 and its header) that this program uses, with names.
 *
 * They are the project's own because the binding leaves several out, and a missing one arrives there as `undefined`,
 * which crashes the process instead of raising an error. Nothing outside `hsm/` sees these names.
 */

export const CKO = {
  CKO_DATA: 0,
  CKO_CERTIFICATE: 1,
  CKO_PUBLIC_KEY: 2,
  CKO_PRIVATE_KEY: 3,
  CKO_SECRET_KEY: 4,
} as const

export const CKK = {
  CKK_RSA: 0x00,
  CKK_EC: 0x03,
  CKK_GENERIC_SECRET: 0x10,
  CKK_AES: 0x1f,
  CKK_SHA256_HMAC: 0x2b,
  CKK_SHA384_HMAC: 0x2c,
  CKK_SHA512_HMAC: 0x2d,
  CKK_SHA224_HMAC: 0x2e,
  CKK_EC_EDWARDS: 0x40,
} as const

export const CKA = {
  CKA_CLASS: 0x000,
  CKA_TOKEN: 0x001,
  CKA_PRIVATE: 0x002,
  CKA_LABEL: 0x003,
  CKA_VALUE: 0x011,
  CKA_TRUSTED: 0x086,
  CKA_KEY_TYPE: 0x100,
  CKA_ID: 0x102,
  CKA_SENSITIVE: 0x103,
  CKA_ENCRYPT: 0x104,
  CKA_DECRYPT: 0x105,
  CKA_WRAP: 0x106,
  CKA_UNWRAP: 0x107,
  CKA_SIGN: 0x108,
  CKA_SIGN_RECOVER: 0x109,
  CKA_VERIFY: 0x10a,
  CKA_VERIFY_RECOVER: 0x10b,
  CKA_DERIVE: 0x10c,
  CKA_MODULUS: 0x120,
  CKA_MODULUS_BITS: 0x121,
  CKA_PUBLIC_EXPONENT: 0x122,
  CKA_PUBLIC_KEY_INFO: 0x129,
  CKA_VALUE_LEN: 0x161,
  CKA_EXTRACTABLE: 0x162,
  CKA_LOCAL: 0x163,
  CKA_NEVER_EXTRACTABLE: 0x164,
  CKA_ALWAYS_SENSITIVE: 0x165,
  CKA_KEY_GEN_MECHANISM: 0x166,
  CKA_MODIFIABLE: 0x170,
  CKA_EC_PARAMS: 0x180,
  CKA_EC_POINT: 0x181,
  CKA_WRAP_WITH_TRUSTED: 0x210,
} as const

export const CKM = {
  CKM_RSA_PKCS_KEY_PAIR_GEN: 0x0000,
  CKM_RSA_PKCS: 0x0001,
  CKM_RSA_X_509: 0x0003,
  CKM_RSA_PKCS_OAEP: 0x0009,
  CKM_RSA_PKCS_PSS: 0x000d,
  CKM_SHA_1: 0x0220,
  CKM_SHA256: 0x0250,
  CKM_SHA256_HMAC: 0x0251,
  CKM_SHA224: 0x0255,
  CKM_SHA224_HMAC: 0x0256,
  CKM_SHA384: 0x0260,
  CKM_SHA384_HMAC: 0x0261,
  CKM_SHA512: 0x0270,
  CKM_SHA512_HMAC: 0x0271,
  CKM_GENERIC_SECRET_KEY_GEN: 0x0350,
  CKM_EC_KEY_PAIR_GEN: 0x1040,
  CKM_ECDSA: 0x1041,
  CKM_ECDH1_DERIVE: 0x1050,
  CKM_EC_EDWARDS_KEY_PAIR_GEN: 0x1055,
  CKM_EDDSA: 0x1057,
  CKM_AES_KEY_GEN: 0x1080,
  CKM_AES_ECB: 0x1081,
  CKM_AES_CBC: 0x1082,
  CKM_AES_CBC_PAD: 0x1085,
  CKM_AES_GCM: 0x1087,
} as const

export const CKG = { CKG_MGF1_SHA1: 1, CKG_MGF1_SHA256: 2, CKG_MGF1_SHA384: 3, CKG_MGF1_SHA512: 4, CKG_MGF1_SHA224: 5 } as const

/** CK_RSA_PKCS_OAEP_PARAMS.source: the label is given as data, here always none. */
export const CKZ_DATA_SPECIFIED = 1

export const CKU_USER = 1

export const CKF = {
  CKF_RW_SESSION: 0x0002,
  CKF_SERIAL_SESSION: 0x0004,
  /** C_Initialize: the library may lock with the system's own primitives. Without it, threads corrupt its heap. */
  CKF_OS_LOCKING_OK: 0x0002,
  CKF_USER_PIN_INITIALIZED: 0x0000_0008,
  CKF_USER_PIN_FINAL_TRY: 0x0002_0000,
  CKF_USER_PIN_LOCKED: 0x0004_0000,
  CKF_USER_PIN_TO_BE_CHANGED: 0x0008_0000,
} as const

/** CK_SESSION_INFO.state of a session whose user is logged in, read-only and read-write. */
export const CKS_USER_FUNCTIONS: readonly number[] = [1, 3]

/** CK_UNAVAILABLE_INFORMATION and CK_EFFECTIVELY_INFINITE as session counts: both mean that no limit is stated. */
export const statesNoLimit = (count: number): boolean => count === 0 || count >= 0xffff_fffe

/** Which C structure the binding builds from a parameter object. Its older GCM kind (3) leaves ulIvBits unset: never use it. */
export const parameterKind = { gcm: 7, oaep: 4, pss: 5, ecdh: 6 } as const

/** CK_ECDH1_DERIVE_PARAMS.kdf: none, the shared secret is answered as it is. */
export const CKD_NULL = 1

export const CKR = {
  CKR_OK: 0x000,
  CKR_HOST_MEMORY: 0x002,
  CKR_SLOT_ID_INVALID: 0x003,
  CKR_GENERAL_ERROR: 0x005,
  CKR_FUNCTION_FAILED: 0x006,
  CKR_ARGUMENTS_BAD: 0x007,
  CKR_CANT_LOCK: 0x00a,
  CKR_ATTRIBUTE_READ_ONLY: 0x010,
  CKR_ATTRIBUTE_SENSITIVE: 0x011,
  CKR_ATTRIBUTE_TYPE_INVALID: 0x012,
  CKR_ATTRIBUTE_VALUE_INVALID: 0x013,
  CKR_ACTION_PROHIBITED: 0x01b,
  CKR_DATA_INVALID: 0x020,
  CKR_DATA_LEN_RANGE: 0x021,
  CKR_DEVICE_ERROR: 0x030,
  CKR_DEVICE_MEMORY: 0x031,
  CKR_DEVICE_REMOVED: 0x032,
  CKR_ENCRYPTED_DATA_INVALID: 0x040,
  CKR_ENCRYPTED_DATA_LEN_RANGE: 0x041,
  CKR_FUNCTION_CANCELED: 0x050,
  CKR_FUNCTION_NOT_SUPPORTED: 0x054,
  CKR_KEY_HANDLE_INVALID: 0x060,
  CKR_KEY_SIZE_RANGE: 0x062,
  CKR_KEY_TYPE_INCONSISTENT: 0x063,
  CKR_KEY_FUNCTION_NOT_PERMITTED: 0x068,
  CKR_KEY_NOT_WRAPPABLE: 0x069,
  CKR_KEY_UNEXTRACTABLE: 0x06a,
  CKR_MECHANISM_INVALID: 0x070,
  CKR_MECHANISM_PARAM_INVALID: 0x071,
  CKR_OBJECT_HANDLE_INVALID: 0x082,
  CKR_OPERATION_ACTIVE: 0x090,
  CKR_OPERATION_NOT_INITIALIZED: 0x091,
  CKR_PIN_INCORRECT: 0x0a0,
  CKR_PIN_INVALID: 0x0a1,
  CKR_PIN_LEN_RANGE: 0x0a2,
  CKR_PIN_EXPIRED: 0x0a3,
  CKR_PIN_LOCKED: 0x0a4,
  CKR_SESSION_CLOSED: 0x0b0,
  CKR_SESSION_COUNT: 0x0b1,
  CKR_SESSION_HANDLE_INVALID: 0x0b3,
  CKR_SESSION_READ_ONLY: 0x0b5,
  CKR_SIGNATURE_INVALID: 0x0c0,
  CKR_SIGNATURE_LEN_RANGE: 0x0c1,
  CKR_TEMPLATE_INCOMPLETE: 0x0d0,
  CKR_TEMPLATE_INCONSISTENT: 0x0d1,
  CKR_TOKEN_NOT_PRESENT: 0x0e0,
  CKR_TOKEN_NOT_RECOGNIZED: 0x0e1,
  CKR_UNWRAPPING_KEY_HANDLE_INVALID: 0x0f0,
  CKR_UNWRAPPING_KEY_SIZE_RANGE: 0x0f1,
  CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT: 0x0f2,
  CKR_USER_ALREADY_LOGGED_IN: 0x100,
  CKR_USER_NOT_LOGGED_IN: 0x101,
  CKR_USER_PIN_NOT_INITIALIZED: 0x102,
  CKR_USER_TYPE_INVALID: 0x103,
  CKR_WRAPPED_KEY_INVALID: 0x110,
  CKR_WRAPPED_KEY_LEN_RANGE: 0x112,
  CKR_WRAPPING_KEY_HANDLE_INVALID: 0x113,
  CKR_WRAPPING_KEY_SIZE_RANGE: 0x114,
  CKR_WRAPPING_KEY_TYPE_INCONSISTENT: 0x115,
  CKR_CURVE_NOT_SUPPORTED: 0x140,
  CKR_BUFFER_TOO_SMALL: 0x150,
  CKR_CRYPTOKI_NOT_INITIALIZED: 0x190,
  CKR_CRYPTOKI_ALREADY_INITIALIZED: 0x191,
  CKR_FUNCTION_REJECTED: 0x200,
  CKR_VENDOR_DEFINED: 0x8000_0000,
} as const

const nameTable = (table: Readonly<Record<string, number>>): ReadonlyMap<number, string> =>
  new Map(Object.entries(table).map(([name, number]) => [number, name]))

const names = {
  CKA: nameTable(CKA),
  CKK: nameTable(CKK),
  CKM: nameTable(CKM),
  CKO: nameTable(CKO),
  CKR: nameTable(CKR),
} as const

/** `CKR_DEVICE_ERROR`, or `CKR_0x80000384` for a number that has no name here. */
export function nameOf(table: keyof typeof names, number: number): string {
  return names[table].get(number) ?? `${table}_0x${number.toString(16).padStart(8, '0')}`
}
