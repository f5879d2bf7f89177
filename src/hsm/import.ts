/**
 * Bringing key material into the device: wrapped by RSAES-OAEP, or by a fresh AES key that RSAES-OAEP wraps (the two halves of CKM_RSA_AES_KEY_WRAP,
 * one behind the other: OAEP(AES key) ‖ AES-KWP(material), RFC 5649).
 *
 * The device unwraps: the material is in none of our memory. It does so more than once. First into session objects that
 * live for milliseconds, by which length, curve and public key are checked and the key shows that it works; only what passed becomes a token object.
 * Where a device cannot take the RSA part off by C_UnwrapKey, what RSA protected (the AES key, or what came without one) is unpadded here, goes
 * in by C_CreateObject, is wiped, and the answer says `exposed`.
 */
import { createHash, createPublicKey, randomBytes, verify } from 'node:crypto'
import { keyRows, kindRows, oaepHashes, type KeyPairRow, type KeyRow, type KeyRowName, type SecretKeyRow } from './algorithms.ts'
import { CKA, CKK, CKM, CKO, nameOf } from './constants.ts'
import { encodeEcPoint, encodeEcPublicKey, encodeEdwardsPublicKey, encodeRsaPublicKey, readEcPoint, readEcPrivateKey } from './der.ts'
import { curves, recoverPublicKeys } from './ecdsa-recovery.ts'
import { classify, findDeviceError } from './errors.ts'
import { destroyAll, privateAttributes, publicAttributes, readBack, secretAttributes, type Attributes, type KeyNaming } from './keys.ts'
import type { OaepHash, ProviderProfile } from './profile.ts'
import { cbcMechanism, oaepMechanism, readNumber, type DeviceSession, type Handle } from './session.ts'
import { template, type AttributeName } from './template.ts'
import type { ImportAlgorithm, MacAlgorithm, OaepAlgorithm, TokenKeyKind, TokenObject } from './token.ts'
import { decryptOaep, mac, sign, type OaepWay } from './uses.ts'
import { Rejected, Unsupported } from './wrap.ts'

/** How the RSA part comes off: by C_UnwrapKey in the device, or by decryption, and then it passes through our memory. */
export type UnwrapWay = 'unwrap' | OaepWay

/** What the self-test found this token able to take in. */
export interface ImportWays {
  readonly oaep: Readonly<Partial<Record<OaepAlgorithm, UnwrapWay>>>
  /** AES key wrap with padding works, so that material may come behind an AES key. */
  readonly kwp: boolean
  /** CKK_ numbers of the private keys that it takes behind an AES key. */
  readonly privateTypes: readonly number[]
}

export interface Importer {
  readonly session: DeviceSession
  readonly profile: ProviderProfile
  readonly ways: ImportWays
  /** What follows must not be done twice. */
  commit(): void
}

/** How the RSA part of some material comes off. */
type RsaPart = { readonly way: 'unwrap'; readonly hash: OaepHash } | { readonly way: OaepWay; readonly algorithm: OaepAlgorithm }

/** The OAEP, and whether an AES key is between it and the material. */
export const importRows: Readonly<Record<ImportAlgorithm, { readonly oaep: OaepAlgorithm; readonly behindAes: boolean }>> = {
  RSAES_OAEP_SHA_1: { oaep: 'RSAES_OAEP_SHA_1', behindAes: false },
  RSAES_OAEP_SHA_256: { oaep: 'RSAES_OAEP_SHA_256', behindAes: false },
  RSA_AES_KEY_WRAP_SHA_1: { oaep: 'RSAES_OAEP_SHA_1', behindAes: true },
  RSA_AES_KEY_WRAP_SHA_256: { oaep: 'RSAES_OAEP_SHA_256', behindAes: true },
}

/** Unwrapped as often as it is wanted. */
export interface Material {
  load(attributes: Attributes): Handle
  /** The length where it is known: exactly, or rounded up to the 8 bytes of a block of AES key wrap. */
  readonly bytes?: { readonly exactly: number } | { readonly roundedUp: number }
  readonly exposed: boolean
}

