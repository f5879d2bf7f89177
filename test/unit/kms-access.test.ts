/** What a policy can ask about a request: each `kms:` and `aws:` condition key, and whose encryption context it is about. */

import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { compilePolicy } from '../../src/auth/policy.ts'
import type { Principal } from '../../src/auth/principal.ts'
import { silentLog } from '../../src/base/log.ts'
import { permitKey, requestContext, sessionPolicy, trustPolicy } from '../../src/kms/access.ts'
import { KmsError } from '../../src/kms/errors.ts'
import type { Call, FoundKey, Operation } from '../../src/kms/operation.ts'
import { apis } from '../../src/kms/operations/index.ts'
import { Buckets, openThrottle } from '../../src/kms/quotas.ts'
import type { Service } from '../../src/kms/service.ts'
import type { GrantRecord, KeyRecord, Store } from '../../src/store/store.ts'
import { accountId, backEnds, clock, region, sampleAlias, sampleKey, type TestDatabase, samplePrincipal } from './store-suite.ts'

const alice: Principal = {
  type: 'IAMUser',
  arn: `arn:aws:iam::${accountId}:user/alice`,
  accountId,
  principalId: 'AIDAEXAMPLE',
  accessKeyId: 'AKIAEXAMPLE',
  userName: 'alice',
  tags: new Map(),
  identityPolicies: [compilePolicy('{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}', 'identity')],
}

let database: TestDatabase
let store: Store
beforeAll(async () => {
  const [backEnd] = backEnds
  if (!backEnd) throw new Error('no back end')
  database = backEnd.make()
  store = await database.open()
})
afterAll(() => database.drop())

function operationNamed(name: string): Operation {
  for (const api of apis) {
    const found = api.operations.get(name)
    if (found) return found
  }
  throw new Error(`no operation is called ${name}`)
}

const nowMs = Date.UTC(2026, 0, 2, 3, 4, 5)

const serviceWith = (more: object = {}): Service =>
  ({
    store,
    clock,
    log: silentLog,
    config: { accountId, regions: [region] },
    managedKeys: { serviceOf: () => undefined, prepare: () => undefined },
    throttle: openThrottle({}, new Buckets()),
    keyStores: { ready: () => undefined },
    ...more,
  }) as unknown as Service

function callOf(name: string, body: Readonly<Record<string, unknown>>, more: Partial<Call> = {}): Call {
  const operation = operationNamed(name)
  return {
    service: serviceWith(),
    operation,
    facts: { requestId: 'r', sourceIp: '192.0.2.7', userAgent: 'boto3/1', tls: undefined, host: 'h', receivedAt: nowMs },
    principal: alice,
    region,
    nowMs,
    input: operation.read(body),
    note: {},
    touched: [],
    ...more,
  }
}

const found = (record: KeyRecord, alias?: string): FoundKey => ({ record, alias })
const key = sampleKey({ tags: [{ key: 'Team', value: 'blue' }] })
const plaintext = 'QUFB'

