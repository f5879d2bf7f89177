import { execFileSync } from 'node:child_process'
import { createHash, generateKeyPairSync } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { chainStart, encodeSealStatement, keyIdOf, recordHash, verifySeal } from '../../src/audit/chain.ts'
import { exportTrail } from '../../src/audit/export.ts'
import { verifyTrail } from '../../src/audit/verify.ts'
import { installed, makeSigner, makeTrail, sampleRecord } from './audit-suite.ts'
import type { TestSigner } from './audit-suite.ts'

const openssl = 'openssl'
const trailId = '000102030405060708090a0b0c0d0e0f'
const directory = mkdtempSync(join(tmpdir(), 'holdfast-format-'))
afterAll(() => rmSync(directory, { recursive: true, maxRetries: 5 }))

const plain = (...parts: readonly (string | Uint8Array)[]) => {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return hash.digest()
}

describe('the chain', () => {
  test('is what the documentation says, byte for byte', () => {
    const start = chainStart(trailId)
    expect(Buffer.from(start.hash)).toEqual(plain('holdfast audit trail v1\n', Buffer.from(trailId, 'hex')))
    const text = '{"a":"ü☃𝄞"}'
    expect(recordHash(start, text)).toEqual(plain('holdfast audit record v1\n', start.hash, Buffer.from('0000000000000001', 'hex'), text))
  })

  test('never changes: known answers', () => {
    expect(Buffer.from(chainStart(trailId).hash).toString('hex')).toBe('e9b8d1bde2f85f600a020a720ce1dc9185800a9bdf50249a3b45152dce7a1ddf')
    expect(recordHash(chainStart(trailId), '{"eventName":"Decrypt"}').toString('hex')).toBe(
      'ab90349e5469d44004281152d00e3f397e7cd246fe64915592be4a5982e6f0d4',
    )
  })

  test('counts beyond 32 bits and takes records of any length', () => {
    const before = { sequence: 2 ** 40 + 4, hash: Buffer.alloc(32, 7) }
    for (const length of [0, 1, 100, 65_000, 200_000]) {
      const text = 'é'.repeat(length)
      expect(recordHash(before, text)).toEqual(
        plain('holdfast audit record v1\n', before.hash, Buffer.from('0000010000000005', 'hex'), text),
      )
    }
  })
})

describe('a seal', () => {
  const statement = {
    trailId,
    number: 3,
    kind: 'seal' as const,
    sequence: 70,
    hash: Buffer.alloc(32, 0xab),
    timeMs: 0,
    keyId: 'cd'.repeat(32),
  }

  test('signs the documented text', () => {
    expect(encodeSealStatement(statement)).toBe(
      `holdfast audit seal v1\ntrail ${trailId}\nnumber 3\nkind seal\nsequence 70\nhash ${'ab'.repeat(32)}\n` +
        `time 1970-01-01T00:00:00.000Z\nkey ${'cd'.repeat(32)}\n`,
    )
  })

  test('of a key, a curve or an algorithm that does not fit is not verified', async () => {
    const signer = makeSigner()
    const spki = (await signer.publicKey()) as Buffer
    const own = { ...statement, keyId: keyIdOf(spki) }
    const { algorithm, signature } = await signer.sign(plain(encodeSealStatement(own)))
    expect(verifySeal({ ...own, algorithm, signature }, spki)).toBe(true)
    expect(verifySeal({ ...own, algorithm: 'ECDSA_SHA_256', signature }, spki)).toBe(false)
    expect(verifySeal({ ...own, algorithm: 'none', signature }, spki)).toBe(false)
    expect(verifySeal({ ...own, algorithm, signature: Buffer.alloc(0) }, spki)).toBe(false)
    expect(verifySeal({ ...own, algorithm, signature }, Buffer.from('no key'))).toBe(false)
  })
})

/** Signs with ECDSA as a token does, from the digest alone: what Node's own API does not offer and openssl does. */
function makeEcdsaSigner(): Pick<TestSigner, 'sign' | 'publicKey'> {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const file = join(directory, 'key.pem')
  writeFileSync(file, privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 })
  return {
    publicKey: async () => publicKey.export({ type: 'spki', format: 'der' }),
    sign: async (digest) => ({
      algorithm: 'ECDSA_SHA_256',
      signature: execFileSync(openssl, ['pkeyutl', '-sign', '-inkey', file], { input: digest }),
    }),
  }
}

const tools = [installed(openssl, 'version'), installed('jq', '--version'), installed('xxd', '-v')]
const missing = tools.includes(false)
if (missing) console.warn('SKIPPED: verification by hand needs openssl, jq and xxd')

describe.skipIf(missing)('by hand', () => {
  test.each([
    ['RSA', makeSigner],
    ['ECDSA', makeEcdsaSigner],
  ])('the script in the documentation verifies an export sealed with %s, and refuses a changed one', async (_name, make) => {
    const at = makeTrail({ ...makeSigner(), ...make() })
    try {
      const trail = await at.open()
      for (const count of [3, 4]) {
        await Promise.all(
          Array.from({ length: count }, () => trail.append(sampleRecord({ errorMessage: 'back\\slash "quote" %s $x `y`' }))),
        )
        await trail.seal()
      }
      expect((await verifyTrail(at.file)).problems).toEqual([])
      let text = ''
      for await (const line of exportTrail(at.file, { fromSequence: 2 })) text += line

      const documentation = readFileSync(new URL('../../docs/audit-format.md', import.meta.url), 'utf8')
      const script = join(at.directory, 'verify-by-hand')
      writeFileSync(script, /```sh\n(.*?)```/s.exec(documentation)?.[1] ?? '')
      const run = (content: string, seal: number) => {
        const file = join(at.directory, 'export.jsonl')
        writeFileSync(file, content)
        return execFileSync('bash', [script, file, String(seal)], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
      }
      expect(run(text, 1)).toBe('Verified OK\n')
      expect(run(text, 2)).toBe('Verified OK\n')
      expect(() => run(text.replace('"Decrypt"', '"Encrypt"'), 2)).toThrow('Command failed')
      expect(() => run(text.replace(/"time":"..../, '"time":"1999'), 1)).toThrow('Command failed')
    } finally {
      await at.drop()
    }
  })
})