export interface Installed {
  readonly handles: readonly Handle[]
  readonly objects: readonly TokenObject[]
  readonly fingerprint: string
}

const kekBytes = 32

const kekAttributes: Attributes = {
  CKA_CLASS: CKO.CKO_SECRET_KEY,
  CKA_KEY_TYPE: CKK.CKK_AES,
  CKA_TOKEN: false,
  CKA_PRIVATE: true,
  CKA_SENSITIVE: true,
  CKA_EXTRACTABLE: false,
  CKA_ENCRYPT: false,
  CKA_DECRYPT: false,
  CKA_SIGN: false,
  CKA_VERIFY: false,
  CKA_WRAP: false,
  CKA_UNWRAP: false,
  CKA_DERIVE: false,
}

const modulusOf = (session: DeviceSession, key: Handle): Buffer =>
  stripZeros(session.attributes(key, ['CKA_MODULUS'])[0] ?? Buffer.alloc(0))

function stripZeros(number: Buffer): Buffer {
  let start = 0
  while (start < number.length - 1 && number[start] === 0) start += 1
  return number.subarray(start)
}

/**
 * C_UnwrapKey, so that no object that is on the token is ever weaker than `attributes`: a product that ignores some of them gets a session
 * object first, is told again, and copies it to the token.
 */
function unwrapKey(
  { session, profile }: Pick<Importer, 'session' | 'profile'>,
  mechanism: Parameters<DeviceSession['unwrapKey']>[0],
  unwrappingKey: Handle,
  wrapped: Buffer,
  attributes: Attributes,
): Handle {
  const { omit, setAfterUnwrap } = profile.template
  if (setAfterUnwrap.length === 0) return session.unwrapKey(mechanism, unwrappingKey, wrapped, template(attributes, omit))
  const { CKA_MODIFIABLE, ...first } = attributes
  const handle = session.unwrapKey(mechanism, unwrappingKey, wrapped, template({ ...first, CKA_TOKEN: false }, omit))
  try {
    const ignored = Object.entries(attributes).filter(([name]) => setAfterUnwrap.includes(CKA[name as AttributeName]))
    session.setAttributes(handle, template(Object.fromEntries(ignored), omit))
    const last = { CKA_TOKEN: attributes.CKA_TOKEN ?? false, ...(CKA_MODIFIABLE !== undefined && { CKA_MODIFIABLE }) }
    return session.copyObject(handle, template(last, omit))
  } finally {
    session.destroy(handle)
  }
}

/** The material while `use` runs. @throws Rejected for lengths that cannot be; what the device refuses is the device's error */
export function withMaterial<T>(
  importer: Importer,
  wrappingKey: Handle,
  rsa: RsaPart,
  behindAes: boolean,
  wrapped: Buffer,
  use: (material: Material) => T,
): T {
  const { session } = importer
  const modulusBytes = modulusOf(session, wrappingKey).length
  const behind = wrapped.subarray(modulusBytes)
  // RFC 5649 section 4.1: two blocks at least.
  if (behindAes ? behind.length < 16 || behind.length % 8 !== 0 : wrapped.length !== modulusBytes) {
    throw new Rejected(`${wrapped.length} bytes cannot be wrapped for this key so`)
  }
  const byRsa = wrapped.subarray(0, modulusBytes)
  const unwrapByRsa = (hash: OaepHash, attributes: Attributes): Handle =>
    unwrapKey(importer, oaepMechanism(hash), wrappingKey, byRsa, attributes)
  const exposed = rsa.way !== 'unwrap'

  if (!behindAes) {
    if (rsa.way === 'unwrap') return use({ load: (attributes) => unwrapByRsa(rsa.hash, attributes), exposed })
    return withDecrypted(session, wrappingKey, rsa.algorithm, rsa.way, byRsa, (plain) =>
      use({ load: (attributes) => createKey(importer, attributes, plain), bytes: { exactly: plain.length }, exposed }),
    )
  }
  const mechanism = { mechanism: kwpOf(importer) }
  const attributes = { ...kekAttributes, CKA_UNWRAP: true }
  const kek =
    rsa.way === 'unwrap'
      ? unwrapByRsa(rsa.hash, attributes)
      : withDecrypted(session, wrappingKey, rsa.algorithm, rsa.way, byRsa, (plain) => {
          if (plain.length !== kekBytes) throw new Rejected(`an AES key of ${plain.length} bytes`)
          return createKey(importer, attributes, plain)
        })
  try {
    const load = (wanted: Attributes): Handle => unwrapKey(importer, mechanism, kek, behind, wanted)
    return use({ load, bytes: { roundedUp: behind.length - 8 }, exposed })
  } finally {
    destroyAll(session, [kek])
  }
}