describe('a condition key of KMS', () => {
  const encrypt = (context?: Record<string, string>) =>
    callOf('Encrypt', { KeyId: key.keyId, Plaintext: plaintext, ...(context && { EncryptionContext: context }) })

  test('kms:EncryptionContext:name is one value; it ignores the case of the name, never of the value', () => {
    const ask = requestContext(encrypt({ Purpose: 'Test', x: '1' }), found(key))
    expect(ask('kms:encryptioncontext:purpose')).toBe('Test')
    expect(ask('kms:encryptioncontext:x')).toBe('1')
    expect(ask('kms:encryptioncontext:y')).toBeUndefined()
    expect(requestContext(encrypt(), found(key))('kms:encryptioncontext:x')).toBeUndefined()
  })

  test('kms:EncryptionContext:name refuses a context in which two names could answer, but only when it is asked', () => {
    const ask = requestContext(encrypt({ Purpose: 'harmless', purpose: 'forbidden', x: '1' }), found(key))
    expect(() => ask('kms:encryptioncontext:purpose')).toThrow(KmsError)
    expect(ask('kms:encryptioncontext:x')).toBe('1')
    expect(ask('kms:encryptioncontextkeys')).toEqual(['Purpose', 'purpose', 'x'])
  })

  test('kms:EncryptionContextKeys lists the names as they were written', () => {
    expect(requestContext(encrypt({ B: '1', a: '2' }), found(key))('kms:encryptioncontextkeys')).toEqual(['B', 'a'])
    expect(requestContext(encrypt(), found(key))('kms:encryptioncontextkeys')).toBeUndefined()
  })

  test('about the key comes from the key', () => {
    const ask = requestContext(encrypt(), found(key, 'alias/app'))
    expect(ask('kms:keyspec')).toBe('SYMMETRIC_DEFAULT')
    expect(ask('kms:keyusage')).toBe('ENCRYPT_DECRYPT')
    expect(ask('kms:customermasterkeyspec')).toBe('SYMMETRIC_DEFAULT')
    // The spec of a data key is another matter.
    const dataKey = callOf('GenerateDataKey', { KeyId: key.keyId, KeySpec: 'AES_128' })
    expect(requestContext(dataKey, found(key))('kms:customermasterkeyspec')).toBe('SYMMETRIC_DEFAULT')
    expect(ask('kms:customermasterkeyusage')).toBe('ENCRYPT_DECRYPT')
    expect(ask('kms:keyorigin')).toBe('AWS_KMS')
    expect(ask('kms:multiregion')).toBe('false')
    expect(ask('kms:requestalias')).toBe('alias/app')
    expect(requestContext(encrypt(), found(key))('kms:requestalias')).toBeUndefined()
  })

  test('about the key to be made comes from the request, with the values that it has when it leaves them out', () => {
    const given = requestContext(
      callOf('CreateKey', { KeySpec: 'RSA_2048', KeyUsage: 'SIGN_VERIFY', Origin: 'EXTERNAL', MultiRegion: true }),
      undefined,
    )
    const bare = requestContext(callOf('CreateKey', {}), undefined)
    const expected = {
      'kms:keyspec': ['RSA_2048', 'SYMMETRIC_DEFAULT'],
      'kms:keyusage': ['SIGN_VERIFY', 'ENCRYPT_DECRYPT'],
      'kms:customermasterkeyspec': ['RSA_2048', 'SYMMETRIC_DEFAULT'],
      'kms:customermasterkeyusage': ['SIGN_VERIFY', 'ENCRYPT_DECRYPT'],
      'kms:keyorigin': ['EXTERNAL', 'AWS_KMS'],
      'kms:multiregion': ['true', 'false'],
      'kms:bypasspolicylockoutsafetycheck': ['false', 'false'],
    }
    for (const [name, values] of Object.entries(expected)) expect([given(name), bare(name)], name).toEqual(values)
    expect(
      requestContext(callOf('CreateKey', { BypassPolicyLockoutSafetyCheck: true }), undefined)('kms:bypasspolicylockoutsafetycheck'),
    ).toBe('true')
    // What makes no key has no such value.
    expect(requestContext(callOf('ListKeys', {}), undefined)('kms:keyspec')).toBeUndefined()
  })

  test('kms:ResourceAliases lists the aliases that point to the key now', async () => {
    const own = sampleKey()
    await store.insertKey(own, undefined)
    const ask = () => requestContext(encrypt(), found(own))('kms:resourcealiases')
    expect(ask()).toBeUndefined()
    await store.insertAlias(sampleAlias(own, 'access-b'))
    await store.insertAlias(sampleAlias(own, 'access-a'))
    expect(ask()).toEqual(['alias/access-a', 'alias/access-b'])
  })

  test('kms:EncryptionAlgorithm is the one of the request, the default when it names none, and absent where there is none', () => {
    const named = callOf('Encrypt', { KeyId: key.keyId, Plaintext: plaintext, EncryptionAlgorithm: 'RSAES_OAEP_SHA_1' })
    expect(requestContext(named, found(key))('kms:encryptionalgorithm')).toBe('RSAES_OAEP_SHA_1')
    expect(requestContext(encrypt(), found(key))('kms:encryptionalgorithm')).toBe('SYMMETRIC_DEFAULT')
    expect(requestContext(callOf('DescribeKey', { KeyId: key.keyId }), found(key))('kms:encryptionalgorithm')).toBeUndefined()
    const dataKey = callOf('GenerateDataKey', { KeyId: key.keyId, KeySpec: 'AES_256' })
    expect(requestContext(dataKey, found(key))('kms:encryptionalgorithm')).toBe('SYMMETRIC_DEFAULT')
  })

  test('about signatures, MACs, agreements and key pairs is the member of the request', () => {
    const message = { KeyId: key.keyId, Message: plaintext }
    const sign = requestContext(callOf('Sign', { ...message, SigningAlgorithm: 'ECDSA_SHA_256' }), found(key))
    expect(sign('kms:signingalgorithm')).toBe('ECDSA_SHA_256')
    // What the request leaves out it has said.
    expect(sign('kms:messagetype')).toBe('RAW')
    const verify = { ...message, SigningAlgorithm: 'ECDSA_SHA_256', MessageType: 'DIGEST', Signature: plaintext }
    expect(requestContext(callOf('Verify', verify), found(key))('kms:messagetype')).toBe('DIGEST')
    const mac = requestContext(callOf('GenerateMac', { ...message, MacAlgorithm: 'HMAC_SHA_512' }), found(key))
    expect(mac('kms:macalgorithm')).toBe('HMAC_SHA_512')
    expect(mac('kms:signingalgorithm')).toBeUndefined()
    const derive = callOf('DeriveSharedSecret', { KeyId: key.keyId, KeyAgreementAlgorithm: 'ECDH', PublicKey: plaintext })
    expect(requestContext(derive, found(key))('kms:keyagreementalgorithm')).toBe('ECDH')
    const encapsulate = callOf('Encapsulate', { KeyId: key.keyId, EncapsulationAlgorithm: 'ML_KEM' })
    expect(requestContext(encapsulate, found(key))('kms:encapsulationalgorithm')).toBe('ML_KEM')
    const pair = callOf('GenerateDataKeyPair', { KeyId: key.keyId, KeyPairSpec: 'RSA_2048' })
    expect(requestContext(pair, found(key))('kms:datakeypairspec')).toBe('RSA_2048')
  })

  test('kms:ScheduleKeyDeletionPendingWindowInDays is 30 when the request does not say', () => {
    const days = (body: object) =>
      requestContext(callOf('ScheduleKeyDeletion', { KeyId: key.keyId, ...body }), found(key))('kms:schedulekeydeletionpendingwindowindays')
    expect([days({}), days({ PendingWindowInDays: 7 })]).toEqual(['30', '7'])
    expect(requestContext(encrypt(), found(key))('kms:schedulekeydeletionpendingwindowindays')).toBeUndefined()
  })

  test('about a grant that is to be made comes from CreateGrant alone', () => {
    const grantee = 'arn:aws:iam::111122223333:user/bob'
    const source = `arn:aws:s3:us-east-1:${accountId}:bucket/b`
    const grant = (more: object) =>
      callOf('CreateGrant', { KeyId: key.keyId, GranteePrincipal: grantee, Operations: ['Encrypt', 'Decrypt'], ...more })
    const ask = (name: string, more: object = {}) => requestContext(grant(more), found(key))(`kms:${name}`)
    expect([ask('granteeprincipal'), ask('retiringprincipal')]).toEqual([grantee, undefined])
    expect(ask('retiringprincipal', { RetiringPrincipal: grantee })).toBe(grantee)
    expect(ask('granteeserviceprincipal', { GranteeServicePrincipal: 'a.b.c' })).toBe('a.b.c')
    expect(ask('retiringserviceprincipal', { RetiringServicePrincipal: 'a.b.c' })).toBe('a.b.c')
    expect(ask('grantoperations')).toEqual(['Encrypt', 'Decrypt'])
    const constrained = (Constraints: object) =>
      ['grantconstrainttype', 'grantconstraintsourcearn'].map((name) => ask(name, { Constraints }))
    expect(constrained({})).toEqual([undefined, undefined])
    // An empty map constrains nothing.
    expect(constrained({ EncryptionContextEquals: {} })).toEqual([undefined, undefined])
    expect(constrained({ EncryptionContextEquals: { a: 'b' }, SourceArn: source })).toEqual(['EncryptionContextEquals', source])
    expect(constrained({ EncryptionContextSubset: { a: 'b' } })).toEqual(['EncryptionContextSubset', undefined])
    expect(constrained({ SourceArn: source })).toEqual(['SourceArn', source])
    expect(ask('encryptioncontext:a', { Constraints: { EncryptionContextSubset: { A: 'b' } } })).toBe('b')
    expect(ask('encryptioncontextkeys', { Constraints: { EncryptionContextEquals: { A: 'b', c: 'd' } } })).toEqual(['A', 'c'])
    const list = requestContext(callOf('ListGrants', { KeyId: key.keyId, GranteePrincipal: grantee }), found(key))
    expect(list('kms:granteeprincipal')).toBeUndefined()
    const retirable = requestContext(callOf('ListRetirableGrants', { RetiringPrincipal: grantee }), undefined)
    expect(retirable('kms:retiringprincipal')).toBeUndefined()
  })

  test('kms:GrantIsForAWSResource says of the operations that know it whether a service asks', () => {
    const service = serviceWith({ managedKeys: { serviceOf: () => 's3' } })
    const ask = (name: string, body: object, more: Partial<Call> = {}) =>
      requestContext(callOf(name, { KeyId: key.keyId, ...body }, more), found(key))('kms:grantisforawsresource')
    const asked = (more: Partial<Call>) => [
      ask('ListGrants', {}, more),
      ask('RevokeGrant', { GrantId: 'x' }, more),
      ask('CreateGrant', { Operations: [] }, more),
      ask('DescribeKey', {}, more),
    ]
    expect(asked({})).toEqual(['false', 'false', 'false', undefined])
    expect(asked({ service })).toEqual(['true', 'true', 'true', undefined])
  })

  test('kms:ReEncryptOnSameKey compares the two keys', () => {
    const call = callOf('ReEncrypt', { DestinationKeyId: key.keyId, CiphertextBlob: plaintext })
    const touch = (arn: string) => call.touched.push({ arn, accountId, type: 'AWS::KMS::Key' })
    touch(key.arn)
    expect(requestContext(call, found(key))('kms:reencryptonsamekey')).toBeUndefined()
    touch(key.arn)
    expect(requestContext(call, found(key))('kms:reencryptonsamekey')).toBe('true')
    call.touched[1] = { arn: 'arn:other', accountId, type: 'AWS::KMS::Key' }
    expect(requestContext(call, found(key))('kms:reencryptonsamekey')).toBe('false')
  })

  test('that nobody defined has no value, even when it is the name of something on every object', () => {
    const ask = requestContext(encrypt(), found(key))
    for (const name of [
      'kms:',
      'kms:constructor',
      'kms:__proto__',
      'kms:tostring',
      'kms:nosuch',
      'aws:',
      'aws:__proto__',
      's3:prefix',
      '',
    ]) {
      expect(ask(name), name).toBeUndefined()
    }
  })
})

