/** Tags of KMS keys. */

import type { Tag } from '../../store/store.ts'
import { kmsError } from '../errors.ts'
import { changeKey, keyFrom } from '../keys.ts'
import { namesKey, operation } from '../operation.ts'
import { page, pageOf } from '../page.ts'
import { keyId, list, string } from '../shape.ts'
import { listing, maxTagsGiven, tagList } from './members.ts'

/** IAM's limit, and the default quota of KMS keys. */
const standardMaxTags = 50

/** The tags that a resource has after `given` are laid over `present`. @throws KmsError TagException. */
export function readTags(
  given: readonly { readonly TagKey: string; readonly TagValue: string }[],
  present: readonly Tag[],
  most = standardMaxTags,
): readonly Tag[] {
  if (new Set(given.map((tag) => tag.TagKey)).size < given.length) throw kmsError('TagException', 'Duplicate tag keys')
  refuseReserved(given.map((tag) => tag.TagKey))
  const tags = new Map(present.map((tag) => [tag.key, tag.value]))
  for (const tag of given) tags.set(tag.TagKey, tag.TagValue)
  if (tags.size > most) throw kmsError('TagException', 'Too many tags')
  return [...tags].map(([key, value]) => ({ key, value }))
}

/**
 * For tags of users, roles and sessions, whose names are one whatever their case (IAM user guide, "Rules for tagging in IAM"). Of a name
 * given twice a policy on the request could be shown one value and the session have the other.
 */
export function refuseRepeatedNames(keys: readonly string[]): void {
  if (new Set(keys.map((key) => key.toLowerCase())).size < keys.length) {
    throw kmsError('ValidationException', 'Duplicate tag keys found. Please note that Tag keys are case insensitive.')
  }
  refuseReserved(keys)
}

function refuseReserved(keys: readonly string[]): void {
  if (keys.some((key) => /^aws:/i.test(key))) throw kmsError('TagException', 'Tags beginning with aws: are reserved')
}

export const TagResource = operation({
  input: { KeyId: keyId, Tags: tagList },
  output: [],
  keys: { key: keyFrom('KeyId') },
  readOnly: false,
  responseElements: namesKey,
  async run(call, input, { key }) {
    await changeKey(call, key, (current) => ({ tags: readTags(input.Tags, current.tags, call.service.config.quotas.tagsPerKey) }))
    return {}
  },
})

export const UntagResource = operation({
  input: { KeyId: keyId, TagKeys: list(string({ min: 1, max: 128 }), { max: maxTagsGiven }) },
  output: [],
  keys: { key: keyFrom('KeyId') },
  readOnly: false,
  responseElements: namesKey,
  async run(call, input, { key }) {
    refuseReserved(input.TagKeys)
    await changeKey(call, key, (current) => ({ tags: current.tags.filter((tag) => !input.TagKeys.includes(tag.key)) }))
    return {}
  },
})

export const ListResourceTags = operation({
  input: { KeyId: keyId, ...listing },
  output: ['Tags', 'NextMarker', 'Truncated'],
  keys: { key: keyFrom('KeyId') },
  readOnly: true,
  run(call, _input, { key }) {
    const sorted = [...key.tags].sort((a, b) => (a.key < b.key ? -1 : 1))
    const { items, rest } = page(
      call,
      50,
      (after, limit) => pageOf(sorted, (tag) => tag.key, after, limit),
      (tag) => ({ TagKey: tag.key, TagValue: tag.value }),
    )
    return { Tags: items, ...rest }
  },
})