function withDecrypted<T>(
  session: DeviceSession,
  wrappingKey: Handle,
  oaep: OaepAlgorithm,
  way: OaepWay,
  ciphertext: Buffer,
  use: (plain: Buffer) => T,
): T {
  const plain = decryptOaep(session, wrappingKey, oaep, way, ciphertext)
  try {
    if (plain.length === 0) throw new Rejected('nothing was wrapped')
    return use(plain)
  } finally {
    plain.fill(0)
  }
}

function kwpOf({ profile, ways }: Importer): number {
  if (profile.kwp === null || !ways.kwp) throw new Unsupported('the token has no AES key wrap with padding')
  return profile.kwp
}

/** What is in our memory for a moment, as an object. EC keys are PKCS#8 there too. */
function createKey({ session, profile }: Importer, attributes: Attributes, value: Buffer): Handle {
  const { omit } = profile.template
  const { CKA_MODIFIABLE, ...first } = attributes
  const last = CKA_MODIFIABLE === undefined ? {} : { CKA_MODIFIABLE }
  if (attributes.CKA_CLASS === CKO.CKO_SECRET_KEY) return session.createObject(template({ ...first, CKA_VALUE: value, ...last }, omit))
  if (attributes.CKA_KEY_TYPE !== CKK.CKK_EC) throw new Unsupported('a private key of this type is taken only behind an AES key')
  const key = readEcPrivateKey(value)
  if (key === undefined) throw new Rejected('not a PKCS#8 of an EC private key')
  return session.createObject(template({ ...first, CKA_EC_PARAMS: key.parameters, CKA_VALUE: key.secret, ...last }, omit))
}

/** Makes the material a key of `kind` on the token, if it is one. */
export function install(
  importer: Importer,
  material: Material,
  kind: TokenKeyKind,
  rows: readonly KeyRowName[],
  naming: KeyNaming,
): Installed {
  const [name, another] = rows
  if (name === undefined) throw new Unsupported(`the token can make no ${kind} key`)
  if (another !== undefined) {
    throw new Unsupported(`a ${kind} key of this token consists of ${rows.length} objects, and material from outside makes one`)
  }
  const row: KeyRow = keyRows[name]
  if (row.shape === 'pair' && !importer.ways.privateTypes.includes(row.keyType)) {
    throw new Unsupported(`the token takes no private keys of type ${nameOf('CKK', row.keyType)} in`)
  }
  const made: Handle[] = []
  try {
    let fingerprint
    if (row.shape === 'secret') {
      fingerprint = examineSecret(importer, material, kind, row)
      importer.commit()
      made.push(material.load(secretAttributes(row, naming)))
    } else {
      const publicKey = examinePair(importer, material, kind, row)
      fingerprint = createHash('sha256').update(publicKey.spki).digest('hex')
      importer.commit()
      // The public half first: whoever finds the private one finds a whole key.
      const { omit } = importer.profile.template
      made.push(importer.session.createObject(template({ ...publicKey.attributes, ...publicAttributes(row, naming) }, omit)))
      made.unshift(material.load(privateAttributes(row, naming)))
    }
    return { handles: made, objects: readBack(importer.session, made, row, naming, importer.profile), fingerprint }
  } catch (error) {
    const isGone = destroyAll(importer.session, made)
    // A refusal says that nothing was made, and who keeps account of the objects forgets this one. Of the device's own errors the caller makes the best.
    if (!isGone && findDeviceError(error) === undefined)
      throw new Error('what was imported in vain is still on the token', { cause: error })
    throw error
  }
}