describe('a permission by grant', () => {
  const powerless: Principal = {
    ...alice,
    arn: `arn:aws:iam::${accountId}:user/powerless`,
    principalId: 'AIDAPOWERLESS',
    identityPolicies: [],
  }
  const lookups: string[] = []
  const counted = (): Store => ({
    ...store,
    grants: {
      ...store.grants,
      find(keyArn, grantee, context, accept) {
        lookups.push(grantee)
        return store.grants.find(keyArn, grantee, context, accept)
      },
    },
  })
  const delegating = (): KeyRecord =>
    sampleKey({
      policy: JSON.stringify({
        Version: '2012-10-17',
        Statement: { Effect: 'Allow', Principal: { AWS: accountId }, Action: 'kms:*', Resource: '*' },
      }),
    })
  const permit = (record: KeyRecord, principal: Principal, name = 'Encrypt') =>
    permitKey(
      callOf(name, { KeyId: record.keyId, Plaintext: plaintext }, { principal, service: serviceWith({ store: counted() }) }),
      `kms:${name}`,
      found(record),
      { crossAccount: true },
    )

  const grantTo = (grantee: Principal, record: KeyRecord, more: Partial<GrantRecord> = {}): GrantRecord => ({
    grantId: randomBytes(32).toString('hex'),
    keyArn: record.arn,
    grantee: grantee.arn,
    granteeId: grantee.principalId,
    retiring: null,
    retiringId: null,
    issuingAccountId: accountId,
    name: null,
    operations: ['Encrypt'],
    constraints: {},
    createdAt: nowMs,
    ...more,
  })

  test('counts by its token before this process has seen it, and only as the grant that it is', async () => {
    const [record, other] = [delegating(), delegating()]
    for (const each of [record, other]) await store.insertKey(each, undefined)
    const made = {
      mine: grantTo(powerless, record),
      others: grantTo(alice, record),
      elsewhere: grantTo(powerless, other),
      decrypt: grantTo(powerless, record, { operations: ['Decrypt'] }),
    }
    for (const each of Object.values(made)) await store.grants.insert(each, 10)
    // As in a process that another one's changes have not reached.
    const behind = serviceWith({ store: { ...store, grants: { ...store.grants, find: () => undefined } } })
    const permitted = async (...named: readonly { readonly grantId: string; readonly keyArn: string }[]): Promise<boolean> => {
      const call = callOf('Encrypt', { KeyId: record.keyId, Plaintext: plaintext }, { principal: powerless, service: behind })
      try {
        await permitKey(call, 'kms:Encrypt', found(record), { crossAccount: true }, named)
        return true
      } catch (error) {
        if (!(error instanceof KmsError) || error.code !== 'AccessDeniedException') throw error
        return false
      }
    }
    expect(await permitted()).toBe(false)
    expect(await permitted(made.mine)).toBe(true)
    expect(await permitted(made.others, made.decrypt, made.elsewhere)).toBe(false)
    expect(await permitted({ ...made.elsewhere, keyArn: record.arn })).toBe(false)
    expect(await permitted({ grantId: '0'.repeat(64), keyArn: record.arn })).toBe(false)
    await store.grants.delete(made.mine)
    expect(await permitted(made.mine)).toBe(false)
  })

  test('is looked for only where no policy decides, and then answered at once when it was looked for lately', async () => {
    const record = delegating()
    await store.insertKey(record, undefined)
    lookups.length = 0
    expect(permit(record, alice)).toBeUndefined()
    const denied = {
      ...alice,
      identityPolicies: [compilePolicy('{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}', 'identity')],
    }
    expect(() => permit(record, denied)).toThrow('with an explicit deny in an identity-based policy')
    // Which no grant can allow.
    expect(() => permit(record, powerless, 'ListGrants')).toThrow('because no identity-based policy allows the kms:ListGrants action')
    expect(lookups).toEqual([])

    const first = permit(record, powerless)
    expect(first).toBeInstanceOf(Promise)
    await expect(first).rejects.toThrow('because no identity-based policy allows the kms:Encrypt action')
    expect(() => permit(record, powerless)).toThrow('because no identity-based policy allows the kms:Encrypt action')
    const root = `arn:aws:iam::${accountId}:root`
    expect(lookups).toEqual([powerless.arn, root, powerless.arn, root])

    const grant = grantTo(powerless, record)
    await store.grants.insert(grant, 10)
    await permit(record, powerless)
    expect(permit(record, powerless)).toBeUndefined()
  })
})

