/**
 * One PKCS#11 session and what is done with it: the only file that makes calls on a session.
 *
 * Every call is synchronous and runs in a thread of the agent process; the binding's asynchronous forms leak and read
 * freed memory. Answers that are called "scratch" live in one buffer per session and are gone with the next call.
 *
 * Refuses empty input before the call: SoftHSM 2.6.1 answers it with an error and leaves the session in the middle of
 * the operation. An operation that failed between Init and end leaves `doubtful` set, and the owner reopens.
 */
import { PKCS11, type Attribute, type Mechanism } from 'pkcs11js'
import { CKA, CKF, CKK, CKM, CKO, CKR, CKS_USER_FUNCTIONS, CKZ_DATA_SPECIFIED, nameOf, parameterKind } from './constants.ts'
import { oaepRows } from './algorithms.ts'
import { DeviceError, findDeviceError } from './errors.ts'
import type { OaepHash } from './profile.ts'
import { template, type AttributeName } from './template.ts'
import type { TokenObject } from './token.ts'
import { noTurns, type TakeTurn } from './turns.ts'

export type Handle = Buffer

/** The largest answer of one call: 4300 bytes of plaintext, a 16 byte tag, a 16 byte IV behind it, and room. */
const scratchBytes = 8192

/** How many handles one native C_FindObjects answers. */
const findBatch = 256

export class DeviceSession {
  readonly #library: PKCS11
  readonly #slot: Handle
  readonly #turn: TakeTurn
  #session: Handle
  readonly #scratch = Buffer.allocUnsafeSlow(scratchBytes)
  /** An operation may still be active in the session: it has to be replaced before it is used again. */
  doubtful = false

  private constructor(library: PKCS11, slot: Handle, session: Handle, turn: TakeTurn) {
    this.#library = library
    this.#slot = slot
    this.#turn = turn
    this.#session = session
  }

  /** Always read-write: some products refuse read-only sessions altogether. */
  static open(library: PKCS11, slot: Handle, turn: TakeTurn = noTurns): DeviceSession {
    return new DeviceSession(library, slot, library.C_OpenSession(slot, CKF.CKF_SERIAL_SESSION | CKF.CKF_RW_SESSION), turn)
  }

  /**
   * A new native session in place of this one, which may be dead already. Opened before the old one is closed: with the
   * last session of a process goes its login. Only when the device has none left the other way round.
   */
  reopen(): void {
    const open = (): Handle => this.#library.C_OpenSession(this.#slot, CKF.CKF_SERIAL_SESSION | CKF.CKF_RW_SESSION)
    let fresh: Handle | undefined
    try {
      fresh = open()
    } catch (error) {
      if (findDeviceError(error)?.code !== CKR.CKR_SESSION_COUNT) throw error
    }
    this.close()
    this.#session = fresh ?? open()
    this.doubtful = false
  }

  /** Closes the session if it is open still. Never throws. */
  close(): void {
    try {
      this.#library.C_CloseSession(this.#session)
    } catch (error) {
      // What a dead session answers to being closed changes nothing; anything that is no device's answer is a bug.
      if (findDeviceError(error) === undefined) throw error
    }
  }

