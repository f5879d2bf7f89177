import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { mapPrincipals, parsePolicy } from '../../src/auth/policy.ts'
import { bindPrincipals, bindStoredPolicies, showPrincipals } from '../../src/kms/policy-principals.ts'
import type { Store } from '../../src/store/store.ts'
import { accountId, backEnds, clock, sampleKey, samplePrincipal, type TestDatabase } from './store-suite.ts'

const nobody: ReadonlySet<string> = new Set()
const root = `arn:aws:iam::${accountId}:root`
const statement = (more: object) => ({ Effect: 'Allow', Action: 'kms:*', Resource: '*', ...more })
const policy = (...statements: object[]): string => JSON.stringify({ Version: '2012-10-17', Statement: statements })

describe('the principals of a policy', () => {
  test('are changed where they are principals, and nowhere else; the rest stays to the letter', () => {
    const text = `{ "Id": "AWS", "Version":"2012-10-17",\r\n"Statement" : [ {"Sid":"Principal AWS","Effect":"Allow","Principal":{"AWS":["one", "t\\u0077o"],
      "Service":"one.amazonaws.com"},"Action":["kms:Encrypt"],"Resource":"*","Condition":{"StringEquals":{"aws:PrincipalArn":["one"],"kms:EncryptionContext:Principal":"one"}}},
      {"Effect":"Deny","NotPrincipal":{"A\\u0057S":"one"},"Action":"kms:*","Resource":"one"}, {"Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"*"} ]}`
    const seen: string[] = []
    const changed = mapPrincipals(text, (principal) => {
      seen.push(principal)
      return principal === 'one' ? 'say "eins"' : principal
    })
    expect(seen).toEqual(['one', 'two', 'one'])
    expect(changed).toBe(
      text.replace('"AWS":["one"', '"AWS":["say \\"eins\\""').replace('{"A\\u0057S":"one"}', '{"A\\u0057S":"say \\"eins\\""}'),
    )
  })

  test('property: whatever is bound and shown again is the text that it was', async () => {
    const principal = fc.stringMatching(/^arn:aws:iam::\d{12}:(user|role)\/[a-z]{1,8}$/)
    const given = fc.oneof(principal, fc.array(principal, { minLength: 1, maxLength: 4 }))
    const spaces = fc.constantFrom(undefined, 1, '\t', '   ')
    fc.assert(
      fc.property(fc.array(given, { minLength: 1, maxLength: 5 }), fc.string(), spaces, fc.boolean(), (lists, word, indent, not) => {
        const element = not ? 'NotPrincipal' : 'Principal'
        const statements = lists.map((AWS) =>
          statement({
            [element]: { AWS },
            Sid: word,
            Condition: { StringEquals: { 'aws:PrincipalArn': AWS, [`kms:EncryptionContext:${word}`]: word } },
          }),
        )
        const text = JSON.stringify({ Version: '2012-10-17', Statement: statements }, null, indent)
        parsePolicy(text, 'key')
        const mapped = mapPrincipals(text, (each) => `${each}!`)
        expect(JSON.parse(mapped)).toEqual({
          Version: '2012-10-17',
          Statement: statements
            .map((each, index) => ({ ...each, [element]: { AWS: [lists[index] ?? []].flat().map((name) => `${name}!`) } }))
            .map((each, index) => (Array.isArray(lists[index]) ? each : { ...each, [element]: { AWS: `${String(lists[index])}!` } })),
        })
        expect(mapPrincipals(mapped, (each) => each.slice(0, -1))).toBe(text)
      }),
    )
  })
})

