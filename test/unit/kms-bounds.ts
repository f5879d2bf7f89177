/**
 * The bounds that AWS's model of KMS puts on the members of a request: length of a string, bytes of a blob, items of a list, value of a
 * number. `[]` stands for a list's items. What is not here is not bounded by the model; enumerations come from the SDK itself.
 */

export interface Bound {
  readonly of: 'string' | 'blob' | 'integer' | 'list'
  readonly min?: number
  readonly max?: number
  /** As AWS prints it. */
  readonly pattern?: string
  /** A value that the pattern refuses. */
  readonly unfit?: string
  /** A value of a length that fits the pattern, where a row of x does not. */
  readonly fit?: (size: number) => string
}

const keyId: Bound = { of: 'string', min: 1, max: 2048 }
const limit: Bound = { of: 'integer', min: 1, max: 1000 }
const marker: Bound = { of: 'string', min: 1, max: 1024, pattern: '[\\u0020-\\u00FF]*', unfit: 'a\u0100' }
const policy: Bound = { of: 'string', min: 1, max: 131_072, pattern: '[\\u0009\\u000A\\u000D\\u0020-\\u00FF]+', unfit: '{"Id":"\u2603"}' }
const policyName: Bound = { of: 'string', min: 1, max: 128, pattern: '[\\w]+', unfit: 'invalid-name' }
const aliasName: Bound = { of: 'string', min: 1, max: 256, pattern: '^[a-zA-Z0-9:/_-]+$', unfit: 'alias/no space' }
const description: Bound = { of: 'string', max: 8192 }
const tagKey: Bound = { of: 'string', min: 1, max: 128 }
const tagValue: Bound = { of: 'string', max: 256 }
const numberOfBytes: Bound = { of: 'integer', min: 1, max: 1024 }
const ciphertext: Bound = { of: 'blob', min: 1, max: 6144 }
const message: Bound = { of: 'blob', min: 1, max: 4096 }
const attestation: Bound = { of: 'blob', min: 1, max: 262_144 }
const grantId: Bound = { of: 'string', min: 1, max: 128 }
const principalArn: Bound = { of: 'string', min: 1, max: 256, pattern: '^[\\w+=,.@:/-]+$', unfit: 'a b' }
const servicePrincipal: Bound = {
  of: 'string',
  pattern: '^([A-Za-z0-9\\-]+)\\.([A-Za-z0-9\\-]+)(\\.[A-Za-z0-9\\-]+)+$',
  unfit: 'one.two',
}
const grants = { GrantTokens: { of: 'list', max: 10 }, 'GrantTokens[]': { of: 'string', min: 1, max: 8192 } } as const

const keyStoreId: Bound = { of: 'string', min: 1, max: 64 }
const keyStoreName: Bound = { of: 'string', min: 1, max: 256 }
/** Without the secrets, whose values no message shows, and without the lengths that a pattern says as well. */
const keyStoreSettings = {
  CloudHsmClusterId: { of: 'string', pattern: 'cluster-[2-7a-zA-Z]{11,16}', unfit: 'cluster-1234567890ab' },
  XksProxyUriEndpoint: {
    of: 'string',
    min: 10,
    max: 128,
    pattern: '^https://[a-zA-Z0-9.-]+$',
    unfit: 'https://proxy:8443',
    fit: (size) => `https://${'x'.repeat(size - 8)}`,
  },
  XksProxyUriPath: {
    of: 'string',
    max: 128,
    pattern: '^(/[a-zA-Z0-9\\/_-]+/kms/xks/v\\d{1,2})$|^(/kms/xks/v\\d{1,2})$',
    unfit: '/kms/xks/v1/',
    fit: (size) => (size < 15 ? '/kms/xks/v1' : `/${'x'.repeat(size - 12)}/kms/xks/v1`),
  },
  XksProxyVpcEndpointServiceName: {
    of: 'string',
    pattern: '^(com|eu)\\.amazonaws\\.vpce\\.([a-z]+-){2,3}\\d+\\.vpce-svc-[0-9a-z]+$',
    unfit: 'com.amazonaws.vpce.nowhere',
  },
  XksProxyVpcEndpointServiceOwner: { of: 'string', pattern: '[0-9]{12}', unfit: '12345678901x' },
} as const satisfies Readonly<Record<string, Bound>>