  /** The device's own statement that this session's user is logged in. */
  loggedIn(): boolean {
    return CKS_USER_FUNCTIONS.includes(this.#library.C_GetSessionInfo(this.#session).state)
  }

  login(userType: number, pin: string): void {
    this.#library.C_Login(this.#session, userType, pin)
  }

  logout(): void {
    this.#library.C_Logout(this.#session)
  }

  /** Fills the whole of `target`, in pieces of at most `pieceBytes`. */
  random(target: Buffer, pieceBytes: number): void {
    for (let at = 0; at < target.length; at += pieceBytes) {
      this.#library.C_GenerateRandom(this.#session, target.subarray(at, Math.min(at + pieceBytes, target.length)))
    }
  }

  /**
   * Scratch.
   *
   * @param outputBytes the length of the answer where it is known: tpm2-pkcs11 1.9 says that it filled all the room it
   *   was given when it encrypts with a public key
   */
  encrypt(mechanism: Mechanism, key: Handle, input: Buffer, outputBytes = scratchBytes): Buffer {
    refuseEmpty(input)
    this.doubtful = true
    this.#library.C_EncryptInit(this.#session, mechanism, key)
    const output = this.#library.C_Encrypt(this.#session, input, this.#scratch.subarray(0, outputBytes))
    this.doubtful = false
    return output
  }

  /** Scratch. */
  decrypt(mechanism: Mechanism, key: Handle, input: Buffer): Buffer {
    refuseEmpty(input)
    this.doubtful = true
    this.#library.C_DecryptInit(this.#session, mechanism, key)
    const output = this.#library.C_Decrypt(this.#session, input, this.#scratch)
    this.doubtful = false
    return output
  }

  /** Scratch. */
  sign(mechanism: Mechanism, key: Handle, input: Buffer): Buffer {
    refuseEmpty(input)
    this.doubtful = true
    this.#library.C_SignInit(this.#session, mechanism, key)
    const output = this.#library.C_Sign(this.#session, input, this.#scratch)
    this.doubtful = false
    return output
  }

  /** Throws when the signature or MAC does not fit, as every failure of a call does. */
  verify(mechanism: Mechanism, key: Handle, input: Buffer, signature: Buffer): void {
    refuseEmpty(input)
    refuseEmpty(signature)
    this.doubtful = true
    this.#library.C_VerifyInit(this.#session, mechanism, key)
    if (!this.#library.C_Verify(this.#session, input, signature)) throw new DeviceError(CKR.CKR_SIGNATURE_INVALID, 'C_Verify')
    this.doubtful = false
  }

  /** Wipes what the last answer left behind: called after anything secret. */
  wipeScratch(bytes: number): void {
    this.#scratch.fill(0, 0, bytes)
  }

  generateSecret(mechanism: number, attributes: Attribute[]): Handle {
    return this.#make(attributes, () => this.#library.C_GenerateKey(this.#session, { mechanism }, attributes))
  }

  generatePair(
    mechanism: number,
    publicAttributes: Attribute[],
    privateAttributes: Attribute[],
  ): { publicKey: Handle; privateKey: Handle } {
    return this.#make(privateAttributes, () =>
      this.#library.C_GenerateKeyPair(this.#session, { mechanism }, publicAttributes, privateAttributes),
    )
  }

  derive(mechanism: Mechanism, key: Handle, attributes: Attribute[]): Handle {
    return this.#make(attributes, () => this.#library.C_DeriveKey(this.#session, mechanism, key, attributes))
  }

  unwrapKey(mechanism: Mechanism, unwrappingKey: Handle, wrapped: Buffer, attributes: Attribute[]): Handle {
    refuseEmpty(wrapped)
    return this.#make(attributes, () => this.#library.C_UnwrapKey(this.#session, mechanism, unwrappingKey, wrapped, attributes))
  }

  /** Scratch. */
  wrapKey(mechanism: Mechanism, wrappingKey: Handle, key: Handle): Buffer {
    return this.#library.C_WrapKey(this.#session, mechanism, wrappingKey, key, this.#scratch)
  }

  createObject(attributes: Attribute[]): Handle {
    return this.#make(attributes, () => this.#library.C_CreateObject(this.#session, attributes))
  }

  copyObject(object: Handle, changes: Attribute[]): Handle {
    return this.#make(changes, () => this.#library.C_CopyObject(this.#session, object, changes))
  }

  setAttributes(object: Handle, changes: Attribute[]): void {
    this.#library.C_SetAttributeValue(this.#session, object, changes)
  }

  destroy(object: Handle): void {
    this.#library.C_DestroyObject(this.#session, object)
  }

  /** A session object is in this session's memory only, and in nobody's way. */
  #make<T>(attributes: readonly Attribute[], make: () => T): T {
    return attributes.some(({ type, value }) => type === CKA.CKA_TOKEN && value === true) ? this.#turn('create', make) : make()
  }

  /** All objects that fit. Finding none is what a token also answers when nobody is logged in, or when it is gone. */
  find(attributes: Attribute[]): Handle[] {
    return this.#turn('search', () => this.#find(attributes))
  }