describe.each(backEnds)('bound to the principals of a store in $name', ({ make }) => {
  let database: TestDatabase
  let store: Store
  beforeEach(async () => {
    database = make()
    store = await database.open()
    await store.insertAccount({ accountId, createdAt: clock.now() })
  })
  afterEach(() => database.drop())

  const user = samplePrincipal('alice', { uniqueId: 'AIDAALICEALICEALICE' })
  const role = samplePrincipal('admin', {
    kind: 'role',
    arn: `arn:aws:iam::${accountId}:role/path/admin`,
    path: '/path/',
    uniqueId: 'AROAADMINADMINADMIN',
    trustPolicy: policy({ Effect: 'Allow', Principal: { AWS: user.arn }, Action: 'sts:AssumeRole' }),
  })
  const session = `arn:aws:sts::${accountId}:assumed-role/admin/tuesday`
  const absent = `arn:aws:iam::${accountId}:user/absent`
  const named = (aws: readonly string[]): string => policy(statement({ Principal: { AWS: aws } }))
  const refuse = (principal: string): never => {
    throw new Error(`missing ${principal}`)
  }

  test('users, roles and sessions are stored by their ids and shown by their names; accounts and everybody stay', async () => {
    await store.insertPrincipal(user)
    await store.insertPrincipal(role)
    const text = named([user.arn, role.arn, session, root, accountId, '*'])
    const stored = bindPrincipals(store.view, text, refuse)
    expect(stored).toBe(named([user.uniqueId, role.uniqueId, `${role.uniqueId}:tuesday`, root, accountId, '*']))
    expect(parsePolicy(stored, 'key').statements[0]?.principal?.aws).toHaveLength(6)
    expect(showPrincipals(store.view, stored)).toBe(text)
    expect(bindPrincipals(store.view, stored, refuse)).toBe(stored)
    await store.deletePrincipal(user.arn)
    await store.deletePrincipal(role.arn)
    expect(showPrincipals(store.view, stored)).toBe(stored)
    for (const gone of [user.arn, role.arn, session, user.uniqueId, `${role.uniqueId}:tuesday`]) {
      expect(() => bindPrincipals(store.view, named([gone]), refuse)).toThrow(`missing ${gone}`)
    }
    await store.insertPrincipal({ ...user, uniqueId: 'AIDAANOTHERANOTHERX' })
    expect(showPrincipals(store.view, stored)).toBe(stored)
  })

  test('policies of before mean whom their names meant at the first start, and what named nobody means nobody for ever', async () => {
    await store.insertPrincipal(user)
    await store.insertPrincipal(role)
    const keys = [
      named([user.arn, absent]),
      named([role.arn, `arn:aws:iam::${accountId}:role/none`]),
      named([root]),
      named(['AIDALONGGONELONGGON']),
    ].map((text) => sampleKey({ policy: text }))
    for (const key of keys) await store.insertKey(key, undefined)
    const policies = (): readonly (string | undefined)[] => keys.map(({ arn }) => store.view.key(arn)?.policy)
    await bindStoredPolicies(store, 'new', nobody)
    const bound = [
      named([user.uniqueId, 'AIDA00000000000000000']),
      named([role.uniqueId, 'AROA00000000000000000']),
      named([root]),
      named(['AIDALONGGONELONGGON']),
    ]
    expect(policies()).toEqual(bound)
    expect(store.view.principal(role.arn)?.trustPolicy).toBe(
      policy({ Effect: 'Allow', Principal: { AWS: user.uniqueId }, Action: 'sts:AssumeRole' }),
    )
    // Once: what is in a policy by its name later came there by another road.
    const [first] = keys
    await store.updateKey(first?.arn ?? '', () => ({ policy: named([user.arn]) }))
    await bindStoredPolicies(await database.open(), 'another', nobody)
    await store.refresh()
    expect(policies()[0]).toBe(named([user.arn]))
  })

  test('what others store by names that run beside the first start is bound when they have ended, and not before', async () => {
    await store.insertPrincipal(user)
    const key = sampleKey({ policy: named([user.arn]) })
    await store.insertKey(key, undefined)
    const stored = (): string | undefined => store.view.key(key.arn)?.policy
    await bindStoredPolicies(store, 'new', new Set(['old-one', 'old-other']))
    expect(stored()).toBe(named([user.uniqueId]))
    const storeName = async (): Promise<void> => void (await store.updateKey(key.arn, () => ({ policy: named([user.arn]) })))
    await storeName()
    await bindStoredPolicies(store, 'new', new Set(['old-other', 'newer']))
    expect(stored()).toBe(named([user.arn]))
    await bindStoredPolicies(store, 'new', new Set(['newer']))
    expect(stored()).toBe(named([user.uniqueId]))
    await storeName()
    await bindStoredPolicies(store, 'new', nobody)
    expect(stored(), 'once').toBe(named([user.arn]))
  })

  test.each([
    ['one after the other', false],
    ['at the same moment', true],
  ])('what binds them waits for those of a former version and not for others like itself, started beside it %s', async (_, atOnce) => {
    await store.insertPrincipal(user)
    const key = sampleKey({ policy: named([user.arn]) })
    await store.insertKey(key, undefined)
    const second = await database.open()
    const starts = [
      () => bindStoredPolicies(store, 'one', new Set(['two', 'old'])),
      () => bindStoredPolicies(second, 'two', new Set(['one', 'old'])),
    ]
    if (atOnce) await Promise.all(starts.map((start) => start()))
    else for (const start of starts) await start()
    await store.refresh()
    const stored = (): string | undefined => store.view.key(key.arn)?.policy
    expect(stored()).toBe(named([user.uniqueId]))
    await store.updateKey(key.arn, () => ({ policy: named([user.arn]) }))
    await bindStoredPolicies(store, 'one', new Set(['two', 'old']))
    expect(stored()).toBe(named([user.arn]))
    await bindStoredPolicies(store, 'one', new Set(['two']))
    expect(stored()).toBe(named([user.uniqueId]))
  })

  test('a start that was stopped in between is made up for by the next', async () => {
    await store.insertPrincipal(user)
    const keys = Array.from({ length: 3 }, () => sampleKey({ policy: named([user.arn]) }))
    for (const key of keys) await store.insertKey(key, undefined)
    let writes = 0
    const stopping: Store = {
      ...store,
      updateKey: (...change) => (++writes > 1 ? Promise.reject(new Error('killed')) : store.updateKey(...change)),
    }
    await expect(bindStoredPolicies(stopping, 'new', nobody)).rejects.toThrow('killed')
    expect(keys.filter(({ arn }) => store.view.key(arn)?.policy === named([user.arn]))).toHaveLength(2)
    await bindStoredPolicies(store, 'new', nobody)
    for (const { arn } of keys) expect(store.view.key(arn)?.policy).toBe(named([user.uniqueId]))
  })
})
