/**
 * The five ways in which a key in the device protects bytes for the outside, behind one interface. What they make is
 * stored for ever, so each layout below is final; a change is a new scheme with a new number.
 *
 * `aad` is whatever the caller wants authenticated (0…12288 bytes), `n` the length of the plaintext (1…4300).
 *
 *   gcm-iv-in, gcm-iv-back     1 | L = 12        | AES-256-GCM in the device: the caller's bytes and its
 *   gcm-iv-tail                1 | L = 16        | `aad` exactly as given
 *                              L | IV
 *                              n | ciphertext
 *                             16 | tag                                                      n = 32: 61 or 65 bytes
 *
 *   cbc-hmac                  16 | IV            | AES-256-CBC in the device, no padding, over the inner key
 *                             32 | ciphertext of the inner key
 *                             32 | MAC           | HMAC-SHA-256 in the device over
 *                                                |   "holdfast cbc-hmac" ‖ SHA-256(aad) ‖ IV ‖ ciphertext
 *                             12 | nonce, n | ciphertext, 16 | tag   (see below)             n = 32: 140 bytes
 *
 *   rsa-oaep                   1 | hash: 1 SHA-1, 2 SHA-224, 3 SHA-256, 4 SHA-384, 5 SHA-512; MGF1 with the same; no label
 *                              2 | k, length of the modulus, big-endian
 *                              k | RSAES-OAEP of the inner key
 *                             12 | nonce, n | ciphertext, 16 | tag   (see below)             n = 32: 319 bytes
 *
 * In the last two the device protects a 32 byte inner key that it drew itself and that serves one body. The plaintext
 * is encrypted with it here by AES-256-GCM, with all bytes of the body before the nonce, followed by `aad`, as
 * additional data. The inner key is wiped before the call returns.
 *
 * Any failure to unwrap throws the device's error or `Rejected`; the caller makes one and the same answer of all.
 */
import { createCipheriv, createDecipheriv, createHash } from 'node:crypto'
import { oaepRows } from './algorithms.ts'
import { oaepHashNames, type OaepHash } from './profile.ts'
import { cbcMechanism, gcmMechanism, hmacMechanism, oaepMechanism, type DeviceSession, type KeyObjects } from './session.ts'
import { wrapSchemes, type WrapScheme } from './token.ts'

export const maxPlaintextBytes = 4096
/** What `wrap` takes: a proxy of AWS's external key stores must take this much, everything else is content with less. */
export const maxWrapBytes = 4300
export const maxAadBytes = 12_288
/** Above the longest body: rsa-oaep with a modulus of 16384 bits. */
export const maxBodyBytes = maxWrapBytes + 4096

/** The body was not made by this scheme under this key for this `aad`. */
export class Rejected extends Error {
  override readonly name = 'Rejected'
}

/** The device broke its promise in a way that makes a body unsafe to hand out. */
export class Untrustworthy extends Error {
  override readonly name = 'Untrustworthy'
}

/** The token has no way to do it. */
export class Unsupported extends Error {
  override readonly name = 'Unsupported'
}

/** What a scheme works with. */
export interface WrapDevice {
  readonly session: DeviceSession
  /** Fresh bytes from the device, each handed out once. The caller wipes what is secret. */
  random(bytes: number): Buffer
  readonly oaepHash: OaepHash
}

interface Scheme {
  /** The objects that must be under the key's CKA_ID. */
  readonly needs: readonly (keyof KeyObjects)[]
  wrap(device: WrapDevice, keys: KeyObjects, aad: Buffer, plaintext: Buffer): Buffer
  unwrap(device: WrapDevice, keys: KeyObjects, aad: Buffer, body: Buffer): Buffer
}

const tagBytes = 16
const innerKeyBytes = 32
const innerNonceBytes = 12

