/**
 * What the device's return codes mean, as data, and how a code is got out of what the binding throws.
 *
 * A code alone says little: CKR_GENERAL_ERROR is a bad tag, a bad blob or a vanished token on one and the same product.
 * So a code is judged together with what was being done, and the doubtful ones are confirmed by real crypto on the
 * canary key before anything is declared dead (see `worker.ts`).
 */
import { CKR, nameOf } from './constants.ts'

/** What to do about an error; the one list that recovery switches on. */
export type ErrorClass =
  /** The input is bad. Answer it; the session stays. */
  | 'caller'
  /** The object handle is no longer valid. Look for the object once more. */
  | 'stale'
  /** The session is lost or stuck in an operation. Open another, repeat once. */
  | 'session'
  /** The login is lost. Log in on the anchor session, repeat once. */
  | 'login'
  /** The PIN is wrong, locked or expired. Stop for good: every further try may destroy the token's keys. */
  | 'pin'
  /** Out of sessions or memory. Answer busy, use fewer sessions. */
  | 'busy'
  /** The device has no such mechanism, curve or size. */
  | 'unsupported'
  /** The device or the library is in trouble. Confirm by the canary; if that fails, a new agent process. */
  | 'gone'

const C = CKR

/** One row per class, by code. Codes in no row are `gone`: what is not understood is confirmed by the canary. */
export const errorClasses: Readonly<Record<Exclude<ErrorClass, 'gone'>, readonly number[]>> = {
  caller: [
    C.CKR_DATA_INVALID,
    C.CKR_DATA_LEN_RANGE,
    C.CKR_ENCRYPTED_DATA_INVALID,
    C.CKR_ENCRYPTED_DATA_LEN_RANGE,
    C.CKR_SIGNATURE_INVALID,
    C.CKR_SIGNATURE_LEN_RANGE,
    C.CKR_KEY_FUNCTION_NOT_PERMITTED,
    C.CKR_WRAPPED_KEY_INVALID,
    C.CKR_WRAPPED_KEY_LEN_RANGE,
  ],
  stale: [C.CKR_OBJECT_HANDLE_INVALID, C.CKR_KEY_HANDLE_INVALID, C.CKR_WRAPPING_KEY_HANDLE_INVALID, C.CKR_UNWRAPPING_KEY_HANDLE_INVALID],
  session: [
    C.CKR_SESSION_HANDLE_INVALID,
    C.CKR_SESSION_CLOSED,
    C.CKR_OPERATION_ACTIVE,
    C.CKR_OPERATION_NOT_INITIALIZED,
    C.CKR_BUFFER_TOO_SMALL,
  ],
  login: [C.CKR_USER_NOT_LOGGED_IN],
  pin: [C.CKR_PIN_INCORRECT, C.CKR_PIN_INVALID, C.CKR_PIN_LEN_RANGE, C.CKR_PIN_EXPIRED, C.CKR_PIN_LOCKED, C.CKR_USER_PIN_NOT_INITIALIZED],
  busy: [C.CKR_SESSION_COUNT, C.CKR_DEVICE_MEMORY, C.CKR_HOST_MEMORY, C.CKR_FUNCTION_REJECTED],
  unsupported: [
    C.CKR_MECHANISM_INVALID,
    C.CKR_MECHANISM_PARAM_INVALID,
    C.CKR_FUNCTION_NOT_SUPPORTED,
    C.CKR_CURVE_NOT_SUPPORTED,
    C.CKR_KEY_SIZE_RANGE,
    C.CKR_KEY_TYPE_INCONSISTENT,
    C.CKR_ATTRIBUTE_TYPE_INVALID,
    C.CKR_ATTRIBUTE_VALUE_INVALID,
    C.CKR_ATTRIBUTE_READ_ONLY,
    C.CKR_TEMPLATE_INCOMPLETE,
    C.CKR_TEMPLATE_INCONSISTENT,
    C.CKR_ARGUMENTS_BAD,
    C.CKR_ACTION_PROHIBITED,
    C.CKR_KEY_NOT_WRAPPABLE,
    C.CKR_KEY_UNEXTRACTABLE,
    C.CKR_WRAPPING_KEY_SIZE_RANGE,
    C.CKR_WRAPPING_KEY_TYPE_INCONSISTENT,
    C.CKR_UNWRAPPING_KEY_SIZE_RANGE,
    C.CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT,
  ],
}

