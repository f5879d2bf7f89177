/**
 * The part of the self-test that finds what key material this token takes in, and how: throw-away keys are wrapped here, imported, and
 * changed copies of them must be refused.
 */
import { constants, createCipheriv, createPublicKey, generateKeyPairSync, publicEncrypt, randomBytes } from 'node:crypto'
import { oaepHashes, type KeyRowName } from './algorithms.ts'
import { CKK, CKM } from './constants.ts'
import { findDeviceError } from './errors.ts'
import { importKey, importRows, type ImportRequest, type ImportWays, type UnwrapWay } from './import.ts'
import { destroyAll } from './keys.ts'
import type { ProviderProfile } from './profile.ts'
import type { DeviceSession, KeyObjects } from './session.ts'
import type { ImportAlgorithm, OaepAlgorithm, TokenKeyKind } from './token.ts'
import { publicKeyOf, type OaepWay } from './uses.ts'
import { Rejected } from './wrap.ts'

export interface ImportBench {
  readonly session: DeviceSession
  readonly profile: ProviderProfile
  readonly oaepWays: Readonly<Partial<Record<OaepAlgorithm, OaepWay>>>
  readonly rows: Readonly<Partial<Record<TokenKeyKind, readonly KeyRowName[]>>>
  lists(mechanism: number): boolean
  /** Runs one trial, with session objects or else, unless such came in before, with token objects; why it failed, if it did. */
  attempt(
    needs: readonly number[],
    imported: 'secret key' | 'private key',
    trial: (keys: KeyObjects, token: boolean) => void,
  ): string | undefined
  readonly fail: (message: string) => never
}

export interface ImportProof {
  readonly ways: ImportWays
  readonly algorithms: readonly ImportAlgorithm[]
  readonly probes: readonly { readonly name: string; readonly passed: boolean; readonly detail: string }[]
}

/** AES key wrap with padding; the initial value of RFC 5649 section 3. */
function wrapPadded(kek: Buffer, material: Buffer): Buffer {
  const cipher = createCipheriv('id-aes256-wrap-pad', kek, Buffer.from('a65959a6', 'hex'))
  return Buffer.concat([cipher.update(material), cipher.final()])
}

/** One import of a throw-away key, and a changed copy that must not come in. */
function prove(
  { session, profile, rows, fail }: ImportBench,
  ways: ImportWays,
  { privateKey, publicKey }: KeyObjects,
  token: boolean,
  kind: TokenKeyKind,
  algorithm: ImportAlgorithm,
  material: Buffer,
): void {
  if (privateKey === undefined || publicKey === undefined) return fail('the token does not show the key that it made')
  const spki = publicKeyOf(session, { aes: undefined, mac: undefined, privateKey, publicKey })
  if (spki === undefined) return fail('the token shows no public key')
  const { oaep, behindAes } = importRows[algorithm]
  const key = createPublicKey({ key: spki, format: 'der', type: 'spki' })
  const padding = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: oaepHashes[oaep] }
  const kek = randomBytes(32)
  const wrapped = behindAes
    ? Buffer.concat([publicEncrypt({ key, ...padding }, kek), wrapPadded(kek, material)])
    : publicEncrypt({ key, ...padding }, material)

  const importer = { session, profile, ways, commit: (): void => {} }
  const naming: ImportRequest['naming'] = { token, ckaId: randomBytes(profile.keyIdBytes), label: 'holdfast/self-test' }
  const bring = (bytes: Buffer): void => {
    const { handles } = importKey(importer, privateKey, rows[kind] ?? [], { kind, algorithm, wrapped: bytes, naming })
    destroyAll(session, handles)
  }
  bring(wrapped)
  const changed = Buffer.from(wrapped)
  changed[changed.length - 1] = (changed.at(-1) ?? 0) ^ 1
  try {
    bring(changed)
  } catch (error) {
    if (error instanceof Rejected || findDeviceError(error) !== undefined) return undefined
    throw error
  }
  return fail('took in what was changed')
}