describe('a global condition key', () => {
  test('about the request', () => {
    const plain = requestContext(callOf('ListKeys', {}), undefined)
    expect(plain('aws:currenttime')).toBe('2026-01-02T03:04:05.000Z')
    expect(plain('aws:epochtime')).toBe(String(nowMs / 1000))
    expect(plain('aws:requestedregion')).toBe(region)
    expect(plain('aws:sourceip')).toBe('192.0.2.7')
    expect(plain('aws:useragent')).toBe('boto3/1')
    expect(plain('aws:securetransport')).toBe('false')
    expect(plain('aws:viaawsservice')).toBe('false')
    expect(plain('kms:viaservice')).toBeUndefined()
    const service = serviceWith({ managedKeys: { serviceOf: () => 's3', prepare: () => undefined } })
    const through = requestContext(callOf('ListKeys', {}, { service }), undefined)
    expect([through('aws:viaawsservice'), through('kms:viaservice')]).toEqual(['true', `s3.${region}.amazonaws.com`])
    expect(plain('aws:resourceaccount')).toBe(accountId)
    const facts = { ...callOf('ListKeys', {}).facts, tls: { version: 'TLSv1.3', cipherSuite: 'x' } }
    expect(requestContext(callOf('ListKeys', {}, { facts }), undefined)('aws:securetransport')).toBe('true')
  })

  test('about tags: those of the key, those of the request, and the names in the request', () => {
    const ask = requestContext(
      callOf('TagResource', {
        KeyId: key.keyId,
        Tags: [
          { TagKey: 'Cost', TagValue: '7' },
          { TagKey: 'env', TagValue: '' },
        ],
      }),
      found(key),
    )
    expect(ask('aws:resourcetag/team')).toBe('blue')
    expect(ask('aws:resourcetag/cost')).toBeUndefined()
    expect(ask('aws:requesttag/cost')).toBe('7')
    expect(ask('aws:requesttag/env')).toBe('')
    expect(ask('aws:tagkeys')).toEqual(['Cost', 'env'])
    const untag = requestContext(callOf('UntagResource', { KeyId: key.keyId, TagKeys: ['Cost'] }), found(key))
    expect(untag('aws:tagkeys')).toEqual(['Cost'])
    expect(untag('aws:requesttag/cost')).toBeUndefined()
  })

  test('about tags reads those of our own administration too', () => {
    const ask = requestContext(callOf('CreateUser', { UserName: 'bob', Tags: [{ Key: 'Team', Value: 'red' }] }), undefined)
    expect(ask('aws:requesttag/team')).toBe('red')
    expect(ask('aws:tagkeys')).toEqual(['Team'])
  })
})

