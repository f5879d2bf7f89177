import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { StoreConflict } from '../../src/store/store.ts'
import type { Store, View } from '../../src/store/store.ts'
import { accountId, backEnds, clock, sampleAccessKey, sampleAlias, sampleBackingKey, sampleKey, samplePrincipal } from './store-suite.ts'

/** Few names, so that commands meet. */
const ids = Array.from({ length: 8 }, (_, i) => `k${i}`)
const regions = ['us-east-1', 'eu-west-1']
const keyArn = (i: number, region = 0) => `arn:aws:kms:${regions[region]}:${accountId}:key/${ids[i]}`
const material = (i: number) => `${i}`.repeat(64)
const small = fc.nat(3)
/** More of these: the id of a deleted key never comes back. */
const aKey = fc.nat(7)

/** One write; each may be refused as a conflict, which the property is indifferent to. */
const times = <T>(weight: number, arbitrary: fc.Arbitrary<T>): fc.WeightedArbitrary<T> => ({ weight, arbitrary })
// What makes something comes more often than what removes it, or there would be nothing to write to.
const commands = fc.oneof(
  times(6, fc.record({ do: fc.constant('insertKey' as const), key: aKey, region: fc.nat(1), material: small, with: fc.boolean() })),
  times(2, fc.record({ do: fc.constant('updateKey' as const), key: aKey, text: fc.string() })),
  times(1, fc.record({ do: fc.constant('deleteKey' as const), key: aKey })),
  times(4, fc.record({ do: fc.constant('insertBackingKey' as const), key: aKey, material: small, ordinal: small })),
  times(2, fc.record({ do: fc.constant('promoteBackingKey' as const), key: aKey, material: small, creator: fc.constantFrom(null, 'me') })),
  times(
    1,
    fc.record({
      do: fc.constant('claimBackingKey' as const),
      key: aKey,
      material: small,
      from: fc.constantFrom(null, 'me'),
      to: fc.constantFrom('me', 'you'),
    }),
  ),
  times(1, fc.record({ do: fc.constant('deleteBackingKey' as const), key: aKey, material: small })),
  times(1, fc.record({ do: fc.constant('reserveEncryptions' as const), material: small, count: fc.integer({ min: 1, max: 60 }) })),
  times(4, fc.record({ do: fc.constant('insertAlias' as const), key: aKey, name: small })),
  times(4, fc.record({ do: fc.constant('updateAlias' as const), key: aKey, name: small })),
  times(1, fc.record({ do: fc.constant('deleteAlias' as const), name: small })),
  times(4, fc.record({ do: fc.constant('insertPrincipal' as const), name: small, path: fc.constantFrom('/', '/a/') })),
  times(1, fc.record({ do: fc.constant('updatePrincipal' as const), name: small, text: fc.string() })),
  times(1, fc.record({ do: fc.constant('deletePrincipal' as const), name: small })),
  times(4, fc.record({ do: fc.constant('insertAccessKey' as const), name: small, id: small })),
  times(1, fc.record({ do: fc.constant('setAccessKeyActive' as const), id: small, active: fc.boolean() })),
  times(1, fc.record({ do: fc.constant('deleteAccessKey' as const), id: small })),
  times(1, fc.record({ do: fc.constant('compareAndSetSetting' as const), name: small, value: fc.string() })),
  times(1, fc.record({ do: fc.constant('insertAccount' as const), id: small })),
)
type Command = typeof commands extends fc.Arbitrary<infer C> ? C : never

const aliasArn = (name: number) => `arn:aws:kms:${regions[0]}:${accountId}:alias/n${name}`
const user = (name: number) => `arn:aws:iam::${accountId}:user/u${name}`

const named = (command: { readonly key: number; readonly material: number }) => ({
  keyArn: keyArn(command.key),
  materialId: material(command.material),
})