/** Lends a session object with these attributes, never extractable unless they say so. */
function withTrial<T>({ session }: Importer, material: Material, attributes: Attributes, use: (trial: Handle) => T): T {
  const trial = material.load(attributes)
  try {
    return use(trial)
  } finally {
    destroyAll(session, [trial])
  }
}

const trialNaming: KeyNaming = { token: false, ckaId: Buffer.alloc(0), label: 'holdfast/trial' }

/** What a session object of this row is: identified by nothing. */
function trialAttributes(row: KeyRow): Attributes {
  const { CKA_ID: _, ...attributes } = row.shape === 'secret' ? secretAttributes(row, trialNaming) : privateAttributes(row, trialNaming)
  return attributes
}

/** A key that does not do what one of its kind does. */
function works<T>(use: () => T): T {
  try {
    return use()
  } catch (error) {
    const device = findDeviceError(error)
    const refused =
      device !== undefined && ['caller', 'unsupported'].includes(classify(device.code, false, { authFailed: [], gone: [] }).class)
    throw refused ? new Rejected(`the key does not work: ${device.message}`, { cause: error }) : error
  }
}

const constant = Buffer.from('holdfast: which key this is, v1.')

function refuseOtherLength(length: NonNullable<Material['bytes']>, { bytes }: SecretKeyRow): void {
  const fits = 'exactly' in length ? length.exactly === bytes : length.roundedUp === 8 * Math.ceil(bytes / 8)
  if (!fits) throw new Rejected(`not a key of ${bytes} bytes`)
}

/** Checks the length and answers the fingerprint. */
function examineSecret(importer: Importer, material: Material, kind: TokenKeyKind, row: SecretKeyRow): string {
  const { session } = importer
  if (material.bytes !== undefined) refuseOtherLength(material.bytes, row)
  return withTrial(importer, material, trialAttributes(row), (trial) => {
    refuseOtherLength(lengthOf(importer, material, trial, row), row)
    // A device that tells no exact length refuses an AES key of another one, and a MAC key that is shorter than its hash, when it is used.
    const mark = works(() =>
      row.keyType === CKK.CKK_AES
        ? Buffer.from(session.encrypt(cbcMechanism(Buffer.alloc(16)), trial, constant))
        : mac(session, trial, macAlgorithm(kind), constant),
    )
    return createHash('sha256').update(mark).digest('hex')
  })
}

function macAlgorithm(kind: TokenKeyKind): MacAlgorithm {
  const [algorithm] = kind in kindRows ? kindRows[kind as keyof typeof kindRows].algorithms : []
  if (algorithm === undefined) throw new Unsupported(`a ${kind} key makes no MACs`)
  return algorithm as MacAlgorithm
}

/** What the token says, or what follows from the wrapping, or else what an AES key that nobody knows makes of it. */
function lengthOf(importer: Importer, material: Material, trial: Handle, row: SecretKeyRow): NonNullable<Material['bytes']> {
  const { session, profile } = importer
  const told = readNumber(session.findAttribute(trial, 'CKA_VALUE_LEN'))
  // SoftHSM 2.6.1 says 0 of whatever it unwrapped.
  if (told > 0 && told < 0xffff_ffff) return { exactly: told }
  if (material.bytes !== undefined) return material.bytes
  const mechanism = { mechanism: kwpOf(importer) }
  const meter = session.generateSecret(
    CKM.CKM_AES_KEY_GEN,
    template({ ...kekAttributes, CKA_VALUE_LEN: kekBytes, CKA_WRAP: true }, profile.template.omit),
  )
  try {
    const attributes = { ...trialAttributes({ ...row, usage: [] }), CKA_EXTRACTABLE: true }
    return withTrial(importer, material, attributes, (extractable) => {
      const { length } = session.wrapKey(mechanism, meter, extractable)
      session.wipeScratch(length)
      return { roundedUp: length - 8 }
    })
  } finally {
    destroyAll(session, [meter])
  }
}