describe('ReEncrypt', () => {
  /** Allows one of its two halves, with a context that says who. */
  const policy = (action: string, who: string): string =>
    JSON.stringify({
      Version: '2012-10-17',
      Statement: [
        {
          Effect: 'Allow',
          Principal: { AWS: alice.arn },
          Action: action,
          Resource: '*',
          Condition: {
            StringEquals: { 'kms:EncryptionContext:who': who },
            'ForAllValues:StringEquals': { 'kms:EncryptionContextKeys': ['who'] },
          },
        },
      ],
    })
  let from: KeyRecord
  let to: KeyRecord
  beforeEach(async () => {
    from = sampleKey({ policy: policy('kms:ReEncryptFrom', 'source') })
    to = sampleKey({ policy: policy('kms:ReEncryptTo', 'destination') })
    for (const record of [from, to]) await store.insertKey(record, undefined)
  })

  /** A dry run goes down the road to the end without a token. */
  async function outcome(contexts: Readonly<Record<string, unknown>>, principal: Principal = alice): Promise<string> {
    const call = callOf(
      'ReEncrypt',
      { SourceKeyId: from.keyId, DestinationKeyId: to.keyId, DryRun: true, DryRunModifiers: ['IGNORE_CIPHERTEXT'], ...contexts },
      { principal },
    )
    try {
      await call.operation.perform(call)
      return 'answered'
    } catch (error) {
      if (!(error instanceof KmsError)) throw error
      return `${error.code} ${/kms:ReEncrypt\w+/.exec(error.message)?.[0] ?? ''}`.trim()
    }
  }
  const powerless: Principal = { ...alice, identityPolicies: [] }

  test("meets the policy of each key with that key's own context", async () => {
    expect(
      await outcome({ SourceEncryptionContext: { who: 'source' }, DestinationEncryptionContext: { who: 'destination' } }, powerless),
    ).toBe('DryRunOperationException')
  })

  test("never lets one key's context speak for the other", async () => {
    const source = { who: 'source' }
    const destination = { who: 'destination' }
    const denials: readonly (readonly [object, string])[] = [
      [{ SourceEncryptionContext: destination, DestinationEncryptionContext: source }, 'AccessDeniedException kms:ReEncryptFrom'],
      [{ SourceEncryptionContext: source }, 'AccessDeniedException kms:ReEncryptTo'],
      [{ SourceEncryptionContext: source, DestinationEncryptionContext: source }, 'AccessDeniedException kms:ReEncryptTo'],
      [{ DestinationEncryptionContext: destination }, 'AccessDeniedException kms:ReEncryptFrom'],
      [
        { SourceEncryptionContext: { ...source, more: '' }, DestinationEncryptionContext: destination },
        'AccessDeniedException kms:ReEncryptFrom',
      ],
      // A member of another operation is not read here at all.
      [{ EncryptionContext: source, DestinationEncryptionContext: destination }, 'AccessDeniedException kms:ReEncryptFrom'],
    ]
    for (const [contexts, denial] of denials) expect(await outcome(contexts as Record<string, unknown>, powerless)).toBe(denial)
  })

  test('is denied in full when either half is', async () => {
    await store.updateKey(to.arn, () => ({ policy: policy('kms:ReEncryptFrom', 'destination') }))
    expect(
      await outcome({ SourceEncryptionContext: { who: 'source' }, DestinationEncryptionContext: { who: 'destination' } }, powerless),
    ).toBe('AccessDeniedException kms:ReEncryptTo')
  })
})

