/**
 * Keys that are copied from one token to another, device to device: two SoftHSM tokens, introduced to each other by their security
 * officers, and a third that nobody knows.
 */
import { createPublicKey, diffieHellman, generateKeyPairSync, randomBytes, verify } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Token, TokenKeyKind } from '../../src/hsm/token.ts'
import { findSoftHsm } from '../../softhsm/find.mjs'
import { provisionSoftHsm, trustTransportKeys, type ProvisionedToken } from '../../softhsm/provision.mjs'
import type { LabToken } from './lab.ts'
import { newCkaId, openLab, outcome } from './open.ts'
import { RawModule } from './raw-module.ts'
import { wrapFor } from './wrapped-material.ts'

const root = mkdtempSync(join(tmpdir(), 'holdfast-transport-'))
const provisioned: ProvisionedToken[] = []
let first: Token
let second: Token
let stranger: Token

const asLab = (token: ProvisionedToken): LabToken => ({ ...token, env: { ...token.env }, dir: root, remove: async () => {} })

beforeAll(async () => {
  const library = findSoftHsm()
  if (library === undefined) throw new Error('the tests need SoftHSM2; run: apt-get install -y --no-install-recommends softhsm2')
  for (const label of ['first', 'second', 'stranger']) provisioned.push(await provisionSoftHsm({ dir: join(root, label), label, library }))
  await trustTransportKeys(provisioned.slice(0, 2))
  const [one, two, three] = await Promise.all(provisioned.map((token) => openLab(asLab(token))))
  if (one === undefined || two === undefined || three === undefined) throw new Error('three tokens')
  ;[first, second, stranger] = [one, two, three]
}, 120_000)
afterAll(async () => {
  await Promise.all([first, second, stranger].map((token) => token?.close()))
  rmSync(root, { recursive: true, force: true, maxRetries: 5 })
})

async function generate(token: Token, kind: TokenKeyKind, replicable = true): Promise<string> {
  const ckaId = newCkaId()
  await token.generateKey({ kind, ckaId, label: `kms/${ckaId}`, replicable })
  return ckaId
}

async function transportKeyOf(token: Token): Promise<Buffer> {
  const spki = await token.transportKey()
  if (spki === undefined) throw new Error('the token has no transport key')
  return spki
}

interface Copy {
  readonly ckaId: string
  readonly objects: Awaited<ReturnType<Token['adoptKey']>>
}

async function copy(from: Token, to: Token, kind: TokenKeyKind, ckaId: string): Promise<Copy> {
  const { wrapped } = await from.exportKey(ckaId, await transportKeyOf(to))
  const copied = newCkaId()
  return { ckaId: copied, objects: await to.adoptKey({ kind, ckaId: copied, label: `kms/${copied}`, wrapped }) }
}

/** In the device for good, but for a trusted key: so that the copy can be copied again. */
const copyAttributes = {
  CKA_TOKEN: true,
  CKA_PRIVATE: true,
  CKA_SENSITIVE: true,
  CKA_EXTRACTABLE: true,
  CKA_WRAP_WITH_TRUSTED: true,
  CKA_MODIFIABLE: false,
}

test('a token that was introduced has one transport key, as an SPKI; another has none', async () => {
  const [one, two] = [await transportKeyOf(first), await transportKeyOf(second)]
  expect(one).not.toEqual(two)
  expect(await transportKeyOf(first)).toEqual(one)
  expect(createPublicKey({ key: one, format: 'der', type: 'spki' }).asymmetricKeyDetails).toMatchObject({ modulusLength: 3072 })
  expect(await stranger.transportKey()).toBeUndefined()
})