export const bounds: Readonly<Record<string, Readonly<Record<string, Bound>>>> = {
  CreateKey: {
    Policy: policy,
    Description: description,
    CustomKeyStoreId: { of: 'string', min: 1, max: 64 },
    'Tags[].TagKey': tagKey,
    'Tags[].TagValue': tagValue,
    XksKeyId: { of: 'string', min: 1, max: 128, pattern: '^[a-zA-Z0-9-_.]+$', unfit: 'xks key' },
  },
  CreateCustomKeyStore: { CustomKeyStoreName: keyStoreName, ...keyStoreSettings },
  UpdateCustomKeyStore: { CustomKeyStoreId: keyStoreId, NewCustomKeyStoreName: keyStoreName, ...keyStoreSettings },
  DescribeCustomKeyStores: { CustomKeyStoreId: keyStoreId, CustomKeyStoreName: keyStoreName, Limit: limit, Marker: marker },
  ConnectCustomKeyStore: { CustomKeyStoreId: keyStoreId },
  DisconnectCustomKeyStore: { CustomKeyStoreId: keyStoreId },
  DeleteCustomKeyStore: { CustomKeyStoreId: keyStoreId },
  DescribeKey: { KeyId: keyId, ...grants },
  ListKeys: { Limit: limit, Marker: marker },
  EnableKey: { KeyId: keyId },
  DisableKey: { KeyId: keyId },
  ScheduleKeyDeletion: { KeyId: keyId, PendingWindowInDays: { of: 'integer', min: 1, max: 365 } },
  CancelKeyDeletion: { KeyId: keyId },
  UpdateKeyDescription: { KeyId: keyId, Description: description },
  CreateAlias: { AliasName: aliasName, TargetKeyId: keyId },
  UpdateAlias: { AliasName: aliasName, TargetKeyId: keyId },
  DeleteAlias: { AliasName: aliasName },
  CreateGrant: {
    KeyId: keyId,
    GranteePrincipal: principalArn,
    RetiringPrincipal: principalArn,
    'Constraints.SourceArn': {
      of: 'string',
      pattern: '^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{12}:.+$',
      unfit: 'arn:aws:s3:::a-whole-bucket',
    },
    Name: { of: 'string', min: 1, max: 256, pattern: '^[a-zA-Z0-9:/_-]+$', unfit: 'no space' },
    GranteeServicePrincipal: servicePrincipal,
    RetiringServicePrincipal: servicePrincipal,
    ...grants,
  },
  ListGrants: {
    Limit: limit,
    Marker: marker,
    KeyId: keyId,
    GrantId: grantId,
    GranteePrincipal: principalArn,
    GranteeServicePrincipal: servicePrincipal,
  },
  ListRetirableGrants: { Limit: limit, Marker: marker, RetiringPrincipal: principalArn, RetiringServicePrincipal: servicePrincipal },
  RetireGrant: { GrantToken: { of: 'string', min: 1, max: 8192 }, KeyId: keyId, GrantId: grantId },
  RevokeGrant: { KeyId: keyId, GrantId: grantId },
  ListAliases: { KeyId: keyId, Limit: limit, Marker: marker },
  TagResource: { KeyId: keyId, 'Tags[].TagKey': tagKey, 'Tags[].TagValue': tagValue },
  UntagResource: { KeyId: keyId, 'TagKeys[]': tagKey },
  ListResourceTags: { KeyId: keyId, Limit: limit, Marker: marker },
  GetKeyPolicy: { KeyId: keyId, PolicyName: policyName },
  PutKeyPolicy: { KeyId: keyId, PolicyName: policyName, Policy: policy },
  ListKeyPolicies: { KeyId: keyId, Limit: limit, Marker: marker },
  EnableKeyRotation: { KeyId: keyId, RotationPeriodInDays: { of: 'integer', min: 90, max: 2560 } },
  DisableKeyRotation: { KeyId: keyId },
  GetKeyRotationStatus: { KeyId: keyId },
  RotateKeyOnDemand: { KeyId: keyId },
  GetKeyLastUsage: { KeyId: keyId },
  ListKeyRotations: { KeyId: keyId, Limit: limit, Marker: marker },
  Encrypt: { KeyId: keyId, Plaintext: { of: 'blob', min: 1, max: 4096 }, ...grants },
  Decrypt: { CiphertextBlob: ciphertext, KeyId: keyId, 'Recipient.AttestationDocument': attestation, ...grants },
  ReEncrypt: { CiphertextBlob: ciphertext, SourceKeyId: keyId, DestinationKeyId: keyId, ...grants },
  GenerateDataKey: { KeyId: keyId, NumberOfBytes: numberOfBytes, 'Recipient.AttestationDocument': attestation, ...grants },
  GenerateDataKeyWithoutPlaintext: { KeyId: keyId, NumberOfBytes: numberOfBytes, ...grants },
  GenerateDataKeyPair: { KeyId: keyId, 'Recipient.AttestationDocument': attestation, ...grants },
  GenerateDataKeyPairWithoutPlaintext: { KeyId: keyId, ...grants },
  GetPublicKey: { KeyId: keyId, ...grants },
  Sign: { KeyId: keyId, Message: message, ...grants },
  Verify: { KeyId: keyId, Message: message, Signature: ciphertext, ...grants },
  GenerateMac: { KeyId: keyId, Message: message, ...grants },
  VerifyMac: { KeyId: keyId, Message: message, Mac: ciphertext, ...grants },
  DeriveSharedSecret: {
    KeyId: keyId,
    PublicKey: { of: 'blob', min: 1, max: 8192 },
    'Recipient.AttestationDocument': attestation,
    ...grants,
  },
  Encapsulate: { KeyId: keyId, ...grants },
  Decapsulate: { KeyId: keyId, SharedSecretCiphertextBlob: ciphertext, ...grants },
  GenerateRandom: {
    NumberOfBytes: numberOfBytes,
    CustomKeyStoreId: { of: 'string', min: 1, max: 64 },
    'Recipient.AttestationDocument': attestation,
  },
}