function gcmScheme(
  ivBytes: 12 | 16,
  encrypt: (device: WrapDevice, key: Buffer, aad: Buffer, plaintext: Buffer, body: Buffer) => void,
): Scheme {
  return {
    needs: ['aes'],
    wrap(device, keys, aad, plaintext) {
      const body = Buffer.allocUnsafe(1 + ivBytes + plaintext.length + tagBytes)
      body[0] = ivBytes
      encrypt(device, held(keys.aes), aad, plaintext, body)
      return body
    },
    unwrap(device, keys, aad, body) {
      if (body.length < 1 + ivBytes + 1 + tagBytes || body[0] !== ivBytes) throw new Rejected('not a GCM body of this scheme')
      const iv = body.subarray(1, 1 + ivBytes)
      const output = device.session.decrypt(gcmMechanism(iv, aad), held(keys.aes), body.subarray(1 + ivBytes))
      return taken(device.session, output)
    },
  }
}

/** Takes a secret out of the session's scratch and leaves nothing there. */
function taken(session: DeviceSession, scratch: Buffer): Buffer {
  const copy = Buffer.allocUnsafeSlow(scratch.length)
  scratch.copy(copy)
  session.wipeScratch(scratch.length + 32)
  return copy
}

/** The caller has made sure that the object is there (`needs`). */
function held(handle: Buffer | undefined): Buffer {
  if (handle === undefined) throw new Error('a scheme was used without its key object')
  return handle
}

function putOutput(body: Buffer, at: number, output: Buffer): void {
  if (output.length !== body.length - at) throw new Untrustworthy(`the device answered ${output.length} bytes for ${body.length - at}`)
  output.copy(body, at)
}

function encryptInner(innerKey: Buffer, prefix: Buffer, aad: Buffer, nonce: Buffer, plaintext: Buffer): Buffer {
  const cipher = createCipheriv('aes-256-gcm', innerKey, nonce, { authTagLength: tagBytes })
  cipher.setAAD(Buffer.concat([prefix, aad]))
  return Buffer.concat([prefix, nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()])
}

function decryptInner(innerKey: Buffer, prefix: Buffer, aad: Buffer, sealed: Buffer): Buffer {
  const end = sealed.length - tagBytes
  const decipher = createDecipheriv('aes-256-gcm', innerKey, sealed.subarray(0, innerNonceBytes), { authTagLength: tagBytes })
  decipher.setAAD(Buffer.concat([prefix, aad]))
  decipher.setAuthTag(sealed.subarray(end))
  const plaintext = decipher.update(sealed.subarray(innerNonceBytes, end))
  try {
    decipher.final()
  } catch (error) {
    plaintext.fill(0)
    throw new Rejected('the inner tag does not fit', { cause: error })
  }
  return plaintext
}

const minSealedBytes = innerNonceBytes + 1 + tagBytes

const macLabel = Buffer.from('holdfast cbc-hmac')

function macInput(aad: Buffer, ivAndCiphertext: Buffer): Buffer {
  return Buffer.concat([macLabel, createHash('sha256').update(aad).digest(), ivAndCiphertext])
}

const cbcBytes = 16 + innerKeyBytes
const macBytes = 32

const oaepById: ReadonlyMap<number, OaepHash> = new Map(oaepHashNames.map((name) => [oaepRows[name].id, name]))

