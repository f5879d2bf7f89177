/** Amazon Resource Names of keys, aliases and principals: `arn:aws:SERVICE:REGION:ACCOUNT:RESOURCE`. */

/** A lower-case UUID, or `mrk-` and 32 hex digits for a multi-Region key. */
const keyIdPattern = /^(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|mrk-[0-9a-f]{32})$/

export const isKeyId = (text: string): boolean => keyIdPattern.test(text)

export const keyArn = (region: string, accountId: string, keyId: string): string => `arn:aws:kms:${region}:${accountId}:key/${keyId}`

/** `name` with its prefix, `alias/…`. */
export const aliasArn = (region: string, accountId: string, name: string): string => `arn:aws:kms:${region}:${accountId}:${name}`

export const rootArn = (accountId: string): string => `arn:aws:iam::${accountId}:root`

export interface KmsArn {
  readonly region: string
  readonly accountId: string
  readonly kind: 'key' | 'alias'
  /** A key id, or an alias name with its prefix. */
  readonly name: string
}

/** undefined when `text` is not the ARN of a key or an alias. */
export function parseKmsArn(text: string): KmsArn | undefined {
  const match = /^arn:aws:kms:([a-z0-9-]+):([0-9]{12}):((key|alias)\/.+)$/.exec(text)
  if (!match) return undefined
  const [, region = '', accountId = '', resource = '', kind] = match
  return kind === 'key'
    ? { region, accountId, kind, name: resource.slice('key/'.length) }
    : { region, accountId, kind: 'alias', name: resource }
}
