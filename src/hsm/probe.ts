/**
 * The self-test: what the token really does, found by doing it with throw-away keys.
 *
 * Mechanism lists and their flags lie in both directions, and the code by which a product says "bad tag" is in no data
 * sheet. So every scheme and key spec is tried, each ciphertext is also corrupted, and the codes that come back are
 * remembered. Keys are session objects where the token allows it, and destroyed in any case.
 *
 * Runs once per start of the service, not at every respawn of the agent: key pairs are slow on some devices.
 */
import {
  constants,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  publicEncrypt,
  randomBytes,
  verify,
  type KeyObject,
} from 'node:crypto'
import type { PKCS11 } from 'pkcs11js'
import {
  keyRows,
  kindRows,
  macKinds,
  macRows,
  oaepHashes,
  signingKinds,
  signingRows,
  type KeyRowName,
  type KindRow,
  type KmsKind,
} from './algorithms.ts'
import { verifyEd25519ph } from '../base/ed25519ph.ts'
import { CKM, CKR, nameOf } from './constants.ts'
import { classify, findDeviceError } from './errors.ts'
import { proveImports } from './import-proof.ts'
import type { ImportWays } from './import.ts'
import { destroyAll, makeKey, sortObjects, Unprotected } from './keys.ts'
import type { ProviderProfile } from './profile.ts'
import { noObjects, type DeviceSession, type Handle, type KeyObjects } from './session.ts'
import {
  wrapSchemes,
  type Capabilities,
  type MacAlgorithm,
  type OaepAlgorithm,
  type SigningAlgorithm,
  type TokenAlgorithm,
  type TokenKeyKind,
  type WrapScheme,
} from './token.ts'
import { decryptOaep, deriveSecret, mac, publicKeyOf, sign, type OaepWay } from './uses.ts'
import { Rejected, schemeNames, schemes, Unsupported, Untrustworthy, type WrapDevice } from './wrap.ts'

/** What the self-test found; handed to every later agent of the same token. Plain data. */
export interface Proof {
  readonly capabilities: Capabilities
  /** Codes by which this token refused a changed ciphertext. */
  readonly authFailed: readonly number[]
  /** The rows of the objects that a key of each kind consists of. */
  readonly rows: Readonly<Partial<Record<TokenKeyKind, readonly KeyRowName[]>>>
  readonly oaepWays: Readonly<Partial<Record<OaepAlgorithm, OaepWay>>>
  readonly importWays: ImportWays
}

type Probe = Capabilities['probes'][number]

const selfTestLabel = 'holdfast/self-test'

/** The device did something wrong in a self-test. */
class Failed extends Error {}

function fail(message: string): never {
  throw new Failed(message)
}

interface Bench {
  readonly session: DeviceSession
  readonly profile: ProviderProfile
  readonly device: WrapDevice
  readonly keys: ThrowAwayKeys
  readonly token: boolean
}

/** Throw-away keys. Each is made once and lent to whatever wants such a one: RSA keys take their time. */
class ThrowAwayKeys {
  readonly #session: DeviceSession
  readonly #profile: ProviderProfile
  readonly #ckaId: Buffer
  readonly #made = new Map<string, { readonly keys: KeyObjects; readonly handles: readonly Handle[] }>()

  constructor(session: DeviceSession, profile: ProviderProfile) {
    this.#session = session
    this.#profile = profile
    this.#ckaId = Buffer.from(randomBytes(profile.keyIdBytes))
  }