/** One value at or beyond an edge of a bound, and what AWS says of it: undefined where it is allowed. */
export interface Edge {
  readonly member: string
  readonly what: string
  readonly value: unknown
  readonly problem: string | undefined
}

const lowerFirst = (text: string): string => text.charAt(0).toLowerCase() + text.slice(1)

/** `Tags[].TagKey` as AWS writes it when the first item is meant: `tags.1.member.tagKey`. */
export const wirePath = (member: string): string =>
  member
    .split('.')
    .map((part) => (part.endsWith('[]') ? `${lowerFirst(part.slice(0, -2))}.1.member` : lowerFirst(part)))
    .join('.')

/** A request body that has `value` at `member` and nothing else. */
export function bodyWith(member: string, value: unknown): Readonly<Record<string, unknown>> {
  const [head = '', ...rest] = member.split('.')
  const inner = rest.length > 0 ? bodyWith(rest.join('.'), value) : value
  return head.endsWith('[]') ? { [head.slice(0, -2)]: [inner] } : { [head]: inner }
}

/** Values of a blob are bytes; whoever sends JSON encodes them. */
function valueOf(bound: Bound, size: number): unknown {
  if (bound.of === 'integer') return size
  if (bound.of === 'blob') return Buffer.alloc(size, 7)
  return bound.of === 'list' ? Array.from({ length: size }, () => 'x') : (bound.fit?.(size) ?? 'x'.repeat(size))
}

/** Least, most, one below, one beyond, and what the pattern refuses. */
export function edgesOf(operation: string): readonly Edge[] {
  return Object.entries(bounds[operation] ?? {}).flatMap(([member, bound]) => {
    const path = wirePath(member)
    const measure = bound.of === 'integer' ? 'value' : 'length'
    const edge = (size: number, rule: string | undefined): Edge => {
      const value = valueOf(bound, size)
      const shown = typeof value === 'string' || typeof value === 'number' ? `Value '${value}'` : 'Value'
      return {
        member,
        what: `${bound.of === 'integer' ? '' : `${measure} `}${size}`,
        value,
        problem: rule && `${shown} at '${path}' failed to satisfy constraint: Member must have ${measure} ${rule}`,
      }
    }
    const edges: Edge[] = []
    if (bound.min !== undefined) {
      edges.push(edge(bound.min, undefined))
      // Of no length there is nothing below; and an empty text breaks its pattern too, which the tests of several problems look at.
      if (bound.pattern === undefined || bound.pattern.endsWith('*'))
        edges.push(edge(bound.min - 1, `greater than or equal to ${bound.min}`))
    }
    if (bound.max !== undefined) edges.push(edge(bound.max, undefined), edge(bound.max + 1, `less than or equal to ${bound.max}`))
    if (bound.pattern !== undefined && bound.unfit !== undefined) {
      edges.push({
        member,
        what: 'characters beyond its pattern',
        value: bound.unfit,
        problem: `Value '${bound.unfit}' at '${path}' failed to satisfy constraint: Member must satisfy regular expression pattern: ${bound.pattern}`,
      })
    }
    return edges
  })
}
