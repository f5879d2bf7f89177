/**
 * What KMS keys other than the wrapping ones do in the device: sign, make MACs, decrypt by RSAES-OAEP, agree on a secret. One call of each, for the
 * worker and for the self-test alike; recovery is the worker's.
 *
 * Messages are hashed here: they are no secret, and few products hash more than one message in the way they sign it.
 */
import { createHash, createPublicKey } from 'node:crypto'
import { keyRows, macRows, oaepHashes, signingRows } from './algorithms.ts'
import { CKD_NULL, CKK, CKM, CKO, nameOf, parameterKind } from './constants.ts'
import { encodeEcdsaSignature, encodeEcPublicKey, encodeEdwardsPublicKey, encodeRsaPublicKey, readEcPoint } from './der.ts'
import { unpadOaep } from './oaep.ts'
import type { ProviderProfile } from './profile.ts'
import { oaepMechanism, readNumber, type DeviceSession, type Handle, type KeyObjects } from './session.ts'
import { template } from './template.ts'
import type { MacAlgorithm, OaepAlgorithm, SigningAlgorithm } from './token.ts'
import { Rejected, Untrustworthy } from './wrap.ts'

/** Where the padding of RSAES-OAEP is taken off: by the device, or here, of what the device's raw RSA answers. */
export type OaepWay = 'device' | 'raw'

const empty = Buffer.alloc(0)

/** The first byte of a point in its long form (SEC 1 section 2.3.3). */
const uncompressed = 4

/** What never changes about an object, asked of the device once for each handle. */
interface Facts {
  readonly keyType: number
  /** RSA: the modulus. EC: CKA_EC_PARAMS. */
  readonly defining: Buffer
}
const factsByHandle = new WeakMap<Handle, Facts>()

function factsOf(session: DeviceSession, key: Handle): Facts {
  let facts = factsByHandle.get(key)
  if (facts === undefined) {
    const keyType = readNumber(session.attributes(key, ['CKA_KEY_TYPE'])[0])
    let defining: Buffer = empty
    if (keyType === CKK.CKK_RSA) defining = session.attributes(key, ['CKA_MODULUS'])[0] ?? empty
    else if (keyType === CKK.CKK_EC) defining = session.attributes(key, ['CKA_EC_PARAMS'])[0] ?? empty
    facts = { keyType, defining }
    factsByHandle.set(key, facts)
  }
  return facts
}

function refuseOtherType(facts: Facts, keyType: number, what: string): void {
  if (facts.keyType !== keyType) throw new Rejected(`a key of type ${nameOf('CKK', facts.keyType)} is not used for ${what}`)
}

export function sign(
  session: DeviceSession,
  key: Handle,
  algorithm: SigningAlgorithm,
  form: 'message' | 'digest',
  message: Buffer,
): Buffer {
  const row = signingRows[algorithm]
  refuseOtherType(factsOf(session, key), row.keyType, algorithm)
  let input = message
  if (row.whole === true) {
    if (form === 'digest') throw new Rejected(`${algorithm} signs messages, not digests`)
  } else {
    const digest = form === 'digest' ? message : createHash(row.hash).update(message).digest()
    if (digest.length !== row.digestBytes) throw new Rejected(`a digest of ${digest.length} bytes for ${algorithm}`)
    input = row.prefix.length === 0 ? digest : Buffer.concat([row.prefix, digest])
  }
  const signature = session.sign(row.mechanism, key, input)
  if (signature.length === 0 || (row.rawPair && signature.length % 2 !== 0)) {
    throw new Untrustworthy(`the device answered a signature of ${signature.length} bytes`)
  }
  return row.rawPair ? encodeEcdsaSignature(signature) : Buffer.from(signature)
}

export function mac(session: DeviceSession, key: Handle, algorithm: MacAlgorithm, message: Buffer): Buffer {
  const row = macRows[algorithm]
  const made = Buffer.from(session.sign(row.mechanism, key, message))
  if (made.length !== row.bytes) throw new Untrustworthy(`the device answered a MAC of ${made.length} bytes`)
  return made
}

/** The answer is secret: the caller wipes it. */
export function decryptOaep(session: DeviceSession, key: Handle, algorithm: OaepAlgorithm, way: OaepWay, ciphertext: Buffer): Buffer {
  const facts = factsOf(session, key)
  refuseOtherType(facts, CKK.CKK_RSA, algorithm)
  const modulus = stripZeros(facts.defining)
  // Neither length nor size of a ciphertext is a secret (RFC 8017 section 7.1.2 step 1, section 5.1.2).
  if (ciphertext.length !== modulus.length || ciphertext.compare(modulus) >= 0) throw new Rejected('not a ciphertext of this key')
  const hash = oaepHashes[algorithm]
  if (way === 'device') {
    const output = session.decrypt(oaepMechanism(hash), key, ciphertext)
    const plaintext = Buffer.allocUnsafeSlow(output.length)
    output.copy(plaintext)
    session.wipeScratch(modulus.length)
    return plaintext
  }
  const output = session.decrypt({ mechanism: CKM.CKM_RSA_X_509 }, key, ciphertext)
  const block = Buffer.alloc(modulus.length)
  try {
    if (output.length > block.length) throw new Untrustworthy(`raw RSA answered ${output.length} bytes`)
    // A product that answers a number, not a block, leaves its leading zeros out.
    output.copy(block, block.length - output.length)
    return unpadOaep(block, hash)
  } finally {
    block.fill(0)
    session.wipeScratch(modulus.length)
  }
}