  #find(attributes: Attribute[]): Handle[] {
    const found: Handle[] = []
    this.doubtful = true
    this.#library.C_FindObjectsInit(this.#session, attributes)
    for (;;) {
      const handles = this.#library.C_FindObjects(this.#session, findBatch)
      found.push(...handles)
      if (handles.length === 0) break
    }
    this.#library.C_FindObjectsFinal(this.#session)
    this.doubtful = false
    return found
  }

  findById(ckaId: Buffer, label?: string): Handle[] {
    return this.find(template(label === undefined ? { CKA_ID: ckaId } : { CKA_ID: ckaId, CKA_LABEL: label }))
  }

  /** Attributes in the order asked for. The device refuses the call as a whole when it refuses one of them. */
  attributes(object: Handle, names: readonly AttributeName[]): Buffer[] {
    const asked = names.map((name) => ({ type: CKA[name] }))
    return this.#library.C_GetAttributeValue(this.#session, object, asked).map((answer) => answer.value)
  }

  /** One attribute, or undefined where the object has none, or keeps it to itself. Other errors are thrown. */
  findAttribute(object: Handle, name: AttributeName): Buffer | undefined {
    try {
      return this.attributes(object, [name])[0]
    } catch (error) {
      const refused: readonly number[] = [
        CKR.CKR_ATTRIBUTE_TYPE_INVALID,
        CKR.CKR_ATTRIBUTE_SENSITIVE,
        CKR.CKR_ATTRIBUTE_VALUE_INVALID,
        CKR.CKR_FUNCTION_FAILED,
      ]
      if (refused.includes(findDeviceError(error)?.code ?? -1)) return undefined
      throw error
    }
  }

  /** The object as the token describes it now. */
  describe(object: Handle): TokenObject {
    const identity = this.attributes(object, ['CKA_CLASS', 'CKA_KEY_TYPE', 'CKA_ID', 'CKA_LABEL'])
    const objectClass = readNumber(identity[0])
    const described = [...describedAlways, ...(describedByClass.get(objectClass) ?? [])]
    const attributes = this.#readAll(object, described)
    return {
      ckaId: identity[2]?.toString('hex') ?? '',
      label: identity[3]?.toString('utf8') ?? '',
      objectClass: nameOf('CKO', objectClass),
      keyType: nameOf('CKK', readNumber(identity[1])),
      // What may leave the device says to whom.
      attributes:
        attributes['CKA_EXTRACTABLE'] === true ? { ...attributes, ...this.#readAll(object, ['CKA_WRAP_WITH_TRUSTED']) } : attributes,
    }
  }

  #readAll(object: Handle, names: readonly AttributeName[]): TokenObject['attributes'] {
    let values: readonly (Buffer | undefined)[]
    try {
      values = this.attributes(object, names)
    } catch (error) {
      if (findDeviceError(error) === undefined) throw error
      // One of them is refused: ask for each by itself.
      values = names.map((name) => this.findAttribute(object, name))
    }
    return Object.fromEntries(names.map((name, index) => [name, readValue(name, values[index])]))
  }

  readonly #modulusBytes = new WeakMap<Handle, number>()

  /** The length of an RSA public key's modulus, asked of the device once for each handle. */
  modulusBytes(publicKey: Handle): number {
    let bytes = this.#modulusBytes.get(publicKey)
    if (bytes === undefined) {
      bytes = this.attributes(publicKey, ['CKA_MODULUS'])[0]?.length ?? 0
      this.#modulusBytes.set(publicKey, bytes)
    }
    return bytes
  }

  /** Class and key type, for the handle cache. */
  kind(object: Handle): { readonly objectClass: number; readonly keyType: number; readonly ckaId: Buffer } {
    const [objectClass, keyType, ckaId] = this.attributes(object, ['CKA_CLASS', 'CKA_KEY_TYPE', 'CKA_ID'])
    return { objectClass: readNumber(objectClass), keyType: readNumber(keyType), ckaId: ckaId ?? Buffer.alloc(0) }
  }
}

const describedAlways: readonly AttributeName[] = ['CKA_TOKEN', 'CKA_PRIVATE', 'CKA_MODIFIABLE', 'CKA_LOCAL', 'CKA_DERIVE']

