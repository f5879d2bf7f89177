/**
 * Bad input, over all 56 operations: one table from AWS's model of the API. Each member missing, null, of another JSON type, beyond its bounds; keys that
 * are named wrongly, in a wrong state, of another usage, of another account and region. At the end everything is as it was before.
 *
 * Values at the very edges of each bound: test/unit/registry.test.ts, and through the SDK test/token/contract/validation.test.ts.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  allMembersOf,
  bodyWith,
  edgesOf,
  errorsOf,
  leastInput,
  membersOf,
  nullProblem,
  operationNames,
  problemsOfText,
  withoutListedValues,
  type ModelMember,
} from '../unit/kms-model.ts'
import { makeAccount, openInProcess, rawCall, type Credentials, type InProcess } from './holdfast.ts'

type Body = Readonly<Record<string, unknown>>
interface As {
  readonly credentials?: Credentials
  readonly region?: string
}

let holdfast: InProcess

/** Blobs as base64, at any depth. */
const wire = (body: unknown): string =>
  JSON.stringify(body, function (this: Body, name, value: unknown) {
    const given = this[name]
    return Buffer.isBuffer(given) ? given.toString('base64') : value
  })

/** Every error that was seen, by operation: each must be one that AWS documents. */
const seen = new Map<string, Set<string>>()

/** `answered`, or the error's type and its words. */
async function outcomeOf(operation: string, body: unknown, as: As = {}): Promise<string> {
  const { status, json } = await rawCall(holdfast, 'kms', operation, wire(body), { ...as, nowMs: holdfast.clock.now() })
  if (status === 200) return 'answered'
  const type = String(json['__type'])
  seen.set(operation, (seen.get(operation) ?? new Set()).add(type))
  // AWS spells it so in one error.
  const message = json[type === 'AccessDeniedException' ? 'Message' : 'message']
  const words = typeof message === 'string' ? `${type}: ${message}` : type
  return status === 400 ? words : `${status} ${words}`
}

/** The same of a table of cases: all are called at once. */
async function outcomesOf(
  operation: string,
  cases: Readonly<Record<string, Body>>,
  as: As = {},
): Promise<Readonly<Record<string, string>>> {
  const outcomes = Object.entries(cases).map(async ([name, body]) => [name, await outcomeOf(operation, body, as)] as const)
  return Object.fromEntries(await Promise.all(outcomes))
}

async function answerOf(operation: string, body: Body, as: As = {}): Promise<Body> {
  const { status, text, json } = await rawCall(holdfast, 'kms', operation, wire(body), { ...as, nowMs: holdfast.clock.now() })
  if (status !== 200) throw new Error(`${operation} answered ${status} ${text}`)
  return json
}

// ---- what is there: made once ----

interface Key {
  readonly id: string
  readonly arn: string
}

async function makeKey(input: Body = {}, as: As = {}): Promise<Key> {
  const { KeyMetadata } = await answerOf('CreateKey', input, as)
  const { KeyId: id, Arn: arn } = KeyMetadata as { readonly KeyId: string; readonly Arn: string }
  return { id, arn }
}

const states = ['Enabled', 'Disabled', 'PendingDeletion', 'PendingReplicaDeletion', 'PendingImport'] as const
type State = (typeof states)[number]

/** A symmetric key in a state, with an alias, and a blob where it has ever had material. */
interface Subject extends Key {
  readonly state: State
  readonly alias: string
  readonly blob: string
}

let aliasCount = 0
async function makeSubject(state: State): Promise<Subject> {
  const key = await makeKey(state === 'PendingImport' ? { Origin: 'EXTERNAL' } : {})
  const alias = `alias/bad-input-${++aliasCount}`
  await answerOf('CreateAlias', { AliasName: alias, TargetKeyId: key.id })
  const { CiphertextBlob } = state === 'PendingImport' ? subjects.Enabled : await answerOf('Encrypt', { KeyId: key.id, Plaintext: 'eA==' })
  if (state === 'Disabled') await answerOf('DisableKey', { KeyId: key.id })
  if (state === 'PendingDeletion') await answerOf('ScheduleKeyDeletion', { KeyId: key.id, PendingWindowInDays: 7 })
  if (state === 'PendingReplicaDeletion') await holdfast.store.updateKey(key.arn, () => ({ state, deletionWindowDays: 7 }))
  return { ...key, state, alias, blob: CiphertextBlob as string }
}