function stripZeros(number: Buffer): Buffer {
  let start = 0
  while (start < number.length - 1 && number[start] === 0) start += 1
  return number.subarray(start)
}

/** The curves of key agreement by their CKA_EC_PARAMS, hex: node:crypto's name and the bytes of a coordinate. */
const curves: ReadonlyMap<string, { readonly name: string; readonly bytes: number }> = new Map(
  [
    [keyRows['ec-p256'].parameters.CKA_EC_PARAMS, { name: 'prime256v1', bytes: 32 }],
    [keyRows['ec-p384'].parameters.CKA_EC_PARAMS, { name: 'secp384r1', bytes: 48 }],
    [keyRows['ec-p521'].parameters.CKA_EC_PARAMS, { name: 'secp521r1', bytes: 66 }],
  ].map(([parameters, curve]) => [(parameters as Buffer).toString('hex'), curve as { name: string; bytes: number }]),
)

/** The answer is secret: the caller wipes it. */
export function deriveSecret(session: DeviceSession, key: Handle, publicKey: Buffer, profile: Pick<ProviderProfile, 'template'>): Buffer {
  const facts = factsOf(session, key)
  refuseOtherType(facts, CKK.CKK_EC, 'key agreement')
  const curve = curves.get(facts.defining.toString('hex'))
  if (curve === undefined) throw new Rejected('keys of this curve do not agree on secrets here')
  const publicData = readPeerPoint(publicKey, facts.defining, curve)
  const mechanism = { mechanism: CKM.CKM_ECDH1_DERIVE, parameter: { type: parameterKind.ecdh, kdf: CKD_NULL, publicData } }
  const attributes = {
    CKA_CLASS: CKO.CKO_SECRET_KEY,
    CKA_KEY_TYPE: CKK.CKK_GENERIC_SECRET,
    CKA_VALUE_LEN: curve.bytes,
    CKA_TOKEN: false,
    // The shared secret is the answer: it must be readable, once.
    CKA_SENSITIVE: false,
    CKA_EXTRACTABLE: true,
  }
  const secret = session.derive(mechanism, key, template(attributes, profile.template.omit))
  try {
    const [value = empty] = session.attributes(secret, ['CKA_VALUE'])
    const whole = Buffer.alloc(curve.bytes)
    // Some products leave leading zeros out.
    value.copy(whole, Math.max(0, curve.bytes - value.length))
    value.fill(0)
    if (value.length === 0 || value.length > curve.bytes) {
      whole.fill(0)
      throw new Untrustworthy(`the device answered a secret of ${value.length} bytes`)
    }
    return whole
  } finally {
    session.destroy(secret)
  }
}

/**
 * The point in another party's SubjectPublicKeyInfo. A point that is not on the curve would make the device tell about its key. So nothing but the one
 * DER encoding of an uncompressed point of this very curve goes on, and OpenSSL checks that it satisfies the equation. It is shown nothing
 * else: node:crypto aborts the process when it is asked for the coordinates of the point at infinity.
 */
function readPeerPoint(spki: Buffer, parameters: Buffer, curve: { readonly name: string; readonly bytes: number }): Buffer {
  const pointBytes = 1 + 2 * curve.bytes
  const form = encodeEcPublicKey(parameters, Buffer.concat([Buffer.of(uncompressed), Buffer.alloc(2 * curve.bytes)]))
  const head = form.subarray(0, form.length - pointBytes + 1)
  if (spki.length !== form.length || !spki.subarray(0, head.length).equals(head))
    throw new Rejected(`not a public key of the curve ${curve.name} in DER`)
  try {
    createPublicKey({ key: spki, format: 'der', type: 'spki' })
  } catch (error) {
    throw new Rejected('not a point of the curve', { cause: error })
  }
  return Buffer.from(spki.subarray(form.length - pointBytes))
}

/** SubjectPublicKeyInfo, DER. @returns undefined when the object that tells it is not there */
export function publicKeyOf(session: DeviceSession, keys: KeyObjects): Buffer | undefined {
  // A private EC object has no point on some tokens: it is asked of the public one.
  const { publicKey } = keys
  if (publicKey === undefined) return undefined
  const { keyType } = factsOf(session, publicKey)
  if (keyType === CKK.CKK_RSA) {
    const [modulus = empty, exponent = empty] = session.attributes(publicKey, ['CKA_MODULUS', 'CKA_PUBLIC_EXPONENT'])
    return encodeRsaPublicKey(modulus, exponent)
  }
  if (keyType === CKK.CKK_EC) {
    const [parameters = empty, told = empty] = session.attributes(publicKey, ['CKA_EC_PARAMS', 'CKA_EC_POINT'])
    const point = readEcPoint(told)
    if (point === undefined) throw new Untrustworthy(`the device told a public key of ${told.length} bytes, which is no uncompressed point`)
    return encodeEcPublicKey(parameters, point)
  }
  if (keyType === CKK.CKK_EC_EDWARDS) return encodeEdwardsPublicKey(session.attributes(publicKey, ['CKA_EC_POINT'])[0] ?? empty)
  throw new Rejected(`a public key of type ${nameOf('CKK', keyType)} cannot be encoded here`)
}
