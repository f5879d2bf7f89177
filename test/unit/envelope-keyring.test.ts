/** Which KMS key is asked for what, and which answers count. The KMS here is a script: a real one is asked in test/token/envelope.test.ts. */

import { describe, expect, test } from 'vitest'
import { unsignedSuite, suites } from '../../src/bulk/suites.ts'
import { isSameKey, parseKeyArn } from '../../src/envelope/arn.ts'
import { KmsFailure, type Kms } from '../../src/envelope/kms.ts'
import { DataKeyError, kmsKeyring, type KmsKeyringOptions } from '../../src/envelope/kms-keyring.ts'

const account = '111122223333'
const uuid = '12345678-1234-4234-8234-123456789012'
const mrk = 'mrk-0123456789abcdef0123456789abcdef'
const arn = (region: string, id: string, accountId = account): string => `arn:aws:kms:${region}:${accountId}:key/${id}`
const here = arn('us-east-1', uuid)
const aliases: Readonly<Record<string, string>> = { 'alias/app': uuid, 'alias/global': mrk }

interface Asked {
  readonly operation: string
  readonly region: string
  readonly keyId: string
  readonly context: Readonly<Record<string, string>>
  readonly grantTokens: readonly string[]
}

/** Keys of every region; encrypts by writing its ARN before the plaintext. */
function scriptedKms(change: { readonly keyId?: (keyId: string) => string; readonly plaintext?: Buffer; readonly refuse?: RegExp } = {}) {
  const asked: Asked[] = []
  /** Every plaintext handed out: whoever got one must wipe what is not the caller's. */
  const handed: Buffer[] = []
  const of = (region: string): Kms => {
    const named = (keyId: string): string => {
      const parsed = parseKeyArn(keyId)
      const id = parsed ? (parsed.type === 'alias' ? aliases[`alias/${parsed.id}`] : parsed.id) : (aliases[keyId] ?? keyId)
      return arn(region, id ?? 'none', parsed?.accountId)
    }
    const note = (operation: string, request: Omit<Asked, 'operation' | 'region'>): string => {
      const { keyId, context, grantTokens } = request
      asked.push({ operation, region, keyId, context, grantTokens })
      if (change.refuse?.test(keyId)) throw new KmsFailure('AccessDeniedException', 'not you')
      return change.keyId?.(named(keyId)) ?? named(keyId)
    }
    const hand = (bytes: Buffer): Buffer => {
      handed.push(bytes)
      return bytes
    }
    return {
      async generateDataKey(request) {
        const keyId = note('GenerateDataKey', request)
        const plaintext = hand(change.plaintext ?? Buffer.alloc(request.bytes, 7))
        return { keyId, plaintext, ciphertext: Buffer.from(`${named(request.keyId)} ${plaintext.toString('hex')}`) }
      },
      async encrypt(request) {
        return {
          keyId: note('Encrypt', request),
          ciphertext: Buffer.from(`${named(request.keyId)} ${request.plaintext.toString('hex')}`),
        }
      },
      async decrypt(request) {
        const keyId = note('Decrypt', request)
        const [made = '', hex = ''] = Buffer.from(request.ciphertext).toString().split(' ')
        if (!isSameKey(made, named(request.keyId))) throw new KmsFailure('IncorrectKeyException', 'another key')
        return { keyId, plaintext: hand(change.plaintext ?? Buffer.from(hex, 'hex')) }
      },
    }
  }
  return { asked, handed, of }
}

const keyring = (kms: ReturnType<typeof scriptedKms>, options: Partial<KmsKeyringOptions>) =>
  kmsKeyring({ kms: kms.of, region: 'us-east-1', keys: [], ...options })

const request = { suite: unsignedSuite, context: { app: 'db' } }

/** What a message under these keys carries. */
const carriedBy = async (...keys: string[]) => (await keyring(scriptedKms(), { keys }).encrypting(request)).encryptedDataKeys

