import { readFileSync, readdirSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ProfileError, findLibrary, matchProfile, parseProfile, profileNames, readProfile } from '../../src/hsm/profile.ts'

const directory = new URL('../../native-config/', import.meta.url)
const names = readdirSync(directory).map((file) => file.replace(/\.json$/, ''))

type Json = Record<string, unknown>
const document = (name: string): Json => JSON.parse(readFileSync(new URL(`${name}.json`, directory), 'utf8')) as Json

/** The message of the ProfileError that reading this text ends in. Any other error is a defect and comes through. */
function problemOf(json: string): string {
  try {
    parseProfile(json, 'changed.json')
  } catch (error) {
    if (error instanceof ProfileError) return error.message
    throw error
  }
  return 'accepted'
}

/** What reading a changed copy of the SoftHSM profile is refused with. */
function refusal(change: (profile: Json) => void): string {
  const profile = document('softhsm2')
  change(profile)
  return problemOf(JSON.stringify(profile))
}

describe('the profiles that come with the program', () => {
  test('are those of the supported products, generic tried last', () => {
    expect([...profileNames()].sort()).toEqual(
      ['cloudhsm5', 'generic', 'luna7', 'nshield', 'opencryptoki', 'softhsm2', 'tpm2', 'utimaco', 'yubihsm2'].sort(),
    )
    expect(profileNames().at(-1)).toBe('generic')
  })

  test.each(names)('%s is valid and says why of each value', (name) => {
    const profile = readProfile(name)
    expect(profile.name).toBe(name)
    expect(profile.reasons.size).toBe(21)
    for (const [field, why] of profile.reasons) expect(`${field}: ${why}`).toMatch(/: [A-Z0-9].{20,}\.$/)
  })

  test.each(names)('%s tells a value that nobody measured or documented from one that somebody did', (name) => {
    const unverified = [...readProfile(name).reasons.values()].filter((why) => /unverified/i.test(why))
    // Only what runs on the developers' machines is measured throughout.
    expect(unverified.length > 0).toBe(!['softhsm2', 'opencryptoki'].includes(name))
  })
})

describe('the profile for a token', () => {
  test.each([
    {
      manufacturer: 'SoftHSM project                 ',
      model: 'SoftHSM v2      ',
      library: '/usr/lib/softhsm/libsofthsm2.so',
      is: 'softhsm2',
    },
    { manufacturer: 'SoftHSM project', model: 'SoftHSM v2', library: '/tmp/p11shim-0123.so', is: 'softhsm2' },
    { manufacturer: 'IBM', model: 'Soft', library: '/usr/lib/x86_64-linux-gnu/pkcs11/libopencryptoki.so', is: 'opencryptoki' },
    { manufacturer: 'IBM', model: 'SW   TPM', library: '/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so', is: 'tpm2' },
    { manufacturer: 'Yubico (www.yubico.com)', model: 'YubiHSM', library: '/usr/lib/yubihsm_pkcs11.so', is: 'yubihsm2' },
    { manufacturer: 'nCipher Corp. Ltd', model: '', library: '/opt/nfast/toolkits/pkcs11/libcknfast.so', is: 'nshield' },
    { manufacturer: 'SafeNet', model: 'LunaSA 7.4.0', library: '/opt/other.so', is: 'luna7' },
    { manufacturer: 'SafeNet', model: 'eToken', library: '/usr/lib/libeToken.so', is: 'generic' },
    { manufacturer: 'Nobody', model: 'Nothing', library: '/nowhere.so', is: 'generic' },
  ])('$manufacturer $model at $library is $is', ({ is, ...token }) => {
    expect(matchProfile(token).name).toBe(is)
  })

  test('is one only: no two products fit the same library path', () => {
    for (const name of names) {
      for (const library of readProfile(name).libraryPaths) {
        const fitting = names.filter((other) => readProfile(other).match.some((match) => match.library?.test(library)))
        expect(fitting.filter((other) => other !== name)).toEqual([])
      }
    }
  })

  test('may be a file of one’s own, named by its absolute path', () => {
    const path = new URL('utimaco.json', directory).pathname
    expect(readProfile(path)).toEqual(readProfile('utimaco'))
  })
})

