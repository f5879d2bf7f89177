/** A token whose wrap scheme is another one than when a key was made: after a new firmware, or another profile. */
import { afterAll, expect, test } from 'vitest'
import { parseCiphertext } from '../../src/kms/ciphertext.ts'
import { decrypt, encrypt } from '../../src/kms/cipher.ts'
import type { Call } from '../../src/kms/operation.ts'
import { makeSoftHsmToken, type LabToken } from './lab.ts'
import { newCkaId, openLab, writeProfile } from './open.ts'

let lab: LabToken | undefined
afterAll(() => lab?.remove())

test('a key from before the change goes on encrypting, by the scheme that its objects are for', async () => {
  lab = await makeSoftHsmToken()
  const ckaId = newCkaId()
  const label = 'kms/1/1'
  const before = await openLab(lab, { profile: writeProfile(lab, 'softhsm2', { wrap: 'rsa-oaep' }) })
  await before.generateKey({ kind: 'wrapping', ckaId, label })
  await before.close()

  const token = await openLab(lab, { profile: 'softhsm2' })
  try {
    expect(token.capabilities().wrapScheme).toBe('gcm-iv-in')
    const keyId = '1234abcd-12ab-34cd-56ef-1234567890ab'
    const key = { arn: `arn:aws:kms:us-east-1:111122223333:key/${keyId}`, keyId } as Parameters<typeof encrypt>[1]
    const backing = { materialId: 'ab'.repeat(32), keyArn: key.arn, ckaId, label, state: 'ready' }
    const service = { tokenOf: () => token, budget: { draw: () => backing }, store: { view: { backingKey: () => backing } } }
    const call = { service } as unknown as Call
    const { blob } = await encrypt(call, key, Buffer.from('still here'), { a: 'b' })
    const ciphertext = parseCiphertext(blob)
    if (!ciphertext) throw new Error('the blob is none')
    expect(ciphertext.scheme).toBe('rsa-oaep')
    expect((await decrypt(call, key, ciphertext, { a: 'b' })).toString()).toBe('still here')
  } finally {
    await token.close()
  }
})
