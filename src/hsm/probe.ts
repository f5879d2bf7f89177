/**
 * The self-test: what the token really does, found by doing it with throw-away keys.
 *
 * Mechanism lists and their flags lie in both directions, and the code by which a product says "bad tag" is in no data
 * sheet. So every scheme and key spec is tried, each ciphertext is also corrupted, and the codes that come back are
 * remembered. Keys are session objects where the token allows it, and destroyed in any case.
 *
 * Runs once per start of the service, not at every respawn of the agent: key pairs are slow on some devices.
 */
import { randomBytes } from 'node:crypto'
import type { PKCS11 } from 'pkcs11js'
import { keyRows, keySpecRows, macKinds, signingKinds, type KeyRowName } from './algorithms.ts'
import { CKM, CKR, nameOf } from './constants.ts'
import { findDeviceError } from './errors.ts'
import { destroyAll, makeKey, sortObjects, Unprotected } from './keys.ts'
import type { ProviderProfile } from './profile.ts'
import type { DeviceSession, Handle, KeyObjects } from './session.ts'
import { wrapSchemes, type Capabilities, type WrapScheme } from './token.ts'
import { Rejected, schemeNames, schemes, Untrustworthy, type WrapDevice } from './wrap.ts'

/** What the self-test found; handed to every later agent of the same token. Plain data. */
export interface Proof {
  readonly capabilities: Capabilities
  /** Codes by which this token refused a changed ciphertext. */
  readonly authFailed: readonly number[]
  /** The rows of the objects that a `wrapping` key consists of; empty when there is no scheme. */
  readonly wrappingRows: readonly KeyRowName[]
  /** The row of a `signing` key. */
  readonly signingRow: KeyRowName | undefined
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
  readonly ckaId: Buffer
  readonly token: boolean
}

/** Lends a throw-away key. */
function withKey<T>(bench: Bench, rows: readonly KeyRowName[], use: (keys: KeyObjects, handles: readonly Handle[]) => T): T {
  const { handles } = makeKey(bench.session, rows, { token: bench.token, ckaId: bench.ckaId, label: selfTestLabel }, bench.profile)
  try {
    return use(sortObjects(bench.session, handles), handles)
  } finally {
    destroyAll(bench.session, handles)
  }
}

/** The key rows each scheme's objects are generated from; alternatives, best first. */
const rowsOfScheme: Readonly<Record<WrapScheme, readonly (readonly KeyRowName[])[]>> = {
  'gcm-iv-in': [['aes-256']],
  'gcm-iv-back': [['aes-256']],
  'gcm-iv-tail': [['aes-256']],
  'cbc-hmac': macKinds.map((mac) => ['aes-256', mac] as const),
  'rsa-oaep': [['rsa-2048-wrap']],
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

function describeFailure(error: unknown): string {
  const device = findDeviceError(error)
  if (device !== undefined) return device.message
  if (error instanceof Failed || error instanceof Rejected || error instanceof Untrustworthy || error instanceof Unprotected) {
    return error.message
  }
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
  const ckaId = Buffer.from(randomBytes(profile.keyIdBytes))
  const bench: Bench = { session, profile, device, ckaId, token: false }

  /** Runs one probe; answers what it answered, or undefined after noting why it failed. */
  const attempt = <T>(name: string, passedDetail: string, needs: readonly number[], probe: (bench: Bench) => T): T | undefined => {
    const lacking = needs.find((mechanism) => !mechanisms.has(mechanism))
    if (lacking !== undefined) {
      probes.push({ name, passed: false, detail: `the token lists no ${nameOf('CKM', lacking)}` })
      return undefined
    }
    let detail = ''
    // Some tokens know no session objects for keys: there the throw-away key is a token object for a moment.
    for (const token of [false, true]) {
      try {
        const result = probe({ ...bench, token })
        probes.push({ name, passed: true, detail: passedDetail })
        return result
      } catch (error) {
        if (!token) detail = describeFailure(error)
        else describeFailure(error)
        session.reopen()
        alive()
      }
    }
    probes.push({ name, passed: false, detail })
    return undefined
  }

  const authFailed = new Set<number>()
  const rowsByScheme = new Map<WrapScheme, readonly KeyRowName[]>()
  for (const scheme of schemeNames) {
    const secret = scheme !== 'rsa-oaep'
    if (secret && !profile.generate) {
      probes.push({ name: scheme, passed: false, detail: 'the token cannot generate secret keys' })
      continue
    }
    const rows = attempt(scheme, 'wraps, unwraps, refuses what was changed', schemeMechanisms[scheme], (current) => {
      let last: unknown
      for (const alternative of rowsOfScheme[scheme]) {
        try {
          for (const code of withKey(current, alternative, (keys) => proveScheme(current, scheme, keys))) authFailed.add(code)
          return alternative
        } catch (error) {
          last = error
        }
      }
      throw last
    })
    if (rows !== undefined) rowsByScheme.set(scheme, rows)
  }

  const specs: string[] = []
  for (const [spec, row] of Object.entries(keySpecRows)) {
    const key = keyRows[row.key]
    if (key.shape === 'secret' && !profile.generate) {
      probes.push({ name: spec, passed: false, detail: 'the token cannot generate secret keys' })
      continue
    }
    const passed = attempt(
      spec,
      row.provedBy === undefined ? 'generates and signs' : `by its size, as ${row.provedBy} passed`,
      [key.generate, row.mechanism],
      (current) => {
        if (row.provedBy !== undefined) {
          if (!specs.includes(row.provedBy)) fail(`${row.provedBy} failed`)
          const { maxKeySize } = library.C_GetMechanismInfo(slot, key.generate)
          if (key.shape === 'pair' && maxKeySize < key.bits) fail(`the token generates up to ${maxKeySize} bits`)
          return true
        }
        return withKey(current, [row.key], (keys) => {
          const signer = keys.privateKey ?? keys.mac ?? fail('the token shows no key that signs')
          if (session.sign({ mechanism: row.mechanism }, signer, randomBytes(row.inputBytes)).length === 0) fail('empty signature')
          return true
        })
      },
    )
    if (passed === true) specs.push(spec)
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
  const signingRow = signingKinds.find((row) => Object.entries(keySpecRows).some(([spec, { key }]) => key === row && specs.includes(spec)))
  return {
    capabilities: {
      wrapScheme,
      wrapSchemes: passedSchemes,
      keySpecs: wrapScheme === undefined ? specs : ['SYMMETRIC_DEFAULT', ...specs],
      probes,
      keyIdBytes: profile.keyIdBytes,
    },
    authFailed: [...authFailed],
    wrappingRows: wrapScheme === undefined ? [] : (rowsByScheme.get(wrapScheme) ?? []),
    signingRow,
  }
}

/** The order in which schemes are tried for a new body under a key: the token's own first, then the rest that passed. */
export function schemePreference(capabilities: Capabilities): readonly WrapScheme[] {
  const { wrapScheme, wrapSchemes: passed } = capabilities
  if (wrapScheme === undefined) return []
  return [wrapScheme, ...passed.filter((scheme) => scheme !== wrapScheme).sort((a, b) => wrapSchemes[a] - wrapSchemes[b])]
}