interface PublicHalf {
  readonly spki: Buffer
  readonly attributes: Attributes
}

/** Finds the public half and has the key sign for it. */
function examinePair(importer: Importer, material: Material, kind: TokenKeyKind, row: KeyPairRow): PublicHalf {
  const { session } = importer
  if (row.keyType === CKK.CKK_RSA && material.bytes !== undefined) refuseLongRsa(material.bytes, row)
  // A trial signs whatever the key will be for: a signature is what shows the public key.
  return withTrial(importer, material, trialAttributes({ ...row, privateUsage: ['CKA_SIGN'] }), (trial) => {
    if (row.keyType === CKK.CKK_RSA) return examineRsa(session, trial, row)
    if (row.keyType === CKK.CKK_EC) return examineEc(session, trial, row, kind)
    return examineEdwards(session, trial)
  })
}

/**
 * PKCS#8 of an RSA key holds nine halves of the modulus's length, and little else. One that holds more has primes that are none, and with these
 * the device computes for seconds whenever the key is used: nothing in the answer would show it.
 */
function refuseLongRsa(length: NonNullable<Material['bytes']>, { bits }: KeyPairRow): void {
  const bytes = 'exactly' in length ? length.exactly : length.roundedUp
  if (bytes > (5 * bits) / 8 + 128) throw new Rejected(`${bytes} bytes are no RSA key of ${bits} bits`)
}

/** As long as OpenSSL takes it for every modulus. With longer ones whoever encrypts or verifies computes as long as the key's owner. */
const maxExponentBytes = 8

/** RFC 8017 section 3.1: odd, three at least. With 1 every encoded message is its own signature. */
function refuseExponent(exponent: Buffer): void {
  const last = exponent.at(-1) ?? 0
  if (exponent.length > maxExponentBytes || last % 2 === 0 || (exponent.length === 1 && last === 1)) {
    throw new Rejected('not a public exponent of RSA')
  }
}

const wrongSignature = (): Rejected => new Rejected('the private key does not sign for its public key')

function readSpki(spki: Buffer): ReturnType<typeof createPublicKey> {
  try {
    return createPublicKey({ key: spki, format: 'der', type: 'spki' })
  } catch (error) {
    throw new Rejected('not a public key', { cause: error })
  }
}

function examineRsa(session: DeviceSession, trial: Handle, row: KeyPairRow): PublicHalf {
  const modulus = modulusOf(session, trial)
  const told = session.findAttribute(trial, 'CKA_PUBLIC_EXPONENT')
  if (told === undefined || told.length === 0) throw new Unsupported('the token does not tell the public exponent of a private key')
  const exponent = stripZeros(told)
  refuseExponent(exponent)
  if (8 * modulus.length !== row.bits || (modulus[0] ?? 0) < 0x80) throw new Rejected(`not an RSA key of ${row.bits} bits`)
  const spki = encodeRsaPublicKey(modulus, exponent)
  const message = randomBytes(32)
  const signature = works(() => sign(session, trial, 'RSASSA_PKCS1_V1_5_SHA_256', 'message', message))
  if (!verify('sha256', message, readSpki(spki), signature)) throw wrongSignature()
  return { spki, attributes: { CKA_MODULUS: modulus, CKA_PUBLIC_EXPONENT: exponent } }
}

