/** What the sides of the part on bulk encryption have in common: what is encrypted, by whom, and rates taken in turn. */

import type { BulkPool } from '../bulk/bulk-pool.ts'
import type { Keyring } from '../bulk/keyring.ts'
import { figure, inTurns, ratioOf, type Figure, type PartContext, type Side, type Table } from './part.ts'

export const mebi = 2 ** 20
export const frameLengths = [4096, 65_536, 1_048_576] as const
export const directions = ['encrypt', 'decrypt'] as const
export const context = { app: 'bench' }
export const names = { namespace: 'holdfast-bench', name: 'bench' }
export const showLength = (bytes: number): string => (bytes >= mebi ? `${bytes / mebi} MiB` : `${bytes / 1024} KiB`)

export type Figures = Record<string, Figure>

export interface Subject {
  readonly part: PartContext
  readonly source: Buffer
  readonly keyring: Keyring
  readonly pool: BulkPool
  readonly figures: Figures
  /** Undefined where it is not installed. */
  readonly sdk: SdkClient | undefined
}

/** The AWS Encryption SDK with the same raw AES key, as it is and with its cache. */
export type SdkClient = NonNullable<Awaited<ReturnType<typeof openSdk>>>

/** The SDK is there for development only. */
export async function openSdk(key: Buffer) {
  let sdk: typeof import('@aws-crypto/client-node')
  try {
    sdk = await import('@aws-crypto/client-node')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND') return undefined
    throw error
  }
  const { buildClient, CommitmentPolicy, RawAesKeyringNode, RawAesWrappingSuiteIdentifier } = sdk
  const keyring = new RawAesKeyringNode({
    keyNamespace: names.namespace,
    keyName: names.name,
    unencryptedMasterKey: new Uint8Array(key),
    wrappingSuite: RawAesWrappingSuiteIdentifier.AES256_GCM_IV12_TAG16_NO_PADDING,
  })
  const cache = sdk.getLocalCryptographicMaterialsCache(16)
  return {
    ...buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT),
    keyring,
    caching: new sdk.NodeCachingMaterialsManager({ backingMaterials: keyring, cache, maxAge: 3_600_000 }),
    suiteId: sdk.AlgorithmSuiteIdentifier.ALG_AES256_GCM_IV12_TAG16_HKDF_SHA512_COMMIT_KEY,
    signedSuiteId: sdk.AlgorithmSuiteIdentifier.ALG_AES256_GCM_IV12_TAG16_HKDF_SHA512_COMMIT_KEY_ECDSA_P384,
  }
}

/** One way of doing it to the same bytes. */
export interface Way {
  readonly name: string
  readonly run: () => Promise<unknown>
}

/** The SDK's way, named `sdk-…`; none without it. */
export const sdkEncrypt = (
  sdk: SdkClient | undefined,
  {
    source,
    frameLength,
    suiteId,
    kind = '',
  }: { source: Buffer; frameLength: number; suiteId?: SdkClient['suiteId'] | undefined; kind?: string },
): readonly Way[] => {
  if (!sdk) return []
  const options = { suiteId: suiteId ?? sdk.suiteId, encryptionContext: context, frameLength }
  return [{ name: `sdk-encrypt${kind}`, run: () => sdk.encrypt(sdk.keyring, source, options) }]
}
export const sdkDecrypt = (sdk: SdkClient | undefined, message: Buffer, kind = ''): readonly Way[] =>
  sdk ? [{ name: `sdk-decrypt${kind}`, run: () => sdk.decrypt(sdk.keyring, message) }] : []

export async function dropped(stream: AsyncIterable<Buffer>): Promise<number> {
  let length = 0
  for await (const piece of stream) length += piece.length
  return length
}

/** Each way once in each round, all of the bytes; MB/s by `prefix/name`. */
export async function measureRates(
  { part, figures }: Pick<Subject, 'part' | 'figures'>,
  prefix: string,
  bytes: number,
  ways: readonly Way[],
): Promise<void> {
  // Code is compiled, threads are started, memory is mapped.
  for (const { run } of ways) await run()
  const sides = ways.map(({ name, run }): Side => ({
    name,
    async measure() {
      const begin = performance.now()
      await run()
      return { rate: bytes / 1000 / (performance.now() - begin) }
    },
  }))
  const numbers = await inTurns(part, sides, `bulk encryption, ${prefix}`)
  for (const { name } of ways) figures[`${prefix}/${name}`] = figure('MB/s', 'higher', numbers.get(`${name}/rate`) ?? [])
}

/** Where both are there. */
export function setRatio(figures: Figures, id: string, of: string, by: string): void {
  const [first, second] = [figures[of], figures[by]]
  if (first && second) figures[id] = ratioOf(first, second)
}

/** What a table shows of figures that may not have been taken. */
export const cellsOf =
  (figures: Readonly<Figures>) =>
  (id: string): Table['rows'][number][number] =>
    id in figures ? { figure: id } : '–'