const classByCode: ReadonlyMap<number, ErrorClass> = new Map(
  Object.entries(errorClasses).flatMap(([name, codes]) => codes.map((code): [number, ErrorClass] => [code, name as ErrorClass])),
)

/** Codes that some product uses for a bad ciphertext and another, or the same, for a dead device. */
const ambiguousCodes: ReadonlySet<number> = new Set([C.CKR_GENERAL_ERROR, C.CKR_FUNCTION_FAILED, C.CKR_DEVICE_ERROR, C.CKR_ARGUMENTS_BAD])

/**
 * Codes by which some product refuses to unwrap key material that is not what its template says: SoftHSM 2.6.1 answers
 * CKR_GENERAL_ERROR for a bad blob and CKR_FUNCTION_FAILED for a good one that holds no PKCS#8 of that type.
 */
export const materialRefused: readonly number[] = [
  C.CKR_GENERAL_ERROR,
  C.CKR_FUNCTION_FAILED,
  C.CKR_ARGUMENTS_BAD,
  C.CKR_ATTRIBUTE_VALUE_INVALID,
  C.CKR_KEY_SIZE_RANGE,
  C.CKR_KEY_TYPE_INCONSISTENT,
  C.CKR_CURVE_NOT_SUPPORTED,
  C.CKR_TEMPLATE_INCONSISTENT,
]

/** How this product and this token deviate from the table. */
export interface ErrorDialect {
  /** Codes that mean "bad input" when a ciphertext or MAC is checked: the profile's and what the self-test saw. */
  readonly authFailed: readonly number[]
  /** Codes that mean "gone" here whatever the table says. */
  readonly gone: readonly number[]
}

export interface Verdict {
  readonly class: ErrorClass
  /** The same code can also mean a dead device: answer only after the canary worked. */
  readonly confirm: boolean
}

/**
 * @param checksInput the call decrypts, unwraps or verifies what a caller handed in
 */
export function classify(code: number, checksInput: boolean, dialect: ErrorDialect): Verdict {
  if (checksInput && dialect.authFailed.includes(code)) {
    return { class: 'caller', confirm: ambiguousCodes.has(code) || dialect.gone.includes(code) }
  }
  if (dialect.gone.includes(code)) return { class: 'gone', confirm: true }
  return { class: classByCode.get(code) ?? 'gone', confirm: false }
}

/** An error of the device, normalised: the number, its name and the call it came from. */
export class DeviceError extends Error {
  override readonly name = 'DeviceError'
  readonly code: number
  /** `CKR_…` */
  readonly codeName: string
  /** `C_Encrypt`, …; empty where the binding does not say. */
  readonly call: string
  constructor(code: number, call: string, options?: ErrorOptions) {
    super(`${call === '' ? 'the device' : call} answered ${nameOf('CKR', code)}`, options)
    this.code = code
    this.codeName = nameOf('CKR', code)
    this.call = call
  }
}

/**
 * The device's error in what a call to the binding threw, undefined if it is none (a TypeError for a bad argument, say,
 * which is a mistake of ours). Most calls throw an error with a numeric `code`; C_FindObjects, C_CreateObject,
 * C_CopyObject and C_SetAttributeValue only have it in their text, as "CKR_X:179".
 */
export function findDeviceError(error: unknown): DeviceError | undefined {
  if (error instanceof DeviceError) return error
  if (!(error instanceof Error)) return undefined
  const { code, method } = error as { code?: unknown; method?: unknown }
  const call = typeof method === 'string' ? method : ''
  if (typeof code === 'number' && code > 0) return new DeviceError(code, call, { cause: error })
  const inText = /CKR_\w+:(\d+)/.exec(error.message)?.[1]
  return inText === undefined ? undefined : new DeviceError(Number(inText), call, { cause: error })
}
