/** The keys that the service needs for itself: made once, found again, and never replaced when the token does not show them. */

import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import type { Token } from '../../src/hsm/token.ts'
import { ensureSystemKey } from '../../src/kms/system-keys.ts'
import { openStore } from '../../src/store/open.ts'
import type { Store } from '../../src/store/store.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'
import { openLab } from './open.ts'

let lab: LabToken
let token: Token
let store: Store

beforeAll(async () => {
  lab = await makeSoftHsmToken()
  token = await openLab(lab)
  store = await openStore({ file: join(lab.dir, 'holdfast.db'), clock: systemClock })
})
afterAll(async () => {
  await token.close()
  await store.close()
  await lab.remove()
})

const kinds = { service: 'wrapping', audit: 'signing' } as const

test.each(['service', 'audit'] as const)('the %s key is made once and found again', async (name) => {
  const made = await ensureSystemKey({ token, store }, name, kinds[name])
  expect(await token.objects(made.ckaId)).not.toEqual([])
  const before = await token.allObjects()
  expect(await ensureSystemKey({ token, store }, name, kinds[name])).toEqual(made)
  expect(await token.allObjects()).toEqual(before)
})

test.each(['service', 'audit'] as const)('a %s key that the token does not show ends the start, and no other is made', async (name) => {
  const { ckaId, label } = await ensureSystemKey({ token, store }, name, kinds[name])
  await token.destroyKey(ckaId, label)
  const before = await token.allObjects()
  const setting = store.view.setting(`system-key/${name}`)
  await expect(ensureSystemKey({ token, store }, name, kinds[name])).rejects.toThrow(
    `does not show the key ${label} (CKA_ID ${ckaId}) that this data directory was set up with`,
  )
  expect(await token.allObjects()).toEqual(before)
  expect(store.view.setting(`system-key/${name}`)).toBe(setting)
})