describe('a copy', () => {
  test('of a symmetric key opens what the key wrapped, and the other way round', async () => {
    const original = await generate(first, 'wrapping')
    const { ckaId, objects } = await copy(first, second, 'wrapping', original)
    expect(objects).toMatchObject([{ ckaId, label: `kms/${ckaId}`, keyType: 'CKK_AES', attributes: copyAttributes }])
    const aad = randomBytes(9)
    const plaintext = randomBytes(50)
    const there = await first.wrap(original, aad, plaintext)
    expect(await second.unwrap(ckaId, there.scheme, aad, there.body)).toEqual(plaintext)
    const back = await second.wrap(ckaId, aad, plaintext)
    expect(await first.unwrap(original, back.scheme, aad, back.body)).toEqual(plaintext)
  })

  test('can be copied back: any of them can become the primary', async () => {
    const original = await generate(first, 'wrapping')
    const { ckaId } = await copy(first, second, 'wrapping', original)
    const again = await copy(second, first, 'wrapping', ckaId)
    const { scheme, body } = await first.wrap(original, Buffer.of(1), Buffer.of(2))
    expect(await first.unwrap(again.ckaId, scheme, Buffer.of(1), body)).toEqual(Buffer.of(2))
  })

  test.each([
    ['HMAC_224', 'HMAC_SHA_224'],
    ['HMAC_512', 'HMAC_SHA_512'],
  ] as const)('of a key for %s makes the same MACs', async (spec, algorithm) => {
    const kind = `${spec} GENERATE_VERIFY_MAC` as const
    const original = await generate(first, kind)
    const { ckaId, objects } = await copy(first, second, kind, original)
    expect(objects).toMatchObject([{ attributes: { ...copyAttributes, CKA_SIGN: true } }])
    const message = randomBytes(30)
    expect(await second.mac(ckaId, algorithm, message)).toEqual(await first.mac(original, algorithm, message))
  })

  test.each([
    ['ECC_NIST_P256', 'ECDSA_SHA_256', 'sha256'],
    ['ECC_SECG_P256K1', 'ECDSA_SHA_256', 'sha256'],
    ['ECC_NIST_P521', 'ECDSA_SHA_512', 'sha512'],
    ['RSA_2048', 'RSASSA_PKCS1_V1_5_SHA_256', 'sha256'],
  ] as const)('of a private key of %s has the same public key, and signs for it', async (spec, algorithm, hash) => {
    const kind = `${spec} SIGN_VERIFY` as const
    const original = await generate(first, kind)
    const { ckaId, objects } = await copy(first, second, kind, original)
    expect(objects).toMatchObject([
      { objectClass: 'CKO_PRIVATE_KEY', attributes: { ...copyAttributes, CKA_SIGN: true } },
      { objectClass: 'CKO_PUBLIC_KEY', attributes: { CKA_PRIVATE: true, CKA_MODIFIABLE: false } },
    ])
    const spki = await first.publicKey(original)
    expect(await second.publicKey(ckaId)).toEqual(spki)
    const message = randomBytes(30)
    const signature = await second.signMessage(ckaId, algorithm, 'message', message)
    expect(verify(hash, message, createPublicKey({ key: spki, format: 'der', type: 'spki' }), signature)).toBe(true)
  })

  test('of a key for key agreement agrees on the same secret', async () => {
    const kind = 'ECC_NIST_P384 KEY_AGREEMENT'
    const original = await generate(first, kind)
    const { ckaId } = await copy(first, second, kind, original)
    const peer = generateKeyPairSync('ec', { namedCurve: 'secp384r1' })
    const publicKey = createPublicKey({ key: await second.publicKey(ckaId), format: 'der', type: 'spki' })
    const peerSpki = peer.publicKey.export({ format: 'der', type: 'spki' })
    expect(await second.deriveSharedSecret(ckaId, peerSpki)).toEqual(diffieHellman({ privateKey: peer.privateKey, publicKey }))
    expect(await first.deriveSharedSecret(original, peerSpki)).toEqual(await second.deriveSharedSecret(ckaId, peerSpki))
  })
})

test('an Ed25519 key cannot be copied to SoftHSM, which takes none in: said as that, not as a bad copy', async () => {
  const kind = 'ECC_NIST_EDWARDS25519 SIGN_VERIFY'
  const original = await generate(first, kind)
  expect(await outcome(copy(first, second, kind, original))).toBe('unsupported')
})

describe('nothing leaves', () => {
  test.each(['wrapping', 'HMAC_256 GENERATE_VERIFY_MAC', 'ECC_NIST_P256 SIGN_VERIFY'] as const)(
    'of a %s key that was made for one token',
    async (kind) => {
      const single = await generate(first, kind, false)
      const call = first.exportKey(single, await transportKeyOf(second))
      await expect(call).rejects.toMatchObject({
        failure: 'unsupported',
        message: 'the key was made for this token alone and never leaves it',
      })
    },
  )

  test('for a key that the security officer did not trust: not even for the token’s own, nor one that a user put there', async () => {
    const ckaId = await generate(first, 'wrapping')
    const own = generateKeyPairSync('rsa', { modulusLength: 3072 }).publicKey
    const { n = '', e = '' } = own.export({ format: 'jwk' })
    const [token] = provisioned
    if (token === undefined) throw new Error('a token')
    const module = new RawModule(token.library, token.env)
    try {
      const session = await module.login(token.label, readFileSync(token.pinFile, 'utf8'))
      const attributes: readonly [number, unknown][] = [
        [0, 2],
        [1, true],
        [2, false],
        [0x100, 0],
        [0x106, true],
        [0x120, Buffer.from(n, 'base64url')],
        [0x122, Buffer.from(e, 'base64url')],
      ]
      const asTemplate = (list: readonly [number, unknown][]): unknown[] => list.map(([type, value]) => ({ type, value }))
      // CKA_TRUSTED is the security officer's to give.
      expect(await module.code('C_CreateObject', session, asTemplate([...attributes, [0x86, true]]))).not.toBe(0)
      const planted = await module.call<Buffer>('C_CreateObject', session, asTemplate(attributes))
      expect(await module.code('C_SetAttributeValue', session, planted, asTemplate([[0x86, true]]))).not.toBe(0)
      // The device itself refuses to wrap for it, whatever this program asks.
      await module.call('C_FindObjectsInit', session, asTemplate([[0x102, Buffer.from(ckaId, 'hex')]]))
      const [key] = await module.call<Buffer[]>('C_FindObjects', session, 1)
      await module.call('C_FindObjectsFinal', session)
      const oaep = { mechanism: 9, parameter: { type: 4, hashAlg: 0x220, mgf: 1, source: 1 } }
      // CKR_KEY_NOT_WRAPPABLE
      expect(await module.code('C_WrapKey', session, oaep, planted, key, Buffer.alloc(1024))).toBe(0x69)
    } finally {
      await module.end()
    }
    for (const spki of [own.export({ format: 'der', type: 'spki' }), await transportKeyOf(first)]) {
      await expect(first.exportKey(ckaId, spki)).rejects.toMatchObject({
        failure: 'unsupported',
        message: expect.stringContaining('has not marked that transport key CKA_TRUSTED') as string,
      })
    }
  })

  test('from a token that was never introduced, or for what is no public key', async () => {
    const there = await generate(stranger, 'wrapping')
    expect(await outcome(stranger.exportKey(there, await transportKeyOf(first)))).toBe('unsupported')
    const here = await generate(first, 'wrapping')
    const curve = generateKeyPairSync('ec', { namedCurve: 'prime256v1' }).publicKey.export({ format: 'der', type: 'spki' })
    for (const spki of [Buffer.of(1), randomBytes(400), curve]) expect(await outcome(first.exportKey(here, spki))).toBe('rejected')
  })
})

