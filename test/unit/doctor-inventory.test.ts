import { expect, test } from 'vitest'
import { compare } from '../../src/doctor.ts'
import { canaryLabel, type TokenObject } from '../../src/hsm/token.ts'
import type { KeyRecord } from '../../src/store/store.ts'
import { openView } from '../../src/store/view.ts'
import { sampleBackingKey, sampleKey } from './store-suite.ts'

const object = (ckaId: string, label: string, keyType = 'CKK_AES', objectClass = 'CKO_SECRET_KEY'): TokenObject => ({
  ckaId,
  label,
  objectClass,
  keyType,
  attributes: {},
})

/** A database of one symmetric key for each name, its material labelled `kms/NAME/1`, and of the service's own keys. */
const databaseOf = (...names: readonly string[]) => databaseWith(...names.map((name) => sampleKey({ keyId: name })))

function databaseWith(...keys: readonly KeyRecord[]) {
  const view = openView()
  const candidates = [{ ckaId: 'ff', label: 'holdfast/service' }]
  view.apply({
    accounts: [],
    keys,
    backingKeys: keys.map((key) => sampleBackingKey(key, { ckaId: `id-${key.keyId}`, label: `kms/${key.keyId}/1`, state: 'ready' })),
    aliases: [],
    principals: [],
    accessKeys: [],
    keyStores: [],
    xksStores: [],
    xksKeys: [],
    settings: [
      { name: 'system-key/service', value: JSON.stringify({ key: { ckaId: '51', label: 'holdfast/service' }, candidates }) },
      { name: 'system-key/audit', value: JSON.stringify({ key: { ckaId: 'a1', label: 'holdfast/audit' }, candidates: [] }) },
    ],
    gone: [],
  })
  return { view }
}
const ownObjects = [
  object('51', 'holdfast/service'),
  object('a1', 'holdfast/audit', 'CKK_EC', 'CKO_PRIVATE_KEY'),
  object('68', canaryLabel),
  object('00', 'of somebody else'),
]

test('a database whose keys are all on the token has nothing to tell', () => {
  expect(compare(databaseOf('a'), [...ownObjects, object('id-a', 'kms/a/1')], ['gcm-iv-in'])).toEqual({
    keys: 1,
    keysWithoutObjects: [],
    keysWithHalfTheirObjects: [],
    objectsWithoutKeys: [],
    leftovers: [],
  })
})

test('an object is a key’s by id and label together, and one of the service’s own keys may be missing as well', () => {
  const found = compare(databaseOf('a'), [...ownObjects.slice(1), object('id-a', 'kms/b/1')], ['gcm-iv-in'])
  expect(found.keysWithoutObjects).toEqual([
    { key: sampleKey({ keyId: 'a' }).arn, ckaId: 'id-a', label: 'kms/a/1' },
    { key: 'the service’s own key service', ckaId: '51', label: 'holdfast/service' },
  ])
  expect(found.objectsWithoutKeys).toEqual([{ ckaId: 'id-a', label: 'kms/b/1', objectClass: 'CKO_SECRET_KEY' }])
})

test('a key of two objects that lost one is a problem; an AES key alone is whole where there is GCM', () => {
  const mac = (name: string): TokenObject => object(`id-${name}`, `kms/${name}/1`, 'CKK_GENERIC_SECRET')
  const aes = (name: string): TokenObject => object(`id-${name}`, `kms/${name}/1`)
  const service = object('51', 'holdfast/service', 'CKK_GENERIC_SECRET')
  const objects = [...ownObjects, service, aes('whole'), mac('whole'), aes('no-mac'), mac('no-aes')]
  const half = (schemes: Parameters<typeof compare>[2]): readonly string[] =>
    compare(databaseOf('whole', 'no-mac', 'no-aes'), objects, schemes).keysWithHalfTheirObjects.map(({ label }) => label)
  expect(half(['cbc-hmac'])).toEqual(['kms/no-mac/1', 'kms/no-aes/1'])
  expect(half(['gcm-iv-in', 'cbc-hmac'])).toEqual(['kms/no-aes/1'])
})

test.each([
  { spec: 'HMAC_256', usage: 'GENERATE_VERIFY_MAC', keyType: 'CKK_GENERIC_SECRET', objectClass: 'CKO_SECRET_KEY' },
  { spec: 'RSA_2048', usage: 'SIGN_VERIFY', keyType: 'CKK_RSA', objectClass: 'CKO_PRIVATE_KEY' },
] as const)('a $spec key is whole with its one object, whatever the token encrypts with', ({ spec, usage, keyType, objectClass }) => {
  const database = databaseWith(sampleKey({ keyId: 'one', spec, usage }))
  const service = object('51', 'holdfast/service', 'CKK_GENERIC_SECRET')
  const objects = [...ownObjects, service, object('id-one', 'kms/one/1', keyType, objectClass)]
  for (const schemes of [['cbc-hmac'], ['gcm-iv-in']] as const) {
    expect(compare(database, objects, schemes)).toMatchObject({ keys: 1, keysWithoutObjects: [], keysWithHalfTheirObjects: [] })
  }
})

test('what an import is made of is no leftover', () => {
  const objects = [object('1a', 'holdfast/import', 'CKK_RSA', 'CKO_PRIVATE_KEY'), object('1b', 'kms/a/i')]
  const found = compare(databaseOf(), [...ownObjects, ...objects], ['gcm-iv-in'], 'default', objects)
  expect([...found.leftovers, ...found.objectsWithoutKeys]).toEqual([])
  const { leftovers, objectsWithoutKeys } = compare(databaseOf(), [...ownObjects, ...objects], ['gcm-iv-in'])
  expect([...leftovers, ...objectsWithoutKeys].map(({ ckaId }) => ckaId)).toEqual(['1a', '1b'])
})

test('what a self-test or a stopped start left is listed', () => {
  const left = [object('77', 'holdfast/self-test'), object('ff', 'holdfast/service')]
  const found = compare(databaseOf(), [...ownObjects, ...left], ['gcm-iv-in'])
  expect(found.leftovers).toEqual(left.map(({ ckaId, label, objectClass }) => ({ ckaId, label, objectClass })))
})

test('each token is held against its own keys; the service’s own are in the home token, and what replication needs belongs to nobody', () => {
  const [a, b] = [sampleKey({ keyId: 'a' }), sampleKey({ keyId: 'b', token: 'other' })]
  const store = databaseWith(a, b)
  const transport = object('33', 'holdfast/transport', 'CKK_RSA', 'CKO_PRIVATE_KEY')
  const kek = object('44', 'holdfast/transport-kek')
  expect(compare(store, [...ownObjects, transport, kek, object('id-a', 'kms/a/1')], ['gcm-iv-in'])).toMatchObject({
    keys: 1,
    keysWithoutObjects: [],
    leftovers: [],
  })
  const elsewhere = compare(store, [transport, kek], ['gcm-iv-in'], 'other')
  expect(elsewhere).toMatchObject({ keys: 1, keysWithoutObjects: [{ key: b.arn, ckaId: 'id-b', label: 'kms/b/1' }], leftovers: [] })
})
