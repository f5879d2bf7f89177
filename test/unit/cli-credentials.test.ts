/** The shared-credentials file: what is written is what was there, with one profile set. */

import { readFileSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { expect, onTestFinished, test } from 'vitest'
import { encodeProfile, parseCredentials, saveProfile } from '../../src/cli/credentials-file.ts'
import { scratch } from './http-fixture.ts'

const key = (accessKeyId: string) => ({ accessKeyId, secretAccessKey: `secret/of+${accessKeyId}=` })

test('any set of profiles comes back as it was written', () => {
  const name = fc.stringMatching(/^[A-Za-z0-9_.@-]{1,20}$/)
  const credentials = fc.record({
    accessKeyId: fc.stringMatching(/^[A-Z0-9]{16,20}$/),
    secretAccessKey: fc.base64String({ minLength: 4, maxLength: 40 }),
  })
  fc.assert(
    fc.property(fc.array(fc.tuple(name, credentials)), (profiles) => {
      const text = profiles.reduce((before, [profile, each]) => encodeProfile(before, profile, each), '')
      expect(parseCredentials(text)).toEqual(new Map(profiles))
    }),
  )
})

test('comments, other settings and other profiles stay', () => {
  const before = '# mine\n\n[a]\naws_access_key_id=A\naws_secret_access_key = s\nregion = x\n; note\n[b]\nrole_arn = y\n'
  const after = encodeProfile(before, 'c', key('C'))
  expect(after.startsWith(before.trimEnd())).toBe(true)
  const replaced = encodeProfile(before, 'a', key('N'))
  expect(parseCredentials(replaced).get('a')).toEqual(key('N'))
  expect(replaced).toContain('# mine')
  expect(replaced).toContain('[b]\nrole_arn = y')
})

test('a session token is kept, a profile without a key is none', () => {
  const text = encodeProfile('', 's', { ...key('S'), sessionToken: 'IQ==' })
  expect(parseCredentials(text).get('s')).toEqual({ ...key('S'), sessionToken: 'IQ==' })
  expect(parseCredentials('[a]\naws_access_key_id = A\n[b]\n').size).toBe(0)
})

test('the file is for its owner only, replaced whole, and leaves nothing beside it', async () => {
  const files = scratch()
  onTestFinished(() => files.remove())
  const file = join(files.dir, 'new', 'credentials')
  await saveProfile(file, 'default', key('ONE'))
  await saveProfile(file, 'other', key('TWO'))
  expect(statSync(file).mode & 0o777).toBe(0o600)
  expect(statSync(join(files.dir, 'new')).mode & 0o777).toBe(0o700)
  expect(readdirSync(join(files.dir, 'new'))).toEqual(['credentials'])
  expect([...parseCredentials(readFileSync(file, 'utf8')).keys()]).toEqual(['default', 'other'])
})