describe('nothing comes in', () => {
  let wrapped: Buffer
  let longer: Buffer
  beforeAll(async () => {
    const spki = await transportKeyOf(second)
    ;({ wrapped } = await first.exportKey(await generate(first, 'wrapping'), spki))
    ;({ wrapped: longer } = await first.exportKey(await generate(first, 'ECC_NIST_P256 SIGN_VERIFY'), spki))
  })
  const adopt = (token: Token, kind: TokenKeyKind, bytes: Buffer): Promise<unknown> =>
    token.adoptKey({ kind, ckaId: newCkaId(), label: 'kms/x', wrapped: bytes })

  test('that was wrapped for another token', async () => {
    expect(await outcome(adopt(first, 'wrapping', wrapped))).toBe('rejected')
    expect(await outcome(adopt(first, 'ECC_NIST_P256 SIGN_VERIFY', longer))).toBe('rejected')
    expect(await outcome(adopt(stranger, 'wrapping', wrapped))).toBe('unsupported')
  })

  test('that is of another kind', async () => {
    for (const kind of ['HMAC_384 GENERATE_VERIFY_MAC', 'HMAC_512 GENERATE_VERIFY_MAC', 'ECC_NIST_P256 SIGN_VERIFY'] as const) {
      expect(await outcome(adopt(second, kind, wrapped)), kind).toBe('rejected')
    }
    for (const kind of ['wrapping', 'ECC_NIST_P384 SIGN_VERIFY', 'RSA_2048 SIGN_VERIFY'] as const) {
      expect(await outcome(adopt(second, kind, longer)), kind).toBe('rejected')
    }
  })

  test('that was changed, cut or made longer', async () => {
    const flipped = (bytes: Buffer, at: number): Buffer => {
      const changed = Buffer.from(bytes)
      changed[at] = (changed[at] ?? 0) ^ 1
      return changed
    }
    const before = (await second.allObjects()).length
    // The form, the hash, the RSA part, and behind it the part under the AES key.
    for (const at of [0, 2, 100, 385]) expect(await outcome(adopt(second, 'wrapping', flipped(wrapped, at))), `byte ${at}`).toBe('rejected')
    for (const at of [0, 2, 100, 385, 386, longer.length - 1]) {
      expect(await outcome(adopt(second, 'ECC_NIST_P256 SIGN_VERIFY', flipped(longer, at))), `byte ${at}`).toBe('rejected')
    }
    // A hash that this token does not know is no fault of the bytes.
    const sha256 = Buffer.from(wrapped)
    sha256[1] = 3
    expect(await outcome(adopt(second, 'wrapping', sha256))).toBe('unsupported')
    for (const bytes of [wrapped.subarray(0, -1), Buffer.concat([wrapped, Buffer.of(0)]), wrapped.subarray(0, 2), Buffer.of(1)]) {
      expect(await outcome(adopt(second, 'wrapping', bytes))).toBe('rejected')
    }
    expect((await second.allObjects()).length).toBe(before)
    expect(await outcome(adopt(second, 'wrapping', wrapped))).toBe('done')
    expect(second.health()).toMatchObject({ state: 'up', respawns: 0 })
  })
})

test('an imported key stays where it was imported: its owner brings it elsewhere', async () => {
  const wrappingCkaId = newCkaId()
  await first.generateKey({ kind: 'import RSA_2048', ckaId: wrappingCkaId, label: 'kms/import' })
  const ckaId = newCkaId()
  const algorithm = 'RSAES_OAEP_SHA_1'
  const wrapped = wrapFor(await first.publicKey(wrappingCkaId), algorithm, randomBytes(32))
  await first.importKey({ kind: 'wrapping', ckaId, label: 'kms/x', wrappingCkaId, algorithm, wrapped })
  expect(await outcome(first.exportKey(ckaId, await transportKeyOf(second)))).toBe('unsupported')
})