describe('a profile is refused, with the file, the field and the fix, when', () => {
  test.each<[string, (profile: Json) => void, RegExp]>([
    ['a field is missing', (p) => delete p['kwp'], /changed\.json.*\n.*kwp: missing; write \{ "value"/],
    ['a group is missing', (p) => delete p['limits'], /limits: missing; write an object with sessions, objects, singleOpBytes/],
    ['a field is unknown', (p) => (p['kpw'] = 1), /kpw: unknown field; remove it \(known: name, product/],
    ['a group has an unknown field', (p) => ((p['limits'] as Json)['threads'] = 1), /limits\.threads: unknown field; remove it/],
    ['a value has no reason', (p) => (p['wrap'] = { value: 'probe' }), /wrap\.why: missing; say in a sentence/],
    ['a reason is blank', (p) => (p['wrap'] = { value: 'probe', why: ' ' }), /wrap\.why: missing/],
    ['there is more beside a value', (p) => (p['wrap'] = { value: 'probe', why: 'x', note: 1 }), /wrap\.note: unknown field/],
    ['a value stands alone', (p) => (p['generate'] = true), /generate: has no value; write \{ "value"/],
    ['the scheme is unknown', (p) => (p['wrap'] = { value: 'ecb', why: 'x' }), /wrap: expected one of probe, gcm-iv-in, .*, found "ecb"/],
    [
      'a number is no number',
      (p) => (p['kwp'] = { value: '210A', why: 'x' }),
      /kwp: expected a PKCS#11 number, written 8458 or "0x210A", found "210A"/,
    ],
    ['a number is too large', (p) => (p['kwp'] = { value: 2 ** 32, why: 'x' }), /kwp: expected a PKCS#11 number/],
    [
      'there are no sessions',
      (p) => ((p['limits'] as Json)['sessions'] = { value: 0, why: 'x' }),
      /limits\.sessions: expected an integer from 1 to 256, found 0/,
    ],
    ['a pattern is broken', (p) => (p['match'] = { value: [{ model: '(' }], why: 'x' }), /match: expected a regular expression \(.*\)/],
    [
      'a pattern is for something else',
      (p) => (p['match'] = { value: [{ serial: 'x' }], why: 'x' }),
      /match: expected only manufacturer, model, library/,
    ],
    [
      'an environment variable is no string',
      (p) => (p['requiredEnv'] = { value: { A: 1 }, why: 'x' }),
      /requiredEnv: expected environment variables with string values/,
    ],
    ['a hash is unknown', (p) => (p['oaepHashes'] = { value: ['md5'], why: 'x' }), /oaepHashes: expected one of sha1, .*/],
    [
      'the scheme needs a key that cannot be made',
      (p) => (p['generate'] = { value: false, why: 'x' }),
      /wrap: "gcm-iv-in" needs secret keys.*write "rsa-oaep"/,
    ],
    [
      'the hash for wrapping is not among the device’s',
      (p) => (p['oaepHash'] = { value: 'sha512', why: 'x' }),
      /oaepHash: "sha512" is not in oaepHashes; choose one of sha1/,
    ],
  ])('%s', (_case, change, message) => {
    expect(refusal(change)).toMatch(message)
  })

  test('several things are wrong: all are reported at once', () => {
    const message = refusal((profile) => {
      delete profile['kwp']
      profile['settleMs'] = { value: -1, why: 'x' }
      profile['loginFormat'] = { value: '', why: 'x' }
    })
    expect(
      message
        .split('\n')
        .slice(1)
        .map((line) => line.trim().split(':')[0]),
    ).toEqual(['kwp', 'settleMs', 'loginFormat'])
  })

  test('it is not JSON, not an object, or not there', () => {
    expect(() => parseProfile('{', 'x.json')).toThrow(/x\.json is not JSON/)
    expect(() => parseProfile('[]', 'x.json')).toThrow(/x\.json is not a JSON object/)
    expect(() => readProfile('/nowhere/x.json')).toThrow(/\/nowhere\/x\.json cannot be read: ENOENT/)
    expect(() => readProfile('../package')).toThrow(
      /there is no HSM profile "\.\.\/package"; use cloudhsm5, .*, generic, or the absolute path/,
    )
  })

  test('any JSON at all: the answer is a profile or a ProfileError', () => {
    fc.assert(
      fc.property(fc.constantFrom(...names), fc.string(), fc.jsonValue(), (name, key, value) => {
        const profile = document(name)
        const keys = Object.keys(profile)
        profile[keys[key.length % keys.length] ?? key] = value
        expect(problemOf(JSON.stringify(profile))).toMatch(/^accepted$|^HSM profile changed\.json cannot be used:\n/)
      }),
    )
  })
})

test('an installed module is found where its vendor puts it, and none is invented', () => {
  const profile = readProfile('generic')
  expect(findLibrary(profile)).toBeUndefined()
  const here = new URL('softhsm2.json', directory).pathname
  expect(findLibrary({ ...profile, libraryPaths: ['/nowhere/a.so', here] })).toBe(here)
})