/** One key of each kind that the token can make; of RSA the larger sizes once, since they take long. */
const kinds = [
  ['RSA_2048', 'ENCRYPT_DECRYPT'],
  ['RSA_2048', 'SIGN_VERIFY'],
  ['RSA_3072', 'SIGN_VERIFY'],
  ['RSA_4096', 'ENCRYPT_DECRYPT'],
  ['ECC_NIST_P256', 'SIGN_VERIFY'],
  ['ECC_NIST_P256', 'KEY_AGREEMENT'],
  ['ECC_NIST_P384', 'SIGN_VERIFY'],
  ['ECC_NIST_P384', 'KEY_AGREEMENT'],
  ['ECC_NIST_P521', 'SIGN_VERIFY'],
  ['ECC_NIST_P521', 'KEY_AGREEMENT'],
  ['ECC_SECG_P256K1', 'SIGN_VERIFY'],
  ['ECC_NIST_EDWARDS25519', 'SIGN_VERIFY'],
  ['HMAC_224', 'GENERATE_VERIFY_MAC'],
  ['HMAC_256', 'GENERATE_VERIFY_MAC'],
  ['HMAC_384', 'GENERATE_VERIFY_MAC'],
  ['HMAC_512', 'GENERATE_VERIFY_MAC'],
  ['SYMMETRIC_DEFAULT', 'ENCRYPT_DECRYPT'],
] as const
interface KindOfKey extends Key {
  readonly spec: string
  readonly usage: string
}

const subjects = {} as Record<State, Subject & { readonly CiphertextBlob?: string }>
let ofEachKind: readonly KindOfKey[]
let grantId: string
/** Of another account: one that lets nobody else, and one that lets everybody of ours do everything. */
let closed: Key
let open: Key
let elsewhere: Key
let before: unknown

const otherAccount = '444455556666'
const otherRegion = 'eu-west-1'
const absentId = '00000000-0000-4000-8000-000000000000'
const keyArn = (id: string, region = 'us-east-1', account = '111122223333'): string => `arn:aws:kms:${region}:${account}:key/${id}`
const aliasArn = (name: string, account = '111122223333'): string => `arn:aws:kms:us-east-1:${account}:${name}`

beforeAll(async () => {
  holdfast = await openInProcess()
  const credentials = await makeAccount(holdfast, otherAccount)
  subjects.Enabled = await makeSubject('Enabled')
  const everything = (account: string) => ({
    Effect: 'Allow',
    Principal: { AWS: `arn:aws:iam::${account}:root` },
    Action: 'kms:*',
    Resource: '*',
  })
  const policy = { Version: '2012-10-17', Statement: [everything(otherAccount), everything('111122223333')] }
  const [made, theirs, theirsToo, there, grant] = await Promise.all([
    Promise.all(kinds.map(async ([spec, usage]) => ({ spec, usage, ...(await makeKey({ KeySpec: spec, KeyUsage: usage })) }))),
    makeKey({}, { credentials }),
    makeKey({ Policy: JSON.stringify(policy) }, { credentials }),
    makeKey({}, { region: otherRegion }),
    answerOf('CreateGrant', { KeyId: subjects.Enabled.id, GranteePrincipal: 'arn:aws:iam::111122223333:root', Operations: ['Encrypt'] }),
    ...states.slice(1).map(async (state) => (subjects[state] = await makeSubject(state))),
  ])
  ofEachKind = made
  closed = theirs
  open = theirsToo
  elsewhere = there
  grantId = String(grant['GrantId'])
  before = await everythingThere()
})
afterAll(async () => {
  await holdfast.close()
})

/** All that a call could have made, changed or destroyed, in the database and in the token. How often keys encrypted is no such thing. */
async function everythingThere(): Promise<unknown> {
  const { store, token } = holdfast
  const keys = [...store.view.allKeys()].map(async (key) => ({
    ...key,
    materials: store.view.backingKeys(key.arn).map(({ encryptionsReserved: _reserved, ...material }) => material),
    aliases: store.view.aliasesOf(key.arn),
    grants: (await store.grants.list({ keyArn: key.arn }, undefined, 1000)).items,
  }))
  const objects = (await token.allObjects()).map(({ ckaId, label, objectClass }) => `${label} ${ckaId} ${objectClass}`)
  return {
    keys: await Promise.all(keys),
    keyStores: store.view.allKeyStores(),
    imports: await store.importObjects(),
    objects: objects.toSorted(),
  }
}

// ---- members ----

/** What makes a request that is right by the model one that nothing comes of. */
const refusedFor: Readonly<Record<string, Body>> = {
  CreateKey: { KeyUsage: 'SIGN_VERIFY' },
  Decrypt: { CiphertextBlob: 'eA==' },
  ReEncrypt: { CiphertextBlob: 'eA==' },
}
const harmless = (operation: string): Body => ({ ...leastInput(operation), ...refusedFor[operation] })

