/** Names of KMS keys as the AWS Encryption SDK takes them apart (its specification, framework/aws-kms/aws-kms-key-arn.md). */

export interface KeyArn {
  readonly partition: string
  readonly region: string
  readonly accountId: string
  readonly type: 'key' | 'alias'
  readonly id: string
}

/** Undefined for what is no ARN of a KMS key or alias. */
export function parseKeyArn(text: string): KeyArn | undefined {
  const [, partition, region, accountId, type, id] = /^arn:([^:]+):kms:([^:]+):([^:]+):(key|alias)\/([^:]+)$/.exec(text) ?? []
  return partition !== undefined &&
    region !== undefined &&
    accountId !== undefined &&
    (type === 'key' || type === 'alias') &&
    id !== undefined
    ? { partition, region, accountId, type, id }
    : undefined
}

export const encodeKeyArn = ({ partition, region, accountId, type, id }: KeyArn): string =>
  `arn:${partition}:kms:${region}:${accountId}:${type}/${id}`

/** Whether it is a key that has replicas, or may have. */
export const isMultiRegion = ({ type, id }: KeyArn): boolean => type === 'key' && id.startsWith('mrk-')

/** Whether both name one key, or two keys of one multi-Region key (aws-kms-mrk-match-for-decrypt.md). */
export function isSameKey(one: string, other: string): boolean {
  if (one === other) return true
  const [a, b] = [parseKeyArn(one), parseKeyArn(other)]
  return (
    a !== undefined &&
    b !== undefined &&
    isMultiRegion(a) &&
    isMultiRegion(b) &&
    a.partition === b.partition &&
    a.accountId === b.accountId &&
    a.id === b.id
  )
}
