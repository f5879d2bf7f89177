/** ARNs, key ids and the markers of listings. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { aliasArn, isKeyId, keyArn, parseKmsArn } from '../../src/kms/arn.ts'
import { KmsError } from '../../src/kms/errors.ts'
import type { Call } from '../../src/kms/operation.ts'
import { page, pageOf } from '../../src/kms/page.ts'

describe('ARNs', () => {
  test('of keys and aliases read back as they were made', () => {
    const region = fc.constantFrom('us-east-1', 'eu-west-1', 'ap-southeast-2')
    const account = fc.string({ unit: fc.constantFrom(...'0123456789'.split('')), minLength: 12, maxLength: 12 })
    const name = fc.string({ unit: fc.constantFrom(...'abcXYZ019/_-'.split('')), minLength: 1, maxLength: 40 })
    fc.assert(
      fc.property(region, account, fc.uuid(), name, (in_, accountId, id, alias) => {
        expect(parseKmsArn(keyArn(in_, accountId, id))).toEqual({ region: in_, accountId, kind: 'key', name: id })
        expect(parseKmsArn(aliasArn(in_, accountId, `alias/${alias}`))).toEqual({
          region: in_,
          accountId,
          kind: 'alias',
          name: `alias/${alias}`,
        })
      }),
    )
  })

  test.each([
    '',
    'arn:aws:kms',
    'arn:aws:iam::111122223333:root',
    'arn:aws:s3:::bucket',
    'arn:aws:kms:us-east-1:111122223333:key/',
    'arn:aws:kms:us-east-1:11112222333:key/x',
    'arn:aws:kms:us-east-1::key/x',
    'arn:aws:kms::111122223333:key/x',
    'arn:aws:kms:us-east-1:111122223333:grant/x',
    'arn:aws:kms:us-east-1:111122223333:key/x\n',
    ' arn:aws:kms:us-east-1:111122223333:key/x',
  ])('that are not of a key or an alias are none: %j', (text) => {
    expect(parseKmsArn(text)).toBeUndefined()
  })

  test('never make the parser throw', () => {
    fc.assert(
      fc.property(
        fc.string({
          unit: fc.constantFrom('arn:aws:kms:', 'us-east-1:', '111122223333:', 'key/', 'alias/', ':', 'x', '\n'),
          maxLength: 30,
        }),
        (text) => {
          const parsed = parseKmsArn(text)
          expect(parsed === undefined || parsed.name.length > 0).toBe(true)
        },
      ),
      { numRuns: 1000 },
    )
  })
})

test('a key id is a lower-case UUID or mrk- with 32 digits, and nothing around it', () => {
  expect(isKeyId('1234abcd-12ab-34cd-56ef-1234567890ab')).toBe(true)
  expect(isKeyId(`mrk-${'0'.repeat(32)}`)).toBe(true)
  for (const text of [
    '',
    'fake-key-id',
    '1234ABCD-12ab-34cd-56ef-1234567890ab',
    '1234abcd12ab34cd56ef1234567890ab',
    'mrk-fake',
    '1234abcd-12ab-34cd-56ef-1234567890ab\n',
    ' 1234abcd-12ab-34cd-56ef-1234567890ab',
  ]) {
    expect(isKeyId(text), text).toBe(false)
  }
})

const listing = (
  input: Readonly<Record<string, unknown>>,
  listed: Partial<{ name: string; accountId: string; region: string }> = {},
): Call =>
  ({
    operation: { name: listed.name ?? 'ListKeys' },
    principal: { accountId: listed.accountId ?? '111122223333' },
    region: listed.region ?? 'us-east-1',
    input,
  }) as unknown as Call

const everything = (names: readonly string[]) => (after: string | undefined, limit: number) => pageOf(names, (name) => name, after, limit)
const same = (name: string): string => name

describe('a listing', () => {
  const sortedNames = fc
    .uniqueArray(
      fc.string({ unit: 'binary', minLength: 1, maxLength: 20 }).filter((name) => !/\p{Surrogate}/u.test(name)),
      { maxLength: 40 },
    )
    .map((names) => names.sort())

  test('followed by its markers gives everything once and in order, whatever the limit', () => {
    fc.assert(
      fc.property(sortedNames, fc.integer({ min: 1, max: 10 }), (names, limit) => {
        const seen: string[] = []
        let marker: string | undefined
        do {
          const { items, rest } = page(listing({ Limit: limit, Marker: marker }), 100, everything(names), same)
          seen.push(...items)
          expect(rest.Truncated).toBe(rest.NextMarker !== undefined)
          marker = rest.NextMarker
        } while (marker !== undefined)
        expect(seen).toEqual(names)
      }),
    )
  })

  test('takes the default limit when none is given', () => {
    const names = Array.from({ length: 60 }, (_, i) => String(i).padStart(3, '0'))
    expect(page(listing({}), 50, everything(names), same)).toMatchObject({ items: names.slice(0, 50), rest: { Truncated: true } })
    expect(page(listing({}), 60, everything(names), same)).toEqual({ items: names, rest: { Truncated: false } })
  })

  test('gives markers that a next request may carry, however long its names are', () => {
    for (const name of ['\u0001'.repeat(128), '\u{1f511}'.repeat(64), `alias/${'x'.repeat(250)}`]) {
      const marker = page(listing({ Limit: 1 }), 50, everything([name, '\u{10ffff}z']), same).rest.NextMarker ?? ''
      expect(marker).toMatch(/^[\u0020-\u00ff]{1,1024}$/)
    }
  })
})

describe('a marker', () => {
  const names = ['alpha', 'beta', 'gamma']
  const { NextMarker: marker = '' } = page(listing({ Limit: 1 }), 50, everything(names), same).rest

  /** What becomes of a listing that is continued with it. */
  function outcome(text: unknown, listed: Parameters<typeof listing>[1] = {}): string {
    try {
      page(listing({ Limit: 1, Marker: text }, listed), 50, everything(names), same)
      return 'taken'
    } catch (error) {
      return error instanceof KmsError ? error.code : String(error)
    }
  }
  const invalid = 'InvalidMarkerException'

  test('is good for the listing that gave it', () => expect(outcome(marker)).toBe('taken'))

  test('of another operation, account or region is invalid', () => {
    expect(outcome(marker, { name: 'ListAliases' })).toBe(invalid)
    expect(outcome(marker, { accountId: '444455556666' })).toBe(invalid)
    expect(outcome(marker, { region: 'eu-west-1' })).toBe(invalid)
  })

  test('that was changed anywhere, cut or lengthened is invalid', () => {
    for (let at = 0; at < marker.length; at++) {
      expect(outcome(marker.slice(0, at) + (marker[at] === 'A' ? 'B' : 'A') + marker.slice(at + 1))).toBe(invalid)
      expect(outcome(marker.slice(0, at))).toBe(invalid)
      expect(outcome(`${marker.slice(0, at)} ${marker.slice(at)}`)).toBe(invalid)
    }
    expect(outcome(`${marker}AAAA`)).toBe(invalid)
    expect(outcome(`${marker}=`)).toBe(invalid)
  })

  test('that nobody gave is invalid, whatever it is', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.base64String(),
          fc.jsonValue().map((value) => Buffer.from(JSON.stringify(value)).toString('base64')),
        ),
        (text) => {
          expect(outcome(text)).toBe(invalid)
        },
      ),
    )
  })
})