export function proveImports(bench: ImportBench): ImportProof {
  const { profile, oaepWays, rows } = bench
  const probes: ImportProof['probes'][number][] = []
  const algorithms: ImportAlgorithm[] = []
  const oaep: Partial<Record<OaepAlgorithm, UnwrapWay>> = {}
  const kwp = profile.kwp !== null && bench.lists(profile.kwp)
  const none = { passed: false, detail: '' }

  const secretKind = (['wrapping', 'HMAC_256 GENERATE_VERIFY_MAC'] as const).find((kind) => rows[kind]?.length === 1)
  const tryAlgorithm = (algorithm: ImportAlgorithm, way: UnwrapWay): string | undefined => {
    if (secretKind === undefined) return 'the token can make no key of one object'
    const row = importRows[algorithm]
    if (row.behindAes && !kwp) return 'the token has no AES key wrap with padding'
    const ways: ImportWays = { oaep: { [row.oaep]: way }, kwp, privateTypes: [] }
    const needs = way === 'raw' ? CKM.CKM_RSA_X_509 : CKM.CKM_RSA_PKCS_OAEP
    return bench.attempt([needs], 'secret key', (keys, token) => prove(bench, ways, keys, token, secretKind, algorithm, randomBytes(32)))
  }
  for (const algorithm of Object.keys(importRows) as ImportAlgorithm[]) {
    const name = importRows[algorithm].oaep
    const known = oaep[name]
    const fallback = oaepWays[name]
    const inDevice: readonly UnwrapWay[] = profile.oaepHashes.includes(oaepHashes[name]) ? ['unwrap'] : []
    const candidates = known === undefined ? [...inDevice, ...(fallback === undefined ? [] : [fallback])] : [known]
    let result = { ...none, detail: 'the token does not decrypt so' }
    for (const way of candidates) {
      const failure = tryAlgorithm(algorithm, way)
      if (failure !== undefined) {
        result = { passed: false, detail: failure }
        continue
      }
      oaep[name] = way
      algorithms.push(algorithm)
      result = { passed: true, detail: way === 'unwrap' ? 'in the device' : 'what RSA protects passes through our memory' }
      break
    }
    probes.push({ name: `import ${algorithm}`, ...result })
  }

  const privateTypes: number[] = []
  const behind = (Object.keys(importRows) as ImportAlgorithm[]).find((name) => importRows[name].behindAes && algorithms.includes(name))
  const trials = [
    {
      kind: 'ECC_NIST_P256 SIGN_VERIFY',
      types: [CKK.CKK_EC, CKK.CKK_RSA],
      make: () => generateKeyPairSync('ec', { namedCurve: 'prime256v1' }),
    },
    { kind: 'ECC_NIST_EDWARDS25519 SIGN_VERIFY', types: [CKK.CKK_EC_EDWARDS], make: () => generateKeyPairSync('ed25519') },
  ] as const
  if (behind !== undefined) {
    for (const { kind, types, make } of trials) {
      if (rows[kind] === undefined) continue
      const ways: ImportWays = { oaep, kwp, privateTypes: types }
      const material = make().privateKey.export({ format: 'der', type: 'pkcs8' })
      const failure = bench.attempt([], 'private key', (keys, token) => prove(bench, ways, keys, token, kind, behind, material))
      material.fill(0)
      if (failure === undefined) privateTypes.push(...types)
      probes.push({ name: `import ${kind}`, passed: failure === undefined, detail: failure ?? 'as PKCS#8' })
    }
    // Where there are no curves nothing but RSA is left to be taken in, and making such a key for a trial takes long.
    if (rows['ECC_NIST_P256 SIGN_VERIFY'] === undefined) privateTypes.push(CKK.CKK_RSA)
  }
  return { ways: { oaep, kwp, privateTypes }, algorithms, probes }
}