  /** One that may leave the device under a trusted key. @throws what the device answers, or Unprotected, where it makes no such key */
  lendReplicable(token: boolean): void {
    const naming = { token, ckaId: this.#ckaId, label: selfTestLabel, replicable: true }
    const { handles } = makeKey(this.#session, ['aes-256'], naming, this.#profile)
    this.#made.set(`${token} replicable`, { keys: noObjects, handles })
  }

  lend(rows: readonly KeyRowName[], token: boolean): KeyObjects {
    const name = `${token} ${rows.join()}`
    let made = this.#made.get(name)
    if (made === undefined) {
      const standIn = this.#findStandIn(rows, token)
      if (standIn !== undefined) return standIn
      const { handles } = makeKey(this.#session, rows, { token, ckaId: this.#ckaId, label: selfTestLabel }, this.#profile)
      made = { keys: noObjects, handles }
      this.#made.set(name, made)
      made = { keys: sortObjects(this.#session, handles), handles }
      this.#made.set(name, made)
    }
    return made.keys
  }

  /** A key that can do more than the wanted one, where the token makes such: it is needed anyhow, and RSA keys take their time. */
  #findStandIn(rows: readonly KeyRowName[], token: boolean): KeyObjects | undefined {
    if (rows.join() !== 'rsa-2048-decrypt') return undefined
    try {
      return this.lend(['rsa-2048-import'], token)
    } catch (error) {
      if (findDeviceError(error) === undefined && !(error instanceof Unprotected)) throw error
      return undefined
    }
  }

  destroy(): void {
    for (const { handles } of this.#made.values()) destroyAll(this.#session, handles)
    this.#made.clear()
  }
}

/** The key rows each scheme's objects are generated from; alternatives, best first. */
const rowsOfScheme: Readonly<Record<WrapScheme, readonly (readonly KeyRowName[])[]>> = {
  'gcm-iv-in': [['aes-256']],
  'gcm-iv-back': [['aes-256']],
  'gcm-iv-tail': [['aes-256']],
  'cbc-hmac': macKinds.map((mac) => ['aes-256', mac] as const),
  'rsa-oaep': [['rsa-2048-decrypt']],
}

/** The mechanisms without which a scheme need not be tried. */
const schemeMechanisms: Readonly<Record<WrapScheme, readonly number[]>> = {
  'gcm-iv-in': [CKM.CKM_AES_KEY_GEN, CKM.CKM_AES_GCM],
  'gcm-iv-back': [CKM.CKM_AES_KEY_GEN, CKM.CKM_AES_GCM],
  'gcm-iv-tail': [CKM.CKM_AES_KEY_GEN, CKM.CKM_AES_GCM],
  'cbc-hmac': [CKM.CKM_AES_KEY_GEN, CKM.CKM_AES_CBC, CKM.CKM_GENERIC_SECRET_KEY_GEN, CKM.CKM_SHA256_HMAC],
  'rsa-oaep': [CKM.CKM_RSA_PKCS_KEY_PAIR_GEN, CKM.CKM_RSA_PKCS_OAEP],
}

/** One round trip, then changed copies, each of which must be refused; answers the codes of the refusals. */
function proveScheme(bench: Bench, scheme: WrapScheme, keys: KeyObjects): readonly number[] {
  const aad = randomBytes(100)
  const plaintext = randomBytes(32)
  const body = schemes[scheme].wrap(bench.device, keys, aad, plaintext)
  if (!schemes[scheme].unwrap(bench.device, keys, aad, body).equals(plaintext)) fail('did not get back what went in')
  const second = schemes[scheme].wrap(bench.device, keys, aad, plaintext)
  if (second.equals(body)) fail('gave the same ciphertext twice')

  const codes = new Set<number>()
  const mustRefuse = (changedAad: Buffer, changedBody: Buffer): void => {
    let accepted = true
    try {
      schemes[scheme].unwrap(bench.device, keys, changedAad, changedBody)
    } catch (error) {
      accepted = false
      const code = findDeviceError(error)?.code
      // The refusal before this one left its operation active: this says nothing about the input.
      if (code === CKR.CKR_OPERATION_ACTIVE) throw error
      if (code !== undefined) codes.add(code)
      else if (!(error instanceof Rejected)) throw error
      // A session key would not outlive its session: then the next call tells whether the operation has ended.
      if (bench.session.doubtful && bench.token) bench.session.reopen()
      bench.session.doubtful = false
    }
    if (accepted) fail('accepted what was changed')
  }
  const flipped = (buffer: Buffer, at: number): Buffer => {
    const copy = Buffer.from(buffer)
    copy[at] = (copy[at] ?? 0) ^ 1
    return copy
  }
  mustRefuse(aad, flipped(body, body.length - 1))
  mustRefuse(aad, flipped(body, 20))
  mustRefuse(flipped(aad, 0), body)
  return [...codes]
}

/** What keys of a kind are made of here, and what they can do. */
interface ProvedKind {
  readonly rows: readonly KeyRowName[]
  readonly algorithms: readonly TokenAlgorithm[]
  /** What is to be said of that. */
  readonly notes: readonly string[]
}

/** One way in which an algorithm may work here. */
interface Way {
  readonly mechanism: number
  readonly oaep?: readonly [OaepAlgorithm, OaepWay]
  prove(bench: Bench, keys: KeyObjects): void
}

const held = (key: Handle | undefined): Handle => key ?? fail('the token does not show the key that it made')

function readPublicKey(session: DeviceSession, keys: KeyObjects): KeyObject {
  const der = publicKeyOf(session, keys) ?? fail('the token shows no public key')
  try {
    return createPublicKey({ key: der, format: 'der', type: 'spki' })
  } catch {
    return fail('the token tells a public key that cannot be read')
  }
}

/** Real inputs, and the answer held against another implementation. */
function waysOf(algorithm: TokenAlgorithm, profile: ProviderProfile): readonly Way[] {
  if (isNameOf(signingRows, algorithm)) {
    return [{ mechanism: signingRows[algorithm].mechanism.mechanism, prove: (bench, keys) => proveSigning(bench.session, keys, algorithm) }]
  }
  if (isNameOf(macRows, algorithm)) {
    return [
      { mechanism: macRows[algorithm].mechanism.mechanism, prove: (bench, keys) => proveMac(bench.session, held(keys.mac), algorithm) },
    ]
  }
  if (algorithm === 'ECDH') {
    return profile.ecdhRawZ ? [{ mechanism: CKM.CKM_ECDH1_DERIVE, prove: (bench, keys) => proveAgreement(bench, keys) }] : []
  }
  const way = (name: OaepWay, mechanism: number): Way => ({
    mechanism,
    oaep: [algorithm, name],
    prove: (bench, keys) => proveOaep(bench.session, keys, algorithm, name),
  })
  const inDevice = profile.oaepHashes.includes(oaepHashes[algorithm])
  return [...(inDevice ? [way('device', CKM.CKM_RSA_PKCS_OAEP)] : []), ...(profile.rawFallback ? [way('raw', CKM.CKM_RSA_X_509)] : [])]
}

const isNameOf = <T extends object>(table: T, name: string): name is Extract<keyof T, string> => Object.hasOwn(table, name)

function proveSigning(session: DeviceSession, keys: KeyObjects, algorithm: SigningAlgorithm): void {
  const publicKey = readPublicKey(session, keys)
  const message = randomBytes(signingRows[algorithm].digestBytes)
  const signature = sign(session, held(keys.privateKey), algorithm, algorithm === 'ED25519_PH_SHA_512' ? 'digest' : 'message', message)
  if (algorithm === 'ED25519_PH_SHA_512') {
    if (verify(null, message, publicKey, signature)) fail('the token ignores that the message is a digest')
    const point = publicKey.export({ format: 'der', type: 'spki' }).subarray(-32)
    if (!verifyEd25519ph(point, message, signature)) fail(`made a wrong ${algorithm} signature`)
    return
  }
  const { hash, whole = false, digestBytes } = signingRows[algorithm]
  const padding = algorithm.startsWith('RSASSA_PSS') ? { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: digestBytes } : {}
  if (!verify(whole ? null : hash, message, { key: publicKey, ...padding }, signature)) fail(`made a wrong ${algorithm} signature`)
}

function proveMac(session: DeviceSession, key: Handle, algorithm: MacAlgorithm): void {
  const message = randomBytes(100)
  const made = mac(session, key, algorithm, message)
  if (!mac(session, key, algorithm, message).equals(made)) fail('made two MACs of one message')
  message[0] = (message[0] ?? 0) ^ 1
  if (mac(session, key, algorithm, message).equals(made)) fail('made one MAC of two messages')
}

function proveOaep(session: DeviceSession, keys: KeyObjects, algorithm: OaepAlgorithm, way: OaepWay): void {
  const key = { key: readPublicKey(session, keys), padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: oaepHashes[algorithm] }
  const plaintext = randomBytes(32)
  const decrypted = decryptOaep(session, held(keys.privateKey), algorithm, way, publicEncrypt(key, plaintext))
  if (!decrypted.equals(plaintext)) fail('did not get back what went in')
}

function proveAgreement({ session, profile }: Bench, keys: KeyObjects): void {
  const publicKey = readPublicKey(session, keys)
  const { namedCurve = '' } = publicKey.asymmetricKeyDetails ?? {}
  const peer = generateKeyPairSync('ec', { namedCurve })
  const secret = deriveSecret(session, held(keys.privateKey), peer.publicKey.export({ format: 'der', type: 'spki' }), profile)
  if (!secret.equals(diffieHellman({ privateKey: peer.privateKey, publicKey }))) fail('agreed on another secret')
}

/** Whether the session is as good as before: the device said no to one call, or it is we who were not content. */
function leavesSession(error: unknown): boolean {
  const device = findDeviceError(error)
  if (device === undefined) return true
  const { class: errorClass } = classify(device.code, false, { authFailed: [], gone: [] })
  return errorClass === 'unsupported' || errorClass === 'caller'
}

function describeFailure(error: unknown): string {
  const device = findDeviceError(error)
  if (device !== undefined) return device.message
  if ([Failed, Rejected, Unsupported, Untrustworthy, Unprotected].some((expected) => error instanceof expected))
    return (error as Error).message
  throw error
}

/**
 * Tries everything this program can use.
 *
 * @param session nothing else uses it meanwhile
 * @param alive throws when the device no longer does real crypto: a failure then says nothing about what it can do
 */
export function proveToken(
  library: PKCS11,
  slot: Handle,
  session: DeviceSession,
  profile: ProviderProfile,
  random: (bytes: number) => Buffer,
  alive: () => void,
): Proof {
  const mechanisms = new Set(library.C_GetMechanismList(slot))
  const probes: Probe[] = []
  const device: WrapDevice = { session, random, oaepHash: profile.oaepHash }
  const keys = new ThrowAwayKeys(session, profile)
  const bench: Bench = { session, profile, device, keys, token: false }

  /** What has worked with session objects: its failures have other reasons. */
  const inSession = new Set<number | string>()

  /**
   * Runs one probe; answers what it answered, or why it failed.
   * @param made what stands for how its objects come into the token; by default the first mechanism that it needs
   */
  const attempt = <T>(
    needs: readonly number[],
    probe: (bench: Bench) => T,
    made: number | string | undefined = needs[0],
  ): { readonly result: T } | { readonly detail: string } => {
    const lacking = needs.find((mechanism) => !mechanisms.has(mechanism))
    if (lacking !== undefined) return { detail: `the token lists no ${nameOf('CKM', lacking)}` }
    let detail = ''
    // Some tokens know no session objects for keys: there the throw-away key is a token object for a moment. Those that know them would say the same
    // again, and SoftHSM takes the longer to destroy a token object the more there are; only what may have gone wrong by chance has a second try.
    const isKnown = made !== undefined && inSession.has(made)
    for (const token of [false, !isKnown]) {
      try {
        const result = probe({ ...bench, token })
        if (!token && made !== undefined) inSession.add(made)
        return { result }
      } catch (error) {
        const found = describeFailure(error)
        if (!token) detail = found
        const isPlain = !session.doubtful && leavesSession(error)
        if (!isPlain) {
          // Its keys end with the session.
          keys.destroy()
          session.reopen()
        }
        alive()
        if (isKnown && isPlain) break
      }
    }
    return { detail }
  }

  const authFailed = new Set<number>()
  const rowsByScheme = new Map<WrapScheme, readonly KeyRowName[]>()
  for (const scheme of schemeNames) {
    const secret = scheme !== 'rsa-oaep'
    if (secret && !profile.generate) {
      probes.push({ name: scheme, passed: false, detail: 'the token cannot generate secret keys' })
      continue
    }
    const tried = attempt(schemeMechanisms[scheme], (current) => {
      let last: unknown
      for (const alternative of rowsOfScheme[scheme]) {
        try {
          for (const code of proveScheme(current, scheme, keys.lend(alternative, current.token))) authFailed.add(code)
          return alternative
        } catch (error) {
          last = error
        }
      }
      throw last
    })
    if ('detail' in tried) probes.push({ name: scheme, passed: false, detail: tried.detail })
    else {
      probes.push({ name: scheme, passed: true, detail: 'wraps, unwraps, refuses what was changed' })
      rowsByScheme.set(scheme, tried.result)
    }
  }

  const oaepWays: Partial<Record<OaepAlgorithm, OaepWay>> = {}
  const algorithms = new Set<TokenAlgorithm>()
  const kinds = new Map<KmsKind, ProvedKind>()

  /** The first of the row's alternatives that can do anything, and what it can do. */
  const proveKind = (row: KindRow): ProvedKind | string => {
    let refusal = ''
    for (const key of row.keys) {
      const { generate, shape } = keyRows[key]
      if (shape === 'secret' && !profile.generate) return 'the token cannot generate secret keys'
      const passed: TokenAlgorithm[] = []
      const notes: string[] = []
      for (const algorithm of row.algorithms) {
        const failures: string[] = []
        for (const way of waysOf(algorithm, profile)) {
          const tried = attempt([generate, way.mechanism], (current) => way.prove(current, keys.lend([key], current.token)))
          if ('detail' in tried) {
            failures.push(tried.detail)
            continue
          }
          passed.push(algorithm)
          if (way.oaep !== undefined) oaepWays[way.oaep[0]] = way.oaep[1]
          if (way.oaep?.[1] === 'raw') notes.push(`${algorithm} by raw RSA, its padding taken off in memory`)
          break
        }
        if (passed.includes(algorithm)) continue
        const reason = failures.join('; ') || 'the profile has no way to do it'
        refusal ||= reason
        notes.push(`not ${algorithm}: ${reason}`)
      }
      if (passed.length > 0) return { rows: [key], algorithms: passed, notes }
    }
    return refusal
  }
  /** By another kind's self-test and the sizes that the token states. */
  const proveBySize = (row: KindRow, provedBy: KmsKind): ProvedKind | string => {
    const proof = kinds.get(provedBy)
    const [key] = row.keys
    if (proof === undefined || key === undefined) return `${provedBy} failed`
    const wanted = keyRows[key]
    const { maxKeySize } = library.C_GetMechanismInfo(slot, wanted.generate)
    if (wanted.shape === 'pair' && maxKeySize < wanted.bits) return `the token generates up to ${maxKeySize} bits`
    return { rows: [key], algorithms: proof.algorithms, notes: [`by its size, as ${provedBy} passed`] }
  }
  for (const [name, row] of Object.entries(kindRows) as [KmsKind, KindRow][]) {
    const proved = row.provedBy === undefined ? proveKind(row) : proveBySize(row, row.provedBy)
    if (typeof proved === 'string') {
      probes.push({ name, passed: false, detail: proved })
      continue
    }
    for (const algorithm of proved.algorithms) algorithms.add(algorithm)
    kinds.set(name, proved)
    const { length } = row.algorithms
    const done = length > 2 && proved.algorithms.length === length ? `all ${length} algorithms` : proved.algorithms.join(', ')
    probes.push({ name, passed: true, detail: [done, ...proved.notes].join('; ') })
  }

  const passedSchemes = schemeNames.filter((scheme) => rowsByScheme.has(scheme))
  const wanted = profile.wrap === 'probe' ? undefined : profile.wrap
  const wrapScheme = wanted !== undefined && rowsByScheme.has(wanted) ? wanted : passedSchemes[0]
  if (wanted !== undefined && wrapScheme !== wanted) {
    probes.push({
      name: 'scheme of the profile',
      passed: false,
      detail: `${wanted} does not work on this token; ${wrapScheme === undefined ? 'no other does' : `${wrapScheme} is used instead`}`,
    })
  }
  const wrappingRows = wrapScheme && rowsByScheme.get(wrapScheme)
  const ownRows = signingKinds.map((kind) => kinds.get(kind)?.rows).find((rows) => rows !== undefined)
  const rows: Partial<Record<TokenKeyKind, readonly KeyRowName[]>> = {
    ...(wrappingRows && { wrapping: wrappingRows }),
    ...(ownRows && { signing: ownRows }),
    ...Object.fromEntries([...kinds].map(([kind, proved]) => [kind, proved.rows])),
  }
  const imports = proveImports({
    session,
    profile,
    oaepWays,
    rows,
    lists: (mechanism) => mechanisms.has(mechanism),
    attempt(needs, imported, trial) {
      const probe = ({ token }: Bench): void => {
        const wrappingKey = keys.lend(['rsa-2048-import'], token)
        try {
          trial(wrappingKey, token)
        } catch (error) {
          const device = findDeviceError(error)
          // SoftHSM's word for a kind of key that it does not take in. The session is none the worse; a new one would cost another RSA key.
          throw device?.code === CKR.CKR_FUNCTION_FAILED ? new Rejected(device.message) : error
        }
      }
      const tried = attempt([CKM.CKM_RSA_PKCS_KEY_PAIR_GEN, ...needs], probe, `import ${imported}`)
      return 'detail' in tried ? tried.detail : undefined
    },
    fail,
  })
  probes.push(...imports.probes)
  const replicable = attempt([CKM.CKM_AES_KEY_GEN, CKM.CKM_RSA_PKCS_OAEP], (current) => keys.lendReplicable(current.token))
  const isReplicable = (kind: readonly KeyRowName[]): boolean =>
    kind.length === 1 && kind.every((row) => keyRows[row].shape === 'secret' || profile.kwp !== null)
  keys.destroy()
  return {
    capabilities: {
      wrapScheme,
      wrapSchemes: passedSchemes,
      keyKinds: Object.keys(rows) as TokenKeyKind[],
      algorithms: [...algorithms],
      replicableKinds:
        'detail' in replicable
          ? []
          : (Object.entries(rows) as [TokenKeyKind, readonly KeyRowName[]][])
              .filter(([, kind]) => isReplicable(kind))
              .map(([kind]) => kind),
      importAlgorithms: imports.algorithms,
      probes,
      keyIdBytes: profile.keyIdBytes,
    },
    authFailed: [...authFailed],
    rows,
    oaepWays,
    importWays: imports.ways,
  }
}

/** The order in which schemes are tried for a new body under a key: the token's own first, then the rest that passed. */
export function schemePreference(capabilities: Capabilities): readonly WrapScheme[] {
  const { wrapScheme, wrapSchemes: passed } = capabilities
  if (wrapScheme === undefined) return []
  return [wrapScheme, ...passed.filter((scheme) => scheme !== wrapScheme).sort((a, b) => wrapSchemes[a] - wrapSchemes[b])]
}