const aOrAn: Readonly<Record<string, string>> = {
  string: 'String',
  integer: 'Integer',
  boolean: 'Boolean',
  timestamp: 'Timestamp',
  list: 'List',
  map: 'Map',
  structure: 'Structure',
}

/** JSON values that a member's type does not allow, and what is said of them. */
function wrongValuesOf({
  shape: { type },
  path,
}: ModelMember): readonly { readonly name: string; readonly value: unknown; readonly said: string }[] {
  const met = [
    { what: 'a text', value: 'x', said: 'STRING_VALUE cannot be converted to', fits: ['string'] },
    { what: 'a number', value: 7, said: 'NUMBER_VALUE cannot be converted to', fits: ['integer', 'timestamp'] },
    { what: 'true', value: true, said: 'TRUE_VALUE cannot be converted to', fits: ['boolean'] },
    { what: 'a list', value: [], said: 'Start of list found where not expected', fits: ['list'] },
    { what: 'an object', value: {}, said: 'Start of structure or map found where not expected', fits: ['map', 'structure'] },
  ]
  const words = (said: string): string => {
    if (type === 'blob') return 'SerializationException'
    return `SerializationException: ${said.endsWith(' to') ? `${said} ${aOrAn[type]}` : said}`
  }
  return [
    ...met
      .filter(({ fits }) => !fits.includes(type))
      .map(({ what, value, said }) => ({ name: `${path} is ${what}`, value, said: words(said) })),
    ...(type === 'blob' ? [{ name: `${path} is cut base64`, value: 'QQ', said: 'SerializationException' }] : []),
    ...(type === 'integer'
      ? [{ name: `${path} is beyond 32 bits`, value: 2 ** 31, said: words('NUMBER_VALUE cannot be converted to') }]
      : []),
    ...(type === 'map'
      ? [
          { name: `${path} has a number`, value: { a: 1 }, said: 'SerializationException: NUMBER_VALUE cannot be converted to String' },
          { name: `${path} has a list`, value: { a: [] }, said: 'SerializationException: Start of list found where not expected' },
          { name: `${path} has null`, value: { a: null }, said: 'SerializationException: Map value cannot be null' },
        ]
      : []),
  ]
}

