/** Tags of keys. */
import { ListResourceTagsCommand, TagResourceCommand, UntagResourceCommand, type Tag } from '@aws-sdk/client-kms'
import { describe, expect, test } from 'vitest'
import { expectProblems, expectRefusal, given, useContract, withoutMetadata } from './kit.ts'

const contract = useContract()
const tag = (KeyId: string, tags: readonly (readonly [string, string])[]) =>
  contract.kms.send(new TagResourceCommand({ KeyId, Tags: tags.map(([TagKey, TagValue]) => ({ TagKey, TagValue })) }))
const untag = (KeyId: string, ...TagKeys: string[]) => contract.kms.send(new UntagResourceCommand({ KeyId, TagKeys }))

async function tagsOf(KeyId: string): Promise<Readonly<Record<string, string>>> {
  const { Tags: tags = [] } = await contract.kms.send(new ListResourceTagsCommand({ KeyId }))
  return Object.fromEntries(tags.map((each) => [given(each.TagKey), given(each.TagValue)]))
}

describe('TagResource', () => {
  test('adds tags and overwrites the values of those that are there, and answers nothing', async () => {
    const { KeyId, Arn } = await contract.key()
    expect(
      withoutMetadata(
        await tag(KeyId, [
          ['team', 'a'],
          ['stage', 'prod'],
        ]),
      ),
    ).toEqual({})
    await tag(Arn, [
      ['team', 'b'],
      ['empty', ''],
    ])
    expect(await tagsOf(KeyId)).toEqual({ team: 'b', stage: 'prod', empty: '' })
  })

  test('tells tag keys apart by case', async () => {
    const { KeyId } = await contract.key()
    await tag(KeyId, [
      ['team', '1'],
      ['Team', '2'],
    ])
    expect(await tagsOf(KeyId)).toEqual({ team: '1', Team: '2' })
  })

  test('refuses one key twice', async () => {
    const { KeyId } = await contract.key()
    await expectRefusal(
      tag(KeyId, [
        ['a', '1'],
        ['a', '2'],
      ]),
      'TagException',
      'Duplicate tag keys',
    )
    expect(await tagsOf(KeyId)).toEqual({})
  })

  test('refuses AWS’s prefix in any case', async () => {
    const { KeyId } = await contract.key()
    for (const key of ['aws:x', 'AWS:x', 'Aws:'])
      await expectRefusal(tag(KeyId, [[key, '1']]), 'TagException', 'Tags beginning with aws: are reserved')
    await tag(KeyId, [['awsome', '1']])
  })

  test('allows fifty tags; the fifty-first is refused, a new value for one of them is not', async () => {
    const { KeyId } = await contract.key()
    const many = (count: number) => Array.from({ length: count }, (_, i) => [`key-${i}`, 'v'] as const)
    await expectRefusal(tag(KeyId, many(51)), 'TagException', 'Too many tags')
    await tag(KeyId, many(50))
    await expectRefusal(tag(KeyId, [['one-more', 'v']]), 'TagException', 'Too many tags')
    await tag(KeyId, [['key-0', 'new']])
    expect(Object.keys(await tagsOf(KeyId))).toHaveLength(50)
    expect((await tagsOf(KeyId))['key-0']).toBe('new')
  })

  test('takes a key of 128 and a value of 256 characters, and names the place of a longer one', async () => {
    const { KeyId } = await contract.key()
    await tag(KeyId, [['k'.repeat(128), 'v'.repeat(256)]])
    const long = 'k'.repeat(129)
    await expectProblems(tag(KeyId, [[long, 'v']]), [
      `Value '${long}' at 'tags.1.member.tagKey' failed to satisfy constraint: Member must have length less than or equal to 128`,
    ])
    const longValue = 'v'.repeat(257)
    await expectProblems(
      tag(KeyId, [
        ['ok', 'v'],
        ['', longValue],
      ]),
      [
        `Value '' at 'tags.2.member.tagKey' failed to satisfy constraint: Member must have length greater than or equal to 1`,
        `Value '${longValue}' at 'tags.2.member.tagValue' failed to satisfy constraint: Member must have length less than or equal to 256`,
      ],
    )
  })

  test('wants its tags', async () => {
    const { KeyId } = await contract.key()
    await expectProblems(contract.kms.send(new TagResourceCommand({ KeyId, Tags: undefined })), [
      "Value null at 'tags' failed to satisfy constraint: Member must not be null",
    ])
    await expectProblems(contract.kms.send(new TagResourceCommand({ KeyId, Tags: [{ TagKey: 'x' } as Tag] })), [
      "Value null at 'tags.1.member.tagValue' failed to satisfy constraint: Member must not be null",
    ])
  })
})

describe('UntagResource', () => {
  test('removes what it names and nothing else, and does not mind what is not there', async () => {
    const { KeyId } = await contract.key()
    await tag(KeyId, [
      ['a', '1'],
      ['b', '2'],
      ['c', '3'],
    ])
    expect(withoutMetadata(await untag(KeyId, 'a', 'never-there'))).toEqual({})
    expect(await tagsOf(KeyId)).toEqual({ b: '2', c: '3' })
    await untag(KeyId, 'B')
    expect(await tagsOf(KeyId)).toEqual({ b: '2', c: '3' })
    await untag(KeyId, 'b', 'c')
    expect(await tagsOf(KeyId)).toEqual({})
  })
})

describe('ListResourceTags', () => {
  test('pages, each tag once, fifty on a page unless told otherwise', async () => {
    const { KeyId } = await contract.key()
    await tag(
      KeyId,
      Array.from({ length: 50 }, (_, i) => [`k${i}`, String(i)] as const),
    )
    const whole = await contract.kms.send(new ListResourceTagsCommand({ KeyId }))
    expect(whole.Tags).toHaveLength(50)
    expect(whole.Truncated).toBe(false)
    expect(whole.NextMarker).toBeUndefined()
    const seen: string[] = []
    let marker: string | undefined
    do {
      const page = await contract.kms.send(
        new ListResourceTagsCommand({ KeyId, Limit: 20, ...(marker !== undefined && { Marker: marker }) }),
      )
      expect(page.Truncated).toBe(page.NextMarker !== undefined)
      seen.push(...given(page.Tags).map((each) => given(each.TagKey)))
      marker = page.NextMarker
    } while (marker !== undefined)
    expect(seen.sort()).toEqual(
      given(whole.Tags)
        .map((each) => given(each.TagKey))
        .sort(),
    )
    await expectRefusal(contract.kms.send(new ListResourceTagsCommand({ KeyId, Marker: 'nonsense' })), 'InvalidMarkerException', /./)
  })

  test('of a key without tags answers an empty list', async () => {
    const { KeyId } = await contract.key()
    expect(withoutMetadata(await contract.kms.send(new ListResourceTagsCommand({ KeyId })))).toEqual({ Tags: [], Truncated: false })
  })
})