function examineEc(session: DeviceSession, trial: Handle, row: KeyPairRow, kind: TokenKeyKind): PublicHalf {
  const parameters = session.findAttribute(trial, 'CKA_EC_PARAMS') ?? Buffer.alloc(0)
  const wanted = row.parameters.CKA_EC_PARAMS
  if (!Buffer.isBuffer(wanted) || !parameters.equals(wanted)) throw new Rejected('a key of another curve')
  const spec = kind.split(' ', 1)[0] ?? ''
  const curve = curves[spec as keyof typeof curves]
  const signed = (): { message: Buffer; digest: Buffer; signature: Buffer } => {
    const message = randomBytes(32)
    const digest = createHash(curve.hash).update(message).digest()
    return { message, digest, signature: Buffer.from(works(() => session.sign({ mechanism: CKM.CKM_ECDSA }, trial, digest))) }
  }
  const [first, second] = [signed(), signed()]
  const told = session.findAttribute(trial, 'CKA_EC_POINT')
  const candidates = told === undefined || told.length === 0 ? recoverPublicKeys(curve, first.digest, first.signature) : [readEcPoint(told)]
  const proved = (point: Buffer, { message, signature }: { message: Buffer; signature: Buffer }): boolean =>
    verify(curve.hash, message, { key: readSpki(encodeEcPublicKey(parameters, point)), dsaEncoding: 'ieee-p1363' }, signature)
  const point = candidates.find((candidate) => candidate !== undefined && proved(candidate, first) && proved(candidate, second))
  if (point === undefined) throw wrongSignature()
  return { spki: encodeEcPublicKey(parameters, point), attributes: { CKA_EC_PARAMS: parameters, CKA_EC_POINT: encodeEcPoint(point) } }
}

function examineEdwards(session: DeviceSession, trial: Handle): PublicHalf {
  const point = session.findAttribute(trial, 'CKA_EC_POINT')
  // Unlike ECDSA, an Ed25519 signature does not tell its key.
  if (point === undefined || point.length === 0) throw new Unsupported('the token does not tell the public key of an Ed25519 key')
  const spki = encodeEdwardsPublicKey(point)
  const message = randomBytes(32)
  if (
    !verify(
      null,
      message,
      readSpki(spki),
      works(() => sign(session, trial, 'ED25519_SHA_512', 'message', message)),
    )
  )
    throw wrongSignature()
  const parameters = session.findAttribute(trial, 'CKA_EC_PARAMS') ?? Buffer.alloc(0)
  return { spki, attributes: { CKA_EC_PARAMS: parameters, CKA_EC_POINT: point } }
}

export interface ImportRequest {
  readonly kind: TokenKeyKind
  readonly algorithm: ImportAlgorithm
  readonly wrapped: Buffer
  readonly naming: KeyNaming
}

/** @param rows what a key of this kind consists of here */
export function importKey(
  importer: Importer,
  wrappingKey: Handle,
  rows: readonly KeyRowName[],
  { kind, algorithm, wrapped, naming }: ImportRequest,
): Installed & { readonly exposed: boolean } {
  const { oaep, behindAes } = importRows[algorithm]
  const row: KeyRow | undefined = rows[0] && keyRows[rows[0]]
  // AWS, GetParametersForImport: RSA private keys are longer than what RSA encrypts.
  if (row?.keyType === CKK.CKK_RSA && !behindAes) throw new Rejected(`an RSA key does not come by ${algorithm}`)
  const way = importer.ways.oaep[oaep]
  if (way === undefined) throw new Unsupported(`the token unwraps nothing by ${oaep}`)
  const rsa: RsaPart = way === 'unwrap' ? { way, hash: oaepHashes[oaep] } : { way, algorithm: oaep }
  return withMaterial(importer, wrappingKey, rsa, behindAes, wrapped, (material) => ({
    ...install(importer, material, kind, rows, { ...naming, imported: true }),
    exposed: material.exposed,
  }))
}