describe.each(operationNames)('%s', (operation) => {
  test('takes each member of its JSON type alone', async () => {
    const wrong = allMembersOf(operation).flatMap((member) => wrongValuesOf(member).map((each) => ({ ...each, path: member.path })))
    const cases = wrong.map(({ name, path, value }) => [name, { ...harmless(operation), ...bodyWith(operation, path, value) }] as const)
    expect(await outcomesOf(operation, Object.fromEntries(cases))).toEqual(Object.fromEntries(wrong.map(({ name, said }) => [name, said])))
  })

  test('takes null for a member that is left out, and passes over members that nobody knows', async () => {
    const least = await outcomeOf(operation, harmless(operation))
    const optional = membersOf(operation).filter(({ path, required }) => !required && !Object.hasOwn(harmless(operation), path))
    const cases = {
      ...Object.fromEntries(optional.map(({ path }) => [`${path} is null`, { ...harmless(operation), [path]: null }])),
      'a member that nobody knows': { ...harmless(operation), NoSuchMember: { deep: [1, null] } },
      'a name in lower case': { ...harmless(operation), keyId: 7, limit: 'x' },
    }
    expect(await outcomesOf(operation, cases)).toEqual(Object.fromEntries(Object.keys(cases).map((name) => [name, least])))
  })

  test('wants each required member, at any depth', async () => {
    const required = allMembersOf(operation).filter((member) => member.required && !member.path.endsWith('[]'))
    const cases = required.flatMap(({ path }) => [
      [`${path} is null`, { ...harmless(operation), ...bodyWith(operation, path, null) }] as const,
      [`${path} is missing`, { ...harmless(operation), ...bodyWith(operation, path, undefined) }] as const,
    ])
    const said = (path: string): string => `ValidationException: 1 validation error detected: ${nullProblem(path)}`
    expect(await outcomesOf(operation, Object.fromEntries(cases))).toEqual(
      Object.fromEntries(required.flatMap(({ path }) => [`${path} is null`, `${path} is missing`].map((name) => [name, said(path)]))),
    )
  })

  test('names everything that is wrong in one message', async () => {
    // One bad value for each member: an item's where it has items, else its own.
    const edges = edgesOf(operation).filter(({ problems }) => problems.length > 0)
    const bad = membersOf(operation).flatMap(({ path }) => edges.findLast(({ member }) => member.split(/[.[]/)[0] === path) ?? [])
    const body = Object.assign({}, harmless(operation), ...bad.map(({ member, value }) => bodyWith(operation, member, value))) as Body
    const problems = bad.flatMap((edge) => edge.problems).map(withoutListedValues)
    const said = await outcomeOf(operation, body)
    const [, told = ''] = /^ValidationException: (.*)$/s.exec(said) ?? []
    expect(problemsOfText(told)).toEqual(problems.toSorted())
    // ListKeys and the like have members without bounds; none has no bounded member at all.
    expect(told).toMatch(new RegExp(`^${problems.length} validation errors? detected: `))
  })
})

// ---- what stands for a key ----

/** Where AWS takes an alias for a key. */
const takesAlias: ReadonlySet<string> = new Set([
  'DescribeKey',
  'GetPublicKey',
  'Encrypt',
  'Decrypt',
  'ReEncrypt',
  'Sign',
  'Verify',
  'GenerateMac',
  'VerifyMac',
  'DeriveSharedSecret',
  'GenerateDataKey',
  'GenerateDataKeyWithoutPlaintext',
  'GenerateDataKeyPair',
  'GenerateDataKeyPairWithoutPlaintext',
  'Encapsulate',
  'Decapsulate',
])

/** Where AWS says "Cross-account use: Yes". */
const crossesAccounts: ReadonlySet<string> = new Set([
  ...takesAlias,
  'CreateGrant',
  'ListGrants',
  'RetireGrant',
  'RevokeGrant',
  'GetKeyRotationStatus',
])

/** Each place of a request that names a key. */
const places = operationNames.flatMap((operation) =>
  membersOf(operation)
    .filter(({ shapeName }) => shapeName === 'KeyIdType')
    .map(({ path }) => ({ operation, member: path })),
)

/** A request that fails at the key, if at all, or after it. */
function naming(operation: string, member: string, reference: string): Body {
  const { id, alias, blob } = subjects.Enabled
  const fitting: Readonly<Record<string, Body>> = {
    CreateAlias: { AliasName: 'alias/bad-input-new' },
    UpdateAlias: { AliasName: alias },
    Decrypt: { CiphertextBlob: blob },
    ReEncrypt: { CiphertextBlob: blob, DestinationKeyId: id },
    RetireGrant: { GrantId: grantId },
  }
  return { ...harmless(operation), ...fitting[operation], [member]: reference }
}

const actionOf = (operation: string, member: string): string =>
  operation === 'ReEncrypt' ? (member === 'SourceKeyId' ? 'kms:ReEncryptFrom' : 'kms:ReEncryptTo') : `kms:${operation}`

describe.each(places)('$operation, its $member', ({ operation, member }) => {
  const onAll = async (references: readonly string[], as: As = {}) =>
    outcomesOf(operation, Object.fromEntries(references.map((reference) => [reference, naming(operation, member, reference)])), as)

  test('names what is no key id, what is not there and what is in another region in the words of AWS', async () => {
    const { id, arn, alias } = subjects.Enabled
    const absent = [absentId, `mrk-${'0'.repeat(32)}`]
    const malformed = [
      'fake-key-id',
      absentId.replaceAll('-', ''),
      'mrk-fake-key-id',
      id.toUpperCase(),
      `${id} `,
      'key',
      '*',
      keyArn('').slice(0, -1),
    ]
    const arns = [
      'arn:',
      'arn:aws:kms',
      'arn:aws:s3:::bucket',
      'arn:aws:iam::111122223333:root',
      `arn:aws:kms:us-east-1::key/${id}`,
      `arn:aws-cn:kms:us-east-1:111122223333:key/${id}`,
      `arn:aws:kms:us-east-1:111122223333:grant/${id}`,
      keyArn(''),
      `${arn}\n`,
    ]
    const aliases = [alias, aliasArn(alias)]
    const missing = ['alias/no-such', aliasArn('alias/no-such')]
    const invalidArn = errorsOf(operation).includes('InvalidArnException') ? 'InvalidArnException' : 'NotFoundException'
    const aliasRefused = (reference: string): string =>
      member === 'TargetKeyId'
        ? 'ValidationException: Aliases must refer to keys. Not aliases'
        : `NotFoundException: Invalid keyId '${reference}'`
    const expected: Readonly<Record<string, string>> = {
      ...Object.fromEntries(
        absent.flatMap((each) => [each, keyArn(each)].map((name) => [name, `NotFoundException: Key '${keyArn(each)}' does not exist`])),
      ),
      [elsewhere.id]: `NotFoundException: Key '${keyArn(elsewhere.id)}' does not exist`,
      [elsewhere.arn]: `NotFoundException: Invalid arn ${otherRegion}`,
      ...Object.fromEntries(
        malformed.map((each) => [
          each,
          each.startsWith('arn:') ? `${invalidArn}: Invalid arn ${each}` : `NotFoundException: Invalid keyId '${each}'`,
        ]),
      ),
      ...Object.fromEntries(arns.map((each) => [each, `${invalidArn}: Invalid arn ${each}`])),
      ...(takesAlias.has(operation)
        ? Object.fromEntries(missing.map((each) => [each, `NotFoundException: Alias ${aliasArn('alias/no-such')} is not found.`]))
        : Object.fromEntries([...aliases, ...missing].map((each) => [each, aliasRefused(each)]))),
    }
    expect(await onAll(Object.keys(expected))).toEqual(expected)
  })

  test('is not found in a region where the key is not', async () => {
    const { id, arn, alias } = subjects.Enabled
    // Two look for something else first, which is not there either.
    const first: Readonly<Record<string, string>> = {
      'UpdateAlias TargetKeyId': `NotFoundException: Alias arn:aws:kms:${otherRegion}:111122223333:${alias} is not found.`,
      'ReEncrypt DestinationKeyId':
        'AccessDeniedException: The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.',
    }
    const said = first[`${operation} ${member}`]
    expect(await onAll([id, arn], { region: otherRegion })).toEqual({
      [id]: said ?? `NotFoundException: Key '${keyArn(id, otherRegion)}' does not exist`,
      [arn]: said ?? 'NotFoundException: Invalid arn us-east-1',
    })
  })

  test('does not tell a key of another account that lets nobody in from none', async () => {
    const unseen = `AccessDeniedException: User: arn:aws:iam::111122223333:root is not authorized to perform: ${actionOf(operation, member)} on this resource because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access`
    const absent = keyArn(absentId, 'us-east-1', otherAccount)
    const absentAlias = aliasArn('alias/no-such', otherAccount)
    const ofAlias = takesAlias.has(operation)
      ? unseen
      : member === 'TargetKeyId'
        ? 'ValidationException: Aliases must refer to keys. Not aliases'
        : `NotFoundException: Invalid keyId '${absentAlias}'`
    const references = [closed.arn, absent, absentAlias, ...(crossesAccounts.has(operation) ? [] : [open.arn])]
    const expected = Object.fromEntries(references.map((each) => [each, each === absentAlias ? ofAlias : unseen]))
    expect(await onAll(references)).toEqual(expected)
  })
})

// These change nothing, so that each can be tried on the same key.
describe.each(places.filter(({ operation }) => takesAlias.has(operation)))('$operation, its $member', ({ operation, member }) => {
  test('may be a key id, a key ARN, an alias or the ARN of an alias: the answer is the same', async () => {
    const { id, arn, alias } = subjects.Enabled
    const references = [id, arn, alias, aliasArn(alias)]
    const outcomes = await outcomesOf(operation, Object.fromEntries(references.map((each) => [each, naming(operation, member, each)])))
    expect(Object.values(outcomes).every((said) => said === outcomes[id] && !said.startsWith('NotFound'))).toBe(true)
  })
})

// A grant that is not there is not told of: RetireGrant is refused in the same words.
describe.each(places.filter(({ operation }) => crossesAccounts.has(operation) && operation !== 'RetireGrant'))(
  '$operation, its $member',
  ({ operation, member }) => {
    test('may be a key of another account that lets everybody in', async () => {
      expect(await outcomeOf(operation, naming(operation, member, open.arn))).not.toContain('AccessDeniedException')
    })
  },
)

// ---- states ----

const usable = ['Enabled'] as const
const notDoomed = ['Enabled', 'Disabled', 'PendingImport'] as const

/** AWS's table "Key states of AWS KMS keys", for what is not allowed in every state. */
const allowedIn: Readonly<Record<string, readonly State[]>> = {
  CancelKeyDeletion: ['PendingDeletion', 'PendingReplicaDeletion'],
  CreateAlias: notDoomed,
  CreateGrant: usable,
  Decapsulate: usable,
  Decrypt: usable,
  DeriveSharedSecret: usable,
  DisableKey: ['Enabled', 'Disabled'],
  DisableKeyRotation: usable,
  EnableKey: ['Enabled', 'Disabled'],
  EnableKeyRotation: usable,
  Encapsulate: usable,
  Encrypt: usable,
  GenerateDataKey: usable,
  GenerateDataKeyPair: usable,
  GenerateDataKeyPairWithoutPlaintext: usable,
  GenerateDataKeyWithoutPlaintext: usable,
  GenerateMac: usable,
  GetPublicKey: usable,
  ReEncrypt: usable,
  RotateKeyOnDemand: usable,
  ScheduleKeyDeletion: notDoomed,
  Sign: usable,
  TagResource: notDoomed,
  UntagResource: notDoomed,
  UpdateAlias: notDoomed,
  UpdateKeyDescription: notDoomed,
  Verify: usable,
  VerifyMac: usable,
}
const readers = [
  'DescribeKey',
  'GetKeyLastUsage',
  'GetKeyPolicy',
  'GetKeyRotationStatus',
  'ListAliases',
  'ListGrants',
  'ListKeyPolicies',
  'ListKeyRotations',
  'ListResourceTags',
]

const stateWords: Readonly<Record<State, string>> = {
  Enabled: 'KMSInvalidStateException: ARN is enabled.',
  Disabled: 'DisabledException: ARN is disabled.',
  PendingDeletion: 'KMSInvalidStateException: ARN is pending deletion.',
  PendingReplicaDeletion: 'KMSInvalidStateException: ARN is pending replica deletion.',
  PendingImport: 'KMSInvalidStateException: ARN is pending import.',
}

/** What AWS looks at before the state: where the material is from, and whether there are replicas. */
function saidInAnyState(operation: string, state: State): string | undefined {
  const origin = state === 'PendingImport' ? 'EXTERNAL' : 'AWS_KMS'
  const wanted = /Import/.test(operation) ? 'EXTERNAL' : /(?:Enable|Disable|Get)KeyRotation/.test(operation) ? 'AWS_KMS' : origin
  if (wanted !== origin) return `UnsupportedOperationException: ARN origin is ${origin} which is not valid for this operation.`
  return /ReplicateKey|UpdatePrimaryRegion/.test(operation)
    ? 'UnsupportedOperationException: ARN is not a multi-region primary key.'
    : undefined
}

/** Of Decrypt and ReEncrypt a dry run: a key that lacks its material has made no blob. */
function inState(operation: string, member: string, subject: Subject): Body {
  const body = naming(operation, member, subject.id)
  if (operation !== 'Decrypt' && member !== 'SourceKeyId') return body
  const { CiphertextBlob: _blob, ...rest } = body
  return { ...rest, DryRun: true, DryRunModifiers: ['IGNORE_CIPHERTEXT'] }
}

describe.each(places.filter(({ operation }) => !/ImportKeyMaterial|RetireGrant|RevokeGrant|DeleteImported/.test(operation)))(
  '$operation, its $member',
  ({ operation, member }) => {
    test('must be in a state that AWS’s table of key states allows', async () => {
      for (const state of states) {
        const subject = subjects[state]
        const isAllowed = allowedIn[operation]?.includes(state) ?? true
        const refused = operation === 'CancelKeyDeletion' ? 'KMSInvalidStateException: ARN is not pending deletion.' : stateWords[state]
        const expected = saidInAnyState(operation, state) ?? (isAllowed ? undefined : refused)
        // What is allowed and changes something is tried in the tests of each operation.
        if (expected === undefined && !readers.includes(operation)) continue
        const said = (await outcomeOf(operation, inState(operation, member, subject))).replaceAll(subject.arn, 'ARN')
        expect({ state, said }).toEqual({ state, said: expected ?? 'answered' })
      }
    })
  },
)

// ---- usage and algorithms ----

const rsaSignatures = ['PSS', 'PKCS1_V1_5'].flatMap((scheme) => [256, 384, 512].map((bits) => `RSASSA_${scheme}_SHA_${bits}`))
/** AWS's tables of key specs: what a key of each spec and usage works with. */
function algorithmsOf({ spec, usage }: KindOfKey): readonly string[] {
  if (spec === 'SYMMETRIC_DEFAULT') return ['SYMMETRIC_DEFAULT']
  if (usage === 'KEY_AGREEMENT') return ['ECDH']
  if (usage === 'GENERATE_VERIFY_MAC') return [spec.replace('HMAC_', 'HMAC_SHA_')]
  if (usage === 'ENCRYPT_DECRYPT') return ['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256']
  const ofCurve: Readonly<Record<string, readonly string[]>> = {
    ECC_NIST_P256: ['ECDSA_SHA_256'],
    ECC_NIST_P384: ['ECDSA_SHA_384'],
    ECC_NIST_P521: ['ECDSA_SHA_512'],
    ECC_SECG_P256K1: ['ECDSA_SHA_256'],
    ECC_NIST_EDWARDS25519: ['ED25519_SHA_512', 'ED25519_PH_SHA_512'],
  }
  return ofCurve[spec] ?? rsaSignatures
}

/**
 * Operations by the usage that their key must have, the member that says the algorithm, and what a dry run says when it fits: those that verify
 * have really done it by then.
 */
const users: readonly {
  readonly operation: string
  readonly member: string
  readonly usage: string
  readonly algorithm?: string
  readonly fitting?: string
}[] = [
  { operation: 'Encrypt', member: 'KeyId', usage: 'ENCRYPT_DECRYPT', algorithm: 'EncryptionAlgorithm' },
  { operation: 'Decrypt', member: 'KeyId', usage: 'ENCRYPT_DECRYPT', algorithm: 'EncryptionAlgorithm' },
  { operation: 'ReEncrypt', member: 'SourceKeyId', usage: 'ENCRYPT_DECRYPT', algorithm: 'SourceEncryptionAlgorithm' },
  { operation: 'ReEncrypt', member: 'DestinationKeyId', usage: 'ENCRYPT_DECRYPT', algorithm: 'DestinationEncryptionAlgorithm' },
  { operation: 'GenerateDataKey', member: 'KeyId', usage: 'ENCRYPT_DECRYPT' },
  { operation: 'GenerateDataKeyWithoutPlaintext', member: 'KeyId', usage: 'ENCRYPT_DECRYPT' },
  { operation: 'GenerateDataKeyPair', member: 'KeyId', usage: 'ENCRYPT_DECRYPT' },
  { operation: 'GenerateDataKeyPairWithoutPlaintext', member: 'KeyId', usage: 'ENCRYPT_DECRYPT' },
  { operation: 'Sign', member: 'KeyId', usage: 'SIGN_VERIFY', algorithm: 'SigningAlgorithm' },
  { operation: 'Verify', member: 'KeyId', usage: 'SIGN_VERIFY', algorithm: 'SigningAlgorithm', fitting: 'KMSInvalidSignatureException' },
  { operation: 'GenerateMac', member: 'KeyId', usage: 'GENERATE_VERIFY_MAC', algorithm: 'MacAlgorithm' },
  { operation: 'VerifyMac', member: 'KeyId', usage: 'GENERATE_VERIFY_MAC', algorithm: 'MacAlgorithm', fitting: 'KMSInvalidMacException' },
  {
    operation: 'DeriveSharedSecret',
    member: 'KeyId',
    usage: 'KEY_AGREEMENT',
    algorithm: 'KeyAgreementAlgorithm',
    fitting: 'ValidationException',
  },
  { operation: 'Encapsulate', member: 'KeyId', usage: 'ENCAPSULATE_DECAPSULATE', algorithm: 'EncapsulationAlgorithm' },
  { operation: 'Decapsulate', member: 'KeyId', usage: 'ENCAPSULATE_DECAPSULATE', algorithm: 'EncapsulationAlgorithm' },
]

const dryRun = 'DryRunOperationException: The request would have succeeded, but the DryRun option is set.'

describe.each(users)('$operation, its $member', ({ operation, member, usage, algorithm, fitting = dryRun }) => {
  const request = (key: Key, chosen?: string): Body => ({
    ...inState(operation, member, { ...subjects.Enabled, ...key }),
    ...(/^GenerateDataKey(?!Pair)/.test(operation) && { KeySpec: 'AES_256' }),
    ...(algorithm && chosen !== undefined && { [algorithm]: chosen }),
    // Its message is always a digest.
    ...(chosen === 'ED25519_PH_SHA_512' && { MessageType: 'DIGEST', Message: Buffer.alloc(64) }),
    DryRun: true,
  })
  const nameOf = ({ spec, usage: of }: KindOfKey): string => `${spec} ${of}`

  // SoftHSM signs as if it were the other one: so it does not have it.
  const fits = (name: string): string =>
    operation === 'Sign' && name === 'ED25519_PH_SHA_512'
      ? 'UnsupportedOperationException: The connected token has no mechanism for this operation.'
      : fitting

  test('must be for this use', async () => {
    const others = ofEachKind.filter((key) => key.usage !== usage)
    const expected = others.map((key) => [
      nameOf(key),
      `InvalidKeyUsageException: ${key.arn} key usage is ${key.usage} which is not valid for ${operation}.`,
    ])
    expect(await outcomesOf(operation, Object.fromEntries(others.map((key) => [nameOf(key), request(key)])))).toEqual(
      Object.fromEntries(expected),
    )
  })

  test('works with the algorithms of its spec alone', async () => {
    const listed = membersOf(operation).find(({ path }) => path === algorithm)?.shape.enum
    for (const key of ofEachKind.filter((each) => each.usage === usage)) {
      const incompatible = (name: string): string =>
        `InvalidKeyUsageException: Algorithm ${name} is incompatible with key spec ${key.spec}.`
      const tried = listed ?? ['SYMMETRIC_DEFAULT']
      const cases = Object.fromEntries(tried.map((name) => [name, request(key, name)]))
      const expected = tried.map((name) => [name, algorithmsOf(key).includes(name) ? fits(name) : incompatible(name)])
      expect({ key: nameOf(key), ...(await outcomesOf(operation, cases)) }).toEqual({ key: nameOf(key), ...Object.fromEntries(expected) })
    }
  })
})

test.each([
  { operation: 'GetPublicKey', fits: (key: KindOfKey) => !/SYMMETRIC|HMAC/.test(key.spec) },
  { operation: 'EnableKeyRotation', fits: (key: KindOfKey) => key.spec === 'SYMMETRIC_DEFAULT' },
  { operation: 'RotateKeyOnDemand', fits: (key: KindOfKey) => key.spec === 'SYMMETRIC_DEFAULT' },
])('$operation is refused by type alone for keys that have no such thing', async ({ operation, fits }) => {
  const others = ofEachKind.filter((key) => !fits(key))
  const cases = Object.fromEntries(others.map((key) => [`${key.spec} ${key.usage}`, { KeyId: key.id }]))
  expect(await outcomesOf(operation, cases)).toEqual(
    Object.fromEntries(Object.keys(cases).map((name) => [name, 'UnsupportedOperationException'])),
  )
})

test('CreateKey takes each spec with the usages that AWS has for it, and no spec that the token cannot make', async () => {
  const usages = ['SIGN_VERIFY', 'ENCRYPT_DECRYPT', 'GENERATE_VERIFY_MAC', 'KEY_AGREEMENT', 'ENCAPSULATE_DECAPSULATE']
  const impossible: Readonly<Record<string, readonly string[]>> = {
    SM2: ['SIGN_VERIFY', 'ENCRYPT_DECRYPT', 'KEY_AGREEMENT'],
    ...Object.fromEntries(['ML_DSA_44', 'ML_DSA_65', 'ML_DSA_87'].map((spec) => [spec, ['SIGN_VERIFY']])),
    ...Object.fromEntries(['ML_KEM_512', 'ML_KEM_768', 'ML_KEM_1024'].map((spec) => [spec, ['ENCAPSULATE_DECAPSULATE']])),
  }
  const specs = [...new Set([...kinds.map(([spec]) => spec), ...Object.keys(impossible)])]
  const exists = (spec: string, usage: string): boolean =>
    kinds.some(([of, by]) => (of === spec && by === usage) || (spec.startsWith('RSA') && of.startsWith('RSA') && by === usage))
  const tried = specs.flatMap((spec) => usages.filter((usage) => !exists(spec, usage)).map((usage) => ({ spec, usage })))
  const cases = tried.map(({ spec, usage }) => [`${spec} ${usage}`, { KeySpec: spec, KeyUsage: usage }] as const)
  const expected = tried.map(({ spec, usage }) => [
    `${spec} ${usage}`,
    impossible[spec]?.includes(usage)
      ? `UnsupportedOperationException: KeySpec ${spec} is not supported: the connected token has no mechanism for it.`
      : `ValidationException: KeyUsage ${usage} is not compatible with KeySpec ${spec}`,
  ])
  expect(await outcomesOf('CreateKey', Object.fromEntries(cases))).toEqual(Object.fromEntries(expected))
})

// ---- custom key stores ----

test.each(operationNames.filter((name) => membersOf(name).some(({ path }) => path === 'CustomKeyStoreId')))(
  '%s says that a key store is not there',
  async (operation) => {
    const input = {
      ...leastInput(operation),
      ...(operation === 'CreateKey' && { Origin: 'AWS_CLOUDHSM' }),
      ...(operation === 'GenerateRandom' && { NumberOfBytes: 1 }),
      ...(operation === 'UpdateCustomKeyStore' && { NewCustomKeyStoreName: 'x' }),
      CustomKeyStoreId: 'cks-1234567890abcdef0',
    }
    expect(await outcomeOf(operation, input)).toMatch(/^CustomKeyStoreNotFoundException: .*cks-1234567890abcdef0/)
  },
)

// ---- after all of it: these two stay last ----

test('every error is one that AWS documents for the operation, or that all operations have', () => {
  const common = new Set(['ValidationException', 'SerializationException', 'AccessDeniedException'])
  const undocumented = [...seen].flatMap(([operation, types]) =>
    [...types].filter((type) => !common.has(type) && !errorsOf(operation).includes(type)).map((type) => `${operation}: ${type}`),
  )
  // The one that says what the token lacks: AWS's devices lack nothing.
  expect(undocumented.toSorted()).toEqual(['Sign: UnsupportedOperationException'])
})

test('nothing is half done: keys, aliases, grants, key stores, imports and the token’s objects are what they were', async () => {
  expect(await everythingThere()).toEqual(before)
})
