/**
 * What passes between the service's process and the worker threads of the agent: frames, many per write. Each worker reads requests from a socket of its
 * own. All of them write their answers to one pipe, so that the service reads at once whatever is there; those of one worker come in the order of its
 * requests. No I/O here.
 *
 * Request                                      Answer
 *   0  u32  bytes that follow this field         0  u32  bytes that follow this field
 *   4  u32  id                                   4  u32  id
 *   8  u8   operation                            8  u8   status, 0 = done
 *   9  u8   wrap scheme, algorithm or kind, or 0 9  u8   wrap scheme or signature algorithm, or 0
 *  10  u16  length of ckaId                     10  u8   1: the agent cannot go on and must be replaced
 *                                               11  u8   which worker answers
 *  12  u32  length of aad                       12  u32  microseconds it took
 *  16  f64  by when it must have begun          16  data; unless done, JSON { message, code }
 *  24  ckaId (hex text), aad, data
 *
 * The time is in milliseconds of the machine's own clock that runs since it started (CLOCK_MONOTONIC), the same for all processes: nobody waits any
 * more for a call that has not begun by then, and what it left in the device nobody would clear away.
 *
 * Little-endian: both ends are one machine. A pipe was measured against the IPC channel with a worker's message port
 * behind it: 2.3 µs of processor time per call for both ends together against 4.3 µs (one buffer per batch) and 10.7 µs (objects).
 */
import { kindRows, macRows, oaepHashes, signingRows } from './algorithms.ts'
import type { MacAlgorithm, OaepAlgorithm, SignatureAlgorithm, SigningAlgorithm, TokenFailure, TokenKeyKind } from './token.ts'

export const operations = {
  wrap: 1,
  unwrap: 2,
  random: 3,
  sign: 4,
  publicKey: 5,
  check: 6,
  generateKey: 7,
  destroyKey: 8,
  objects: 9,
  allObjects: 10,
  signMessage: 11,
  decryptOaep: 12,
  mac: 13,
  deriveSharedSecret: 14,
  importKey: 15,
  exportKey: 16,
  adoptKey: 17,
  transportKey: 18,
} as const
export type Operation = keyof typeof operations

const operationByNumber: readonly (Operation | undefined)[] = Array.from({ length: Object.keys(operations).length + 1 }, (_, number) =>
  (Object.keys(operations) as Operation[]).find((name) => operations[name] === number),
)

/** In the byte `scheme` of a request: what is to be made, or by which algorithm. Only of one version's two ends. */
export const keyKindNumbers: readonly TokenKeyKind[] = ['wrapping', 'signing', ...(Object.keys(kindRows) as (keyof typeof kindRows)[])]
export const macNumbers = Object.keys(macRows) as readonly MacAlgorithm[]
export const oaepNumbers = Object.keys(oaepHashes) as readonly OaepAlgorithm[]
/** The even ones sign a message, the odd ones its digest. */
export const signingNumbers: readonly (readonly [SigningAlgorithm, 'message' | 'digest'])[] = (
  Object.keys(signingRows) as SigningAlgorithm[]
).flatMap((algorithm) => [[algorithm, 'message'] as const, [algorithm, 'digest'] as const])

/** Failures by their number on the wire; 0 is success. */
export const statuses: readonly (TokenFailure | undefined)[] = [undefined, 'rejected', 'missing', 'busy', 'unavailable', 'unsupported']

/** Signature algorithms by their number on the wire. */
export const signatureNumbers: readonly (SignatureAlgorithm | undefined)[] = [undefined, 'ECDSA_SHA_256', 'RSASSA_PKCS1_V1_5_SHA_256']

/** Of an answer. */
export const headerBytes = 16
const requestHeaderBytes = 24

const clockOffsetMs = Number(process.hrtime.bigint()) / 1e6 - performance.now()
/** The machine's clock that `due` is told by, for a time of `performance.now()` in this thread. */
export const machineMs = (ownMs: number): number => ownMs + clockOffsetMs

/** No frame is longer: a worker refuses what would not fit its buffer. */
export const maxFrameBytes = 64 * 1024 * 1024

const nothing = Buffer.alloc(0)

export interface Request {
  readonly id: number
  readonly operation: Operation
  readonly scheme: number
  /** By the machine's clock, in ms: it must not begin later. */
  readonly dueMs: number
  readonly ckaId: string
  readonly aad: Uint8Array
  readonly data: Uint8Array
}

export function requestBytes(request: Pick<Request, 'ckaId' | 'aad' | 'data'>): number {
  return requestHeaderBytes + request.ckaId.length + request.aad.length + request.data.length
}

/** Answers where the next frame begins. `target` has room. */
export function encodeRequest(request: Request, target: Buffer, at: number): number {
  const { ckaId, aad, data } = request
  target.writeUInt32LE(requestBytes(request) - 4, at)
  target.writeUInt32LE(request.id, at + 4)
  target[at + 8] = operations[request.operation]
  target[at + 9] = request.scheme
  target.writeUInt16LE(ckaId.length, at + 10)
  target.writeUInt32LE(aad.length, at + 12)
  target.writeDoubleLE(request.dueMs, at + 16)
  let end = at + requestHeaderBytes
  end += target.write(ckaId, end, 'latin1')
  target.set(aad, end)
  end += aad.length
  target.set(data, end)
  return end + data.length
}