export const schemes: Readonly<Record<WrapScheme, Scheme>> = {
  'gcm-iv-in': gcmScheme(12, (device, key, aad, plaintext, body) => {
    const iv = device.random(12)
    iv.copy(body, 1)
    putOutput(body, 13, device.session.encrypt(gcmMechanism(iv, aad), key, plaintext))
  }),

  'gcm-iv-back': gcmScheme(12, (device, key, aad, plaintext, body) => {
    // The device writes its IV into this buffer, some at Init and some at the end: it is read after both.
    const iv = Buffer.alloc(12)
    const output = device.session.encrypt(gcmMechanism(iv, aad), key, plaintext)
    if (iv.every((byte) => byte === 0)) throw new Untrustworthy('the device encrypted without giving its IV back')
    iv.copy(body, 1)
    putOutput(body, 13, output)
  }),

  'gcm-iv-tail': gcmScheme(16, (device, key, aad, plaintext, body) => {
    const output = device.session.encrypt(gcmMechanism(Buffer.alloc(0), aad), key, plaintext)
    const end = plaintext.length + tagBytes
    if (output.length !== end + 16) throw new Untrustworthy('the device did not append its IV')
    output.copy(body, 1, end)
    output.copy(body, 17, 0, end)
  }),

  'cbc-hmac': {
    needs: ['aes', 'mac'],
    wrap(device, keys, aad, plaintext) {
      const iv = device.random(16)
      const innerKey = device.random(innerKeyBytes)
      try {
        const ciphertext = device.session.encrypt(cbcMechanism(iv), held(keys.aes), innerKey)
        if (ciphertext.length !== innerKeyBytes) throw new Untrustworthy('the device padded where it must not')
        const head = Buffer.concat([iv, ciphertext])
        const mac = device.session.sign(hmacMechanism, held(keys.mac), macInput(aad, head))
        if (mac.length !== macBytes) throw new Untrustworthy('the device made a MAC of another length')
        return encryptInner(innerKey, Buffer.concat([head, mac]), aad, device.random(innerNonceBytes), plaintext)
      } finally {
        innerKey.fill(0)
      }
    },
    unwrap(device, keys, aad, body) {
      if (body.length < cbcBytes + macBytes + minSealedBytes) throw new Rejected('too short')
      const head = body.subarray(0, cbcBytes)
      // Nothing is decrypted before the MAC was found good.
      device.session.verify(hmacMechanism, held(keys.mac), macInput(aad, head), body.subarray(cbcBytes, cbcBytes + macBytes))
      const innerKey = taken(device.session, device.session.decrypt(cbcMechanism(head.subarray(0, 16)), held(keys.aes), head.subarray(16)))
      try {
        if (innerKey.length !== innerKeyBytes) throw new Rejected('not an inner key')
        return decryptInner(innerKey, body.subarray(0, cbcBytes + macBytes), aad, body.subarray(cbcBytes + macBytes))
      } finally {
        innerKey.fill(0)
      }
    },
  },

  'rsa-oaep': {
    needs: ['privateKey', 'publicKey'],
    wrap(device, keys, aad, plaintext) {
      const innerKey = device.random(innerKeyBytes)
      try {
        const publicKey = held(keys.publicKey)
        const modulusBytes = device.session.modulusBytes(publicKey)
        const ciphertext = device.session.encrypt(oaepMechanism(device.oaepHash), publicKey, innerKey, modulusBytes)
        if (ciphertext.length !== modulusBytes) throw new Untrustworthy('the device answered less than a modulus')
        const prefix = Buffer.allocUnsafe(3 + ciphertext.length)
        prefix[0] = oaepRows[device.oaepHash].id
        prefix.writeUInt16BE(ciphertext.length, 1)
        ciphertext.copy(prefix, 3)
        return encryptInner(innerKey, prefix, aad, device.random(innerNonceBytes), plaintext)
      } finally {
        innerKey.fill(0)
      }
    },
    unwrap(device, keys, aad, body) {
      const hash = oaepById.get(body[0] ?? 0)
      if (hash === undefined || body.length < 3) throw new Rejected('not an OAEP body')
      const end = 3 + body.readUInt16BE(1)
      if (end <= 3 || body.length < end + minSealedBytes) throw new Rejected('too short')
      const innerKey = taken(device.session, device.session.decrypt(oaepMechanism(hash), held(keys.privateKey), body.subarray(3, end)))
      try {
        if (innerKey.length !== innerKeyBytes) throw new Rejected('not an inner key')
        return decryptInner(innerKey, body.subarray(0, end), aad, body.subarray(end))
      } finally {
        innerKey.fill(0)
      }
    },
  },
}

export const schemeNames = Object.keys(wrapSchemes) as readonly WrapScheme[]

/** The scheme of this number, undefined if there is none. */
export function findScheme(number: number): WrapScheme | undefined {
  return schemeNames.find((name) => wrapSchemes[name] === number)
}

/** Whether the objects that the scheme needs are there. */
export function canUse(scheme: WrapScheme, keys: KeyObjects): boolean {
  return schemes[scheme].needs.every((place) => keys[place] !== undefined)
}

/** The scheme for a new body: the preferred one if the key's objects serve it, else the first that they do serve. */
export function findUsableScheme(preferred: readonly WrapScheme[], keys: KeyObjects): WrapScheme | undefined {
  return preferred.find((scheme) => canUse(scheme, keys))
}