describe('encrypting', () => {
  test('the first key generates, the others encrypt what it generated, each in its own region and all with the context', async () => {
    const kms = scriptedKms()
    const keys = ['alias/app', arn('eu-west-1', uuid), arn('us-east-1', uuid, '999999999999')]
    const { dataKey, encryptedDataKeys } = await keyring(kms, { keys, grantTokens: ['token'] }).encrypting(request)
    expect(dataKey).toEqual(Buffer.alloc(32, 7))
    expect(encryptedDataKeys.map(({ providerId, providerInfo }) => `${providerId} ${providerInfo.toString()}`)).toEqual([
      `aws-kms ${here}`,
      `aws-kms ${keys[1]}`,
      `aws-kms ${keys[2]}`,
    ])
    const common = { context: { app: 'db' }, grantTokens: ['token'] }
    expect(kms.asked).toEqual([
      { operation: 'GenerateDataKey', region: 'us-east-1', keyId: 'alias/app', ...common },
      { operation: 'Encrypt', region: 'eu-west-1', keyId: keys[1], ...common },
      { operation: 'Encrypt', region: 'us-east-1', keyId: keys[2], ...common },
    ])
  })

  test('one key that refuses fails all, says which, and the data key is wiped', async () => {
    const kms = scriptedKms({ refuse: /eu-west-1/ })
    const asking = keyring(kms, { keys: [here, arn('eu-west-1', uuid)] }).encrypting(request)
    await expect(asking).rejects.toThrow(`${arn('eu-west-1', uuid)}: AccessDeniedException: not you`)
    expect(kms.handed).toEqual([Buffer.alloc(32)])
  })

  test.each([
    ['a key of another region', here, arn('eu-west-1', uuid)],
    ['another key', here, arn('us-east-1', '00000000-0000-4000-8000-000000000000')],
    ['a key of another account', here, arn('us-east-1', uuid, '999999999999')],
    ['a key of another region than the alias is in', 'alias/app', arn('eu-west-1', uuid)],
    ['another key than the one of that id', uuid, arn('us-east-1', mrk)],
    ['an alias', 'alias/app', `arn:aws:kms:us-east-1:${account}:alias/app`],
    ['a bare id', here, uuid],
    ['nothing', here, ''],
  ])('an answer that says %s is refused, and its data key wiped', async (_what, asked, answered) => {
    const kms = scriptedKms({ keyId: () => answered })
    await expect(keyring(kms, { keys: [asked] }).encrypting(request)).rejects.toThrow('answered for')
    expect(kms.handed).toEqual([Buffer.alloc(32)])
  })

  test('a data key of another length than the suite has is refused', async () => {
    const kms = scriptedKms({ plaintext: Buffer.alloc(16, 1) })
    await expect(keyring(kms, { keys: [here] }).encrypting(request)).rejects.toThrow('a data key of 16 bytes; the suite needs 32')
    expect(kms.handed).toEqual([Buffer.alloc(16)])
  })

  test('the suite says how long the data key is', async () => {
    const suite = suites.get(0x0114)
    if (!suite) throw new Error('no such suite')
    const { dataKey } = await keyring(scriptedKms(), { keys: [here] }).encrypting({ ...request, suite })
    expect(dataKey).toHaveLength(16)
  })

  test('who discovers has no key to encrypt under', async () => {
    await expect(keyring(scriptedKms(), { discovery: {} }).encrypting(request)).rejects.toThrow('which key to encrypt under')
  })
})