const lengthBytes = 4

/** Of the frame that begins at `at`: all its bytes, or those that say how many they are. @throws RangeError for a frame that cannot be */
export function wantedBytes(buffer: Buffer, at: number, end: number): number {
  if (end - at < lengthBytes) return lengthBytes
  const bytes = lengthBytes + buffer.readUInt32LE(at)
  if (bytes < headerBytes || bytes > maxFrameBytes) throw new RangeError(`a frame of ${bytes} bytes`)
  return bytes
}

/** The bytes of the frame that begins at `at`, undefined while they are not all there. */
export function findFrame(buffer: Buffer, at: number, end: number): number | undefined {
  const bytes = wantedBytes(buffer, at, end)
  return bytes === lengthBytes || end - at < bytes ? undefined : bytes
}

/** Views into `buffer`, not copies. */
export function parseRequest(buffer: Buffer, at: number, bytes: number): Request & { readonly aad: Buffer; readonly data: Buffer } {
  const operation = operationByNumber[buffer[at + 8] ?? 0]
  if (bytes < requestHeaderBytes) throw new RangeError('not a request')
  const aadAt = at + requestHeaderBytes + buffer.readUInt16LE(at + 10)
  const dataAt = aadAt + buffer.readUInt32LE(at + 12)
  if (operation === undefined || dataAt > at + bytes) throw new RangeError('not a request')
  return {
    id: buffer.readUInt32LE(at + 4),
    operation,
    scheme: buffer[at + 9] ?? 0,
    dueMs: buffer.readDoubleLE(at + 16),
    ckaId: buffer.toString('latin1', at + requestHeaderBytes, aadAt),
    aad: aadAt === dataAt ? nothing : buffer.subarray(aadAt, dataAt),
    data: buffer.subarray(dataAt, at + bytes),
  }
}

export interface AnswerHead {
  readonly id: number
  readonly worker: number
  readonly failure: TokenFailure | undefined
  readonly number: number
  readonly fatal: boolean
  readonly microseconds: number
}

export function encodeAnswer(head: AnswerHead, data: Buffer, target: Buffer, at: number): number {
  target.writeUInt32LE(headerBytes - 4 + data.length, at)
  target.writeUInt32LE(head.id, at + 4)
  target[at + 8] = statuses.indexOf(head.failure)
  target[at + 9] = head.number
  target[at + 10] = head.fatal ? 1 : 0
  target[at + 11] = head.worker
  target.writeUInt32LE(head.microseconds, at + 12)
  return at + headerBytes + data.copy(target, at + headerBytes)
}

export function parseAnswerHead(buffer: Buffer, at: number): AnswerHead {
  return {
    id: buffer.readUInt32LE(at + 4),
    worker: buffer[at + 11] ?? 0,
    failure: statuses[buffer[at + 8] ?? 0],
    number: buffer[at + 9] ?? 0,
    fatal: buffer[at + 10] === 1,
    microseconds: buffer.readUInt32LE(at + 12),
  }
}

/** What the service tells the agent's main thread over the IPC channel, as JSON. To end an agent its sockets are ended. */
export interface ToAgent {
  readonly type: 'start'
  readonly config: AgentConfig
  /** What an earlier agent sent as `proof`. */
  readonly proof: unknown
}

export interface AgentConfig {
  readonly library: string
  readonly profile: string | null
  readonly tokenLabel: string
  readonly tokenSerial: string | null
  readonly pinFile: string | null
  /** The PIN itself, where it is in no file: this channel is a pipe between the two processes. */
  readonly pin: string | null
  readonly sessions: number | null
  readonly provision: boolean
  /** The environment the operator set for this process; the profile's wishes must not override it. */
  readonly setEnv: readonly string[]
  /** File descriptors: `lifeline` is only ever read to its end, answers go to `answers`, and workers read requests from one each from `firstSocket`. */
  readonly lifeline: number
  readonly answers: number
  readonly firstSocket: number
  readonly sockets: number
}

export type FromAgent =
  | { readonly type: 'log'; readonly level: 'info' | 'warn' | 'error'; readonly message: string; readonly fields: Record<string, unknown> }
  /** Logged in and proved. Workers follow. */
  | { readonly type: 'ready'; readonly info: unknown; readonly proof: unknown; readonly workers: number }
  | { readonly type: 'worker'; readonly index: number }
  /** This agent will not become ready or cannot stay so; it ends. */
  | {
      readonly type: 'failed'
      readonly cause: FailureCause
      readonly message: string
      readonly code: string | undefined
      readonly env: Record<string, string>
    }

/**
 * `pin`: never try again before an operator did something. `config`: no retry will help either, but none does harm.
 * `env`: start again at once with these variables. `device`: try again later.
 */
export type FailureCause = 'pin' | 'config' | 'env' | 'device'