const protective: readonly AttributeName[] = ['CKA_SENSITIVE', 'CKA_EXTRACTABLE', 'CKA_ALWAYS_SENSITIVE', 'CKA_NEVER_EXTRACTABLE']

const describedByClass: ReadonlyMap<number, readonly AttributeName[]> = new Map([
  [
    CKO.CKO_SECRET_KEY,
    [
      ...protective,
      'CKA_ENCRYPT',
      'CKA_DECRYPT',
      'CKA_SIGN',
      'CKA_VERIFY',
      'CKA_WRAP',
      'CKA_UNWRAP',
      'CKA_VALUE_LEN',
      'CKA_KEY_GEN_MECHANISM',
    ],
  ],
  [CKO.CKO_PRIVATE_KEY, [...protective, 'CKA_DECRYPT', 'CKA_SIGN', 'CKA_SIGN_RECOVER', 'CKA_UNWRAP', 'CKA_KEY_GEN_MECHANISM']],
  [CKO.CKO_PUBLIC_KEY, ['CKA_ENCRYPT', 'CKA_VERIFY', 'CKA_VERIFY_RECOVER', 'CKA_WRAP']],
])

const numericAttributes: ReadonlySet<AttributeName> = new Set(['CKA_VALUE_LEN', 'CKA_MODULUS_BITS'])

function readValue(name: AttributeName, value: Buffer | undefined): boolean | number | string | undefined {
  if (value === undefined || value.length === 0) return undefined
  if (numericAttributes.has(name)) return readNumber(value)
  if (name === 'CKA_KEY_GEN_MECHANISM') return nameOf('CKM', readNumber(value))
  return value[0] !== 0
}

/** A CK_ULONG as this machine stores it; all numbers of PKCS#11 fit in 32 bits. */
export function readNumber(value: Buffer | undefined): number {
  return value === undefined || value.length < 4 ? 0xffff_ffff : value.readUInt32LE(0)
}

function refuseEmpty(input: Buffer): void {
  if (input.length === 0) throw new RangeError('empty input must not reach the device')
}

/**
 * AES-GCM. The buffers must stay reachable until the operation has ended: the device keeps pointers into them, and
 * some write the IV they chose into `iv`.
 */
export function gcmMechanism(iv: Buffer, aad: Buffer): Mechanism {
  const parameter =
    aad.length > 0
      ? { type: parameterKind.gcm, iv, ivBits: iv.length * 8, tagBits: 128, aad }
      : { type: parameterKind.gcm, iv, ivBits: iv.length * 8, tagBits: 128 }
  return { mechanism: CKM.CKM_AES_GCM, parameter }
}

export function cbcMechanism(iv: Buffer): Mechanism {
  return { mechanism: CKM.CKM_AES_CBC, parameter: iv }
}

/** RSAES-OAEP with an empty label: several products refuse any other. */
export function oaepMechanism(hash: OaepHash): Mechanism {
  const row = oaepRows[hash]
  const parameter = { type: parameterKind.oaep, hashAlg: row.hash, mgf: row.mgf, source: CKZ_DATA_SPECIFIED }
  return { mechanism: CKM.CKM_RSA_PKCS_OAEP, parameter }
}

export const hmacMechanism: Mechanism = { mechanism: CKM.CKM_SHA256_HMAC }

/** The objects under one CKA_ID, by what they are for. */
export interface KeyObjects {
  readonly aes: Handle | undefined
  /** A secret key that is not AES: it makes MACs. */
  readonly mac: Handle | undefined
  readonly privateKey: Handle | undefined
  readonly publicKey: Handle | undefined
}

export const noObjects: KeyObjects = { aes: undefined, mac: undefined, privateKey: undefined, publicKey: undefined }

/** Which place an object of this class and type has. Of two that compete the first is kept: the order must not matter to a blob. */
export function placeOf(objectClass: number, keyType: number): keyof KeyObjects | undefined {
  if (objectClass === CKO.CKO_SECRET_KEY) return keyType === CKK.CKK_AES ? 'aes' : 'mac'
  if (objectClass === CKO.CKO_PRIVATE_KEY) return 'privateKey'
  if (objectClass === CKO.CKO_PUBLIC_KEY) return 'publicKey'
  return undefined
}