describe('a key of another account', () => {
  const foreign = sampleKey()
  const open = JSON.stringify({ Version: '2012-10-17', Statement: [{ Effect: 'Allow', Principal: '*', Action: 'kms:*', Resource: '*' }] })
  const theirs: KeyRecord = { ...foreign, accountId: '444455556666', arn: foreign.arn.replace(accountId, '444455556666'), policy: open }

  test('is denied for operations that do not cross accounts, whatever the policies say, in words that do not say whether it exists', () => {
    const call = callOf('DisableKey', { KeyId: theirs.arn })
    expect(() => permitKey(call, 'kms:DisableKey', found(theirs), {})).toThrow(
      /because the resource does not exist in this Region, no resource-based policies allow access, or/,
    )
    expect(() => permitKey(call, 'kms:DisableKey', found(theirs), { crossAccount: true })).not.toThrow()
  })
})

test('the policies of roles and sessions are compiled once for each version', () => {
  const statement = { Effect: 'Allow', Principal: { AWS: accountId }, Action: 'sts:AssumeRole' }
  const document = JSON.stringify({ Version: '2012-10-17', Statement: [statement] })
  const role = samplePrincipal('deploy', { kind: 'role', trustPolicy: document })
  expect(trustPolicy(role)).toBe(trustPolicy(role))
  expect(trustPolicy({ ...role })).not.toBe(trustPolicy(role))
  expect(trustPolicy({ ...role, trustPolicy: null })).toBeUndefined()
  const session = (name: string): string =>
    JSON.stringify({ Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: `kms:${name}`, Resource: '*' }] })
  expect(sessionPolicy(session('Encrypt'))).toBe(sessionPolicy(session('Encrypt')))
  expect(sessionPolicy(session('Encrypt'))).not.toBe(sessionPolicy(session('Decrypt')))
  expect(() => sessionPolicy('{')).toThrow('Syntax errors in policy')
})