describe('decrypting', () => {
  test('a named key is asked for its own data key and nobody for the others', async () => {
    const kms = scriptedKms()
    const encryptedDataKeys = await carriedBy(arn('eu-west-1', uuid), here)
    const { dataKey } = await keyring(kms, { keys: [here] }).decrypting({ ...request, encryptedDataKeys })
    expect(dataKey).toEqual(Buffer.alloc(32, 7))
    expect(kms.asked).toEqual([{ operation: 'Decrypt', region: 'us-east-1', keyId: here, context: { app: 'db' }, grantTokens: [] }])
  })

  test.each(['alias/app', `arn:aws:kms:us-east-1:${account}:alias/app`, uuid])('%s opens what its key encrypted', async (name) => {
    const kms = scriptedKms()
    const { dataKey } = await keyring(kms, { keys: [name] }).decrypting({ ...request, encryptedDataKeys: await carriedBy(here) })
    expect(dataKey).toEqual(Buffer.alloc(32, 7))
    expect(kms.asked.map(({ keyId }) => keyId)).toEqual([name])
  })

  test('a message under none of the named keys is refused before anybody is asked, saying which keys it is under', async () => {
    const kms = scriptedKms()
    const other = arn('eu-west-1', uuid)
    const encryptedDataKeys = await carriedBy(other)
    await expect(keyring(kms, { keys: [here] }).decrypting({ ...request, encryptedDataKeys })).rejects.toThrow(
      `The message is under ${other}, not ${here}.`,
    )
    expect(kms.asked).toEqual([])
  })

  test('a multi-Region key is asked by the replica that is named, whichever encrypted', async () => {
    const kms = scriptedKms()
    const encryptedDataKeys = await carriedBy(arn('eu-west-1', mrk))
    const { dataKey } = await keyring(kms, { keys: [arn('us-east-1', mrk)] }).decrypting({ ...request, encryptedDataKeys })
    expect(dataKey).toEqual(Buffer.alloc(32, 7))
    expect(kms.asked.map(({ region, keyId }) => ({ region, keyId }))).toEqual([{ region: 'us-east-1', keyId: arn('us-east-1', mrk) }])
    await expect(
      keyring(kms, { keys: [arn('us-east-1', mrk, '999999999999')] }).decrypting({ ...request, encryptedDataKeys }),
    ).rejects.toThrow('The message is under')
  })

  test('discovery asks each key in its own region until one gives the data key', async () => {
    const kms = scriptedKms({ refuse: /eu-west-1/ })
    const encryptedDataKeys = await carriedBy(arn('eu-west-1', uuid), here, arn('ap-south-1', uuid))
    const { dataKey } = await keyring(kms, { discovery: {} }).decrypting({ ...request, encryptedDataKeys })
    expect(dataKey).toEqual(Buffer.alloc(32, 7))
    expect(kms.asked.map(({ region }) => region)).toEqual(['eu-west-1', 'us-east-1'])
  })

  test('discovery in given regions asks a multi-Region key by its replica there and leaves other keys of other regions alone', async () => {
    const kms = scriptedKms()
    const encryptedDataKeys = await carriedBy(arn('eu-west-1', uuid), arn('eu-west-1', mrk))
    await keyring(kms, { discovery: { regions: ['us-east-1'] } }).decrypting({ ...request, encryptedDataKeys })
    expect(kms.asked.map(({ region, keyId }) => ({ region, keyId }))).toEqual([{ region: 'us-east-1', keyId: arn('us-east-1', mrk) }])
  })

  test.each([
    ['another account', { accounts: ['999999999999'] }],
    ['another partition', { partition: 'aws-cn' }],
    ['another region', { regions: ['eu-west-1'] }],
  ])('a discovery filter for %s lets the key alone', async (_what, discovery) => {
    const kms = scriptedKms()
    const encryptedDataKeys = await carriedBy(here)
    await expect(keyring(kms, { discovery }).decrypting({ ...request, encryptedDataKeys })).rejects.toThrow(
      `The message is under ${here}, which the discovery filter leaves out.`,
    )
    expect(kms.asked).toEqual([])
  })

  test('the right filter lets it through', async () => {
    const discovery = { partition: 'aws', accounts: ['999999999999', account], regions: ['us-east-1'] }
    const { dataKey } = await keyring(scriptedKms(), { discovery }).decrypting({ ...request, encryptedDataKeys: await carriedBy(here) })
    expect(dataKey).toEqual(Buffer.alloc(32, 7))
  })

  test.each([arn('us-east-1', '00000000-0000-4000-8000-000000000000'), arn('eu-west-1', uuid), uuid, ''])(
    'an answer for %j instead of the key that was asked is no answer, and is wiped',
    async (answered) => {
      const kms = scriptedKms({ keyId: () => answered })
      const encryptedDataKeys = await carriedBy(here)
      for (const options of [{ keys: [here] }, { discovery: {} }]) {
        await expect(keyring(kms, options).decrypting({ ...request, encryptedDataKeys })).rejects.toThrow('answered for')
      }
      expect(kms.handed).toEqual([Buffer.alloc(32), Buffer.alloc(32)])
    },
  )

  test('an alias that now means another key opens nothing of the old one', async () => {
    const kms = scriptedKms({ keyId: () => arn('us-east-1', '00000000-0000-4000-8000-000000000000') })
    const encryptedDataKeys = await carriedBy(here)
    await expect(keyring(kms, { keys: ['alias/app'] }).decrypting({ ...request, encryptedDataKeys })).rejects.toThrow(
      'says that arn:aws:kms:us-east-1:111122223333:key/00000000',
    )
  })

  test('why each key did not give it is said', async () => {
    const kms = scriptedKms({ refuse: /./ })
    const encryptedDataKeys = await carriedBy(here, arn('eu-west-1', uuid))
    const failure = await keyring(kms, { discovery: {} })
      .decrypting({ ...request, encryptedDataKeys })
      .catch((error: unknown) => error as DataKeyError)
    expect(failure).toBeInstanceOf(DataKeyError)
    expect((failure as DataKeyError).failures.map(({ key }) => key)).toEqual([here, arn('eu-west-1', uuid)])
    expect((failure as DataKeyError).message).toContain(`${here}: AccessDeniedException: not you; ${arn('eu-west-1', uuid)}: AccessDenied`)
  })

  test('a message that names a great many keys costs a bounded number of calls', async () => {
    const kms = scriptedKms({ refuse: /./ })
    const [one] = await carriedBy(here)
    if (!one) throw new Error('carries none')
    const encryptedDataKeys = Array.from({ length: 1000 }, () => one)
    await expect(keyring(kms, { discovery: {} }).decrypting({ ...request, encryptedDataKeys })).rejects.toThrow('968 more were not asked')
    expect(kms.asked).toHaveLength(32)
  })

  test('what a message says of its keys is shown without what a terminal would obey', async () => {
    const carried = { providerId: 'aws-kms', providerInfo: Buffer.from('\u001b[2J\u009bkey'), ciphertext: Buffer.from('x') }
    const asking = keyring(scriptedKms(), { keys: [here] }).decrypting({
      ...request,
      encryptedDataKeys: [carried, { ...carried, providerId: 'mine' }],
    })
    await expect(asking).rejects.toThrow(`The message is under ?[2J?key, a key of mine, not ${here}.`)
  })

  test('nor is what a key that was asked is called in the message, and how its KMS repeats it', async () => {
    const evil = arn('us-east-1', 'x\u001b[2J\u202ey\n')
    const carried = { providerId: 'aws-kms', providerInfo: Buffer.from(evil), ciphertext: Buffer.from('x') }
    const kms: KmsKeyringOptions['kms'] = () => ({
      ...scriptedKms().of('us-east-1'),
      decrypt: async ({ keyId }) => {
        throw new KmsFailure('NotFoundException', `Key '${keyId}' does not exist`)
      },
    })
    const asking = kmsKeyring({ kms, region: 'us-east-1', keys: [], discovery: {} }).decrypting({
      ...request,
      encryptedDataKeys: [carried],
    })
    const shown = arn('us-east-1', 'x?[2J?y?')
    await expect(asking).rejects.toThrow(`${shown}: NotFoundException: Key '${shown}' does not exist`)
  })
})

describe('a keyring that cannot be meant', () => {
  test.each([
    ['no key and no discovery', {}, 'Name a key, or ask for discovery.'],
    ['keys and discovery', { keys: [here], discovery: {} }, 'not both'],
    ['a filter that lets nothing through', { discovery: { accounts: [] } }, 'without any accounts'],
    ['an ARN that is none', { keys: ['arn:aws:s3:::bucket'] }, 'is no key id'],
    ['an empty name', { keys: [''] }, 'is no key id'],
    ['more keys than a message can be under', { keys: Array.from({ length: 65 }, (_, n) => `k${n}`) }, '65 keys are named'],
    ['a key twice', { keys: [here, here] }, 'named twice'],
    ['two replicas of one key', { keys: [arn('us-east-1', mrk), arn('eu-west-1', mrk)] }, 'is a replica of another'],
  ])('%s', (_what, options, message) => {
    expect(() => keyring(scriptedKms(), options)).toThrow(message)
  })
})
