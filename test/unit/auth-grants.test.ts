/** What a grant allows, to whom, and which grants may be made out of one. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  contextOperations,
  grantAllows,
  grantOperations,
  matchParty,
  partyNames,
  type Constraints,
  type Permission,
} from '../../src/auth/grants.ts'
import type { Principal } from '../../src/auth/principal.ts'

const accountId = '111122223333'
const root = `arn:aws:iam::${accountId}:root`
const common = { accountId, accessKeyId: 'AKIAEXAMPLE', tags: new Map(), identityPolicies: [] } as const
const alice: Principal = {
  ...common,
  type: 'IAMUser',
  arn: `arn:aws:iam::${accountId}:user/alice`,
  principalId: 'AIDAALICE',
  userName: 'alice',
}
const owner: Principal = { ...common, type: 'Root', arn: root, principalId: accountId }
const role = `arn:aws:iam::${accountId}:role/team/Admin`
const session: Principal = {
  ...common,
  type: 'AssumedRole',
  arn: `arn:aws:sts::${accountId}:assumed-role/Admin/s1`,
  principalId: 'AROAADMIN:s1',
  session: { roleArn: role, roleId: 'AROAADMIN', roleName: 'Admin', sessionName: 's1', issuedAt: 0, expiresAt: 1 },
}

const ask = (operation: string, encryptionContext: Record<string, string> = {}, sourceArn?: string) => ({
  operation,
  encryptionContext,
  sourceArn,
})
const permit = (operations: readonly string[], constraints: Constraints = {}): Permission => ({ operations, constraints })

describe('a party of a grant', () => {
  test('is a user, a role behind its sessions, one session, or an account', () => {
    expect(matchParty({ arn: alice.arn, id: 'AIDAALICE' }, alice)).toBe('itself')
    expect(matchParty({ arn: role, id: 'AROAADMIN' }, session)).toBe('itself')
    expect(matchParty({ arn: session.arn, id: 'AROAADMIN' }, session)).toBe('itself')
    expect(matchParty({ arn: `${session.arn}2`, id: 'AROAADMIN' }, session)).toBeUndefined()
    for (const each of [alice, session, owner]) expect(matchParty({ arn: root, id: null }, each)).toBe('account')
    expect(matchParty({ arn: 'arn:aws:iam::444455556666:root', id: null }, alice)).toBeUndefined()
    expect(matchParty({ arn: 'ec2.amazonaws.com', id: null }, alice)).toBeUndefined()
  })

  test('is not somebody who has its name now and did not then', () => {
    expect(matchParty({ arn: alice.arn, id: 'AIDAEARLIER' }, alice)).toBeUndefined()
    expect(matchParty({ arn: role, id: 'AROAEARLIER' }, session)).toBeUndefined()
    expect(matchParty({ arn: session.arn, id: 'AROAEARLIER' }, session)).toBeUndefined()
  })

  test('is looked for under every name that can mean the caller', () => {
    expect(partyNames(alice)).toEqual([alice.arn, root])
    expect(partyNames(session)).toEqual([session.arn, role, root])
    expect(partyNames(owner)).toEqual([root])
  })
})

describe('a grant', () => {
  test('allows the operations it names and no other', () => {
    fc.assert(
      fc.property(fc.subarray([...grantOperations].filter((name) => name !== 'CreateGrant')), (operations) => {
        for (const name of grantOperations) expect(grantAllows(permit(operations), ask(name))).toBe(operations.includes(name as never))
      }),
    )
  })

  test('with a constraint on the encryption context limits the operations that have one, and those alone', () => {
    const constraints: readonly Constraints[] = [{ encryptionContextEquals: { a: '1' } }, { encryptionContextSubset: { a: '1' } }]
    for (const constraint of constraints) {
      const all = permit(grantOperations, constraint)
      for (const name of grantOperations) {
        if (name === 'CreateGrant') continue
        expect(grantAllows(all, ask(name, { a: '1' })), name).toBe(true)
        expect(grantAllows(all, ask(name, { a: '2' })), name).toBe(!contextOperations.has(name))
        expect(grantAllows(all, ask(name)), name).toBe(!contextOperations.has(name))
      }
    }
  })

  test('compares pairs whole, by case, in any order, and takes names for what they are', () => {
    const equals = permit(['Encrypt'], { encryptionContextEquals: { a: '1', b: '2' } })
    const subset = permit(['Encrypt'], { encryptionContextSubset: { a: '1', b: '2' } })
    const both = (context: Record<string, string>) => [equals, subset].map((grant) => grantAllows(grant, ask('Encrypt', context)))
    expect(both({ b: '2', a: '1' })).toEqual([true, true])
    expect(both({ a: '1', b: '2', c: '3' })).toEqual([false, true])
    for (const context of [{ a: '1' }, { A: '1', b: '2' }, { a: '1', b: '2 ' }, { a: '2', b: '1' }])
      expect(both(context)).toEqual([false, false])
    const inherited = permit(['Encrypt'], { encryptionContextSubset: { toString: 'x' } })
    expect(grantAllows(inherited, ask('Encrypt'))).toBe(false)
    const odd = JSON.parse('{"__proto__":"x"}') as Record<string, string>
    expect(grantAllows(permit(['Encrypt'], { encryptionContextSubset: odd }), ask('Encrypt', odd))).toBe(true)
    expect(grantAllows(permit(['Encrypt'], { encryptionContextSubset: odd }), ask('Encrypt'))).toBe(false)
  })

  test('with a SourceArn is for requests made for that resource, but for RetireGrant', () => {
    const grant = permit(['Encrypt', 'DescribeKey', 'RetireGrant'], { sourceArn: 'arn:aws:s3:::b' })
    for (const name of ['Encrypt', 'DescribeKey']) {
      expect(['arn:aws:s3:::b', 'arn:aws:s3:::c', undefined].map((arn) => grantAllows(grant, ask(name, {}, arn)))).toEqual([
        true,
        false,
        false,
      ])
    }
    expect(grantAllows(grant, ask('RetireGrant'))).toBe(true)
  })
})

describe('a grant made with the permission of another', () => {
  const pairs = fc.dictionary(fc.constantFrom('a', 'b', 'c'), fc.constantFrom('1', '2'), { minKeys: 1, maxKeys: 3 })
  const constraints: fc.Arbitrary<Constraints> = fc.oneof(
    fc.constant({}),
    pairs.map((some) => ({ encryptionContextEquals: some })),
    pairs.map((some) => ({ encryptionContextSubset: some })),
    fc.constantFrom('arn:aws:s3:::b', 'arn:aws:s3:::c').map((sourceArn) => ({ sourceArn })),
  )
  const operations = fc.subarray(['Encrypt', 'Decrypt', 'DescribeKey', 'CreateGrant'], { minLength: 1 })
  const context = fc.dictionary(fc.constantFrom('a', 'b', 'c', 'd'), fc.constantFrom('1', '2'), { maxKeys: 4 })
  const source = fc.constantFrom(undefined, 'arn:aws:s3:::b', 'arn:aws:s3:::c')

  test('allows nothing that the other does not', () => {
    let made = 0
    fc.assert(
      fc.property(
        operations,
        constraints,
        operations,
        constraints,
        context,
        source,
        (of, having, to, with_, encryptionContext, sourceArn) => {
          const parent = permit(of, having)
          const child = permit(to, with_)
          // Made on behalf of whatever the parent wants: what is asked here is what becomes of the child.
          if (!grantAllows(parent, { operation: 'CreateGrant', encryptionContext: {}, sourceArn: having.sourceArn, child })) return
          made++
          for (const operation of ['Encrypt', 'Decrypt', 'DescribeKey']) {
            const request = { operation, encryptionContext, sourceArn }
            expect([request, !grantAllows(child, request) || grantAllows(parent, request)]).toEqual([request, true])
          }
        },
      ),
      { numRuns: 3000 },
    )
    expect(made).toBeGreaterThan(50)
  })

  test('needs CreateGrant in the other, and the request to say what it would be', () => {
    const child = permit(['Encrypt'])
    expect(grantAllows(permit(['Encrypt']), { ...ask('CreateGrant'), child })).toBe(false)
    expect(grantAllows(permit(['Encrypt', 'CreateGrant']), { ...ask('CreateGrant'), child })).toBe(true)
    expect(grantAllows(permit(['Encrypt', 'CreateGrant']), ask('CreateGrant'))).toBe(false)
  })
})