async function run(store: Store, command: Command): Promise<void> {
  switch (command.do) {
    case 'insertKey': {
      const key = sampleKey({ keyId: ids[command.key] ?? '', region: regions[command.region] ?? '' })
      return store.insertKey(key, command.with ? sampleBackingKey(key, { materialId: material(command.material), ordinal: 0 }) : undefined)
    }
    case 'updateKey':
      await store.updateKey(keyArn(command.key), () => ({ description: command.text, tags: [{ key: 'k', value: command.text }] }))
      return undefined
    case 'deleteKey':
      return store.deleteKey(keyArn(command.key))
    case 'insertBackingKey': {
      const key = sampleKey({ keyId: ids[command.key] ?? '' })
      return store.insertBackingKey(sampleBackingKey(key, { materialId: material(command.material), ordinal: command.ordinal }))
    }
    case 'promoteBackingKey':
      await store.promoteBackingKey(named(command), command.creator, () => ({ state: 'Enabled' }))
      return undefined
    case 'claimBackingKey':
      await store.claimBackingKey(named(command), command.from, command.to)
      return undefined
    case 'deleteBackingKey':
      return store.deleteBackingKey(named(command))
    case 'reserveEncryptions':
      await store.reserveEncryptions(material(command.material), command.count, 100)
      return undefined
    case 'insertAlias':
      return store.insertAlias({ ...sampleAlias(sampleKey({ keyId: ids[command.key] ?? '' }), `n${command.name}`) })
    case 'updateAlias':
      return store.updateAlias(aliasArn(command.name), keyArn(command.key), clock.now())
    case 'deleteAlias':
      return store.deleteAlias(aliasArn(command.name))
    case 'insertPrincipal':
      return store.insertPrincipal(samplePrincipal(`u${command.name}`, { path: command.path }))
    case 'updatePrincipal':
      await store.updatePrincipal(user(command.name), ({ policies }) => ({ policies: { ...policies, [command.text]: '{}' } }))
      return undefined
    case 'deletePrincipal':
      return store.deletePrincipal(user(command.name))
    case 'insertAccessKey':
      return store.insertAccessKey(
        sampleAccessKey(command.name === 3 ? `arn:aws:iam::${accountId}:root` : user(command.name), `AKIA${command.id}`),
      )
    case 'setAccessKeyActive':
      return store.setAccessKeyActive(`AKIA${command.id}`, command.active)
    case 'deleteAccessKey':
      return store.deleteAccessKey(`AKIA${command.id}`)
    case 'compareAndSetSetting':
      await store.compareAndSetSetting(`s${command.name}`, store.view.setting(`s${command.name}`), command.value)
      return undefined
    case 'insertAccount':
      break
  }
  return store.insertAccount({ accountId: `${command.id}`.repeat(12), createdAt: clock.now() })
}

/** Everything that a view can be asked about the names above. */
function everything(view: View): unknown {
  const numbers = [0, 1, 2, 3]
  const arns = regions.flatMap((_, region) => ids.map((_, i) => keyArn(i, region)))
  const principals = ['/', '/a/'].flatMap((path) => numbers.map((i) => `arn:aws:iam::${accountId}:user${path}u${i}`))
  const owners = [...principals, `arn:aws:iam::${accountId}:root`]
  return {
    accounts: view.listAccounts(undefined, 10),
    account: numbers.map((i) => view.account(`${i}`.repeat(12))),
    keys: arns.map((arn) => view.key(arn)),
    byId: regions.map((region) => ids.map((id) => view.keyById(region, id))),
    lists: regions.map((region) => [
      view.listKeys(accountId, region, undefined, 2),
      view.listKeys(accountId, region, 'k1', 10),
      view.listAliases(accountId, region, undefined, undefined, 2),
      view.listAliases(accountId, region, undefined, 'alias/n1', 10),
      arns.map((arn) => view.listAliases(accountId, region, arn, undefined, 1)),
    ]),
    all: [...view.allKeys()].toSorted((a, b) => (a.arn < b.arn ? -1 : 1)),
    count: view.keyCount(),
    material: arns.flatMap((arn) => numbers.map((i) => view.backingKey(arn, material(i)))),
    backing: arns.map((arn) => view.backingKeys(arn)),
    alias: numbers.map((i) => view.alias(aliasArn(i))),
    aliasesOf: arns.map((arn) => view.aliasesOf(arn)),
    principals: principals.map((arn) => view.principal(arn)),
    byName: numbers.map((i) => view.principalByName(accountId, 'user', `u${i}`)),
    listed: [view.listPrincipals(accountId, 'user', undefined, 2), view.listPrincipals(accountId, 'user', 'u1', 10)],
    accessKeys: numbers.map((i) => view.accessKey(`AKIA${i}`)),
    accessKeysOf: owners.map((arn) => view.accessKeysOf(arn)),
    settings: numbers.map((i) => view.setting(`s${i}`)),
  }
}

describe.each(backEnds)('on $name', ({ make }) => {
  test('whatever two processes write, both end with the view that a fresh start has', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.boolean(), commands), { minLength: 150, maxLength: 300 }),
        fc.nat(40),
        async (writes, keptChanges) => {
          const database = make()
          try {
            const stores = [await database.open({ keptChanges: keptChanges + 1 }), await database.open()] as const
            for (let i = 0; i < writes.length; i += 4) {
              // Some of them at the same time.
              const outcomes = await Promise.allSettled(
                writes.slice(i, i + 4).map(([which, command]) => run(stores[which ? 1 : 0], command)),
              )
              for (const outcome of outcomes)
                if (outcome.status === 'rejected' && !(outcome.reason instanceof StoreConflict)) throw outcome.reason
            }
            // A write of each brings each to the newest state, the first one again behind the second.
            for (const store of [...stores, stores[0]])
              await store.compareAndSetSetting('last', store.view.setting('last'), `${Math.random()}`)
            const fresh = everything((await database.open()).view)
            for (const { view } of stores) expect(everything(view)).toEqual(fresh)
          } finally {
            await database.drop()
          }
        },
      ),
      // A counterexample of 200 writes is not worth the hours of making it smaller.
      { numRuns: 6, endOnFailure: true },
    )
  }, 120_000)
})
