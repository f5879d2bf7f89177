/**
 * AWS's own model of the KMS API: every member of every request with its type, what is required, bounds, patterns and enumerations; values that
 * it allows, and what AWS says of those that it does not.
 *
 * `kms-model.json` is the requests' part of botocore's `kms/2014-11-01/service-2.json` (Apache-2.0) in a short form: `?` after a name says that the
 * member is optional. What came later than that copy is here.
 */
import { readFileSync } from 'node:fs'

type Kind = 'string' | 'integer' | 'boolean' | 'timestamp' | 'blob' | 'list' | 'map' | 'structure'

interface ModelShape {
  readonly type: Kind
  readonly min?: number
  readonly max?: number
  /** As AWS prints it. */
  readonly pattern?: string
  readonly enum?: readonly string[]
  readonly sensitive?: boolean
  readonly members?: Readonly<Record<string, string>>
  readonly member?: string
}

interface Model {
  readonly operations: Readonly<Record<string, Readonly<Record<string, string>>>>
  /** The errors that AWS documents for an operation, without those that all have in common. */
  readonly errors: Readonly<Record<string, readonly string[]>>
  readonly shapes: Readonly<Record<string, ModelShape>>
}

const file = JSON.parse(readFileSync(new URL('kms-model.json', import.meta.url), 'utf8')) as Model

const encapsulation = {
  KeyId: 'KeyIdType',
  EncapsulationAlgorithm: 'EncapsulationAlgorithmSpec',
  'GrantTokens?': 'GrantTokenList',
  'DryRun?': 'NullableBooleanType',
}

const model: Model = {
  operations: {
    ...file.operations,
    Encapsulate: encapsulation,
    Decapsulate: { ...encapsulation, SharedSecretCiphertextBlob: 'CiphertextType' },
  },
  // As those of GenerateMac and VerifyMac, but for the comparison.
  errors: { ...file.errors, Encapsulate: file.errors['GenerateMac'] ?? [], Decapsulate: file.errors['GenerateMac'] ?? [] },
  shapes: { ...file.shapes, EncapsulationAlgorithmSpec: { type: 'string', enum: ['ML_KEM'] } },
}

/** An id of the right form that no key has. */
const absentKeyId = '00000000-0000-4000-8000-000000000000'

interface Sample {
  /** A text of this length that fits the pattern, where there is one. Without it: a row of x. */
  readonly fit?: (length: number) => string
  /** A text of a length that fits, which the pattern refuses. */
  readonly unfit?: string
  /** What requests are built with. Without it: the shortest text that fits. */
  readonly ordinary?: unknown
}

const padded =
  (start: string, end = '') =>
  (length: number): string =>
    `${start}${'x'.repeat(Math.max(0, length - start.length - end.length))}${end}`

const samples: Readonly<Record<string, Sample>> = {
  AccountIdType: { fit: (length) => '1'.repeat(length), unfit: '12345678901x' },
  AliasNameType: { unfit: 'alias/no space', ordinary: 'alias/bad-input-absent' },
  BackingKeyIdType: { fit: (length) => 'a'.repeat(length), unfit: 'A'.repeat(64) },
  CloudHsmClusterIdType: { fit: (length) => 'cluster-'.padEnd(length, '2'), unfit: 'cluster-1234567890ab' },
  // RSA keys take long to make.
  DataKeyPairSpec: { ordinary: 'ECC_NIST_P256' },
  GrantConstraintSourceArnType: { fit: padded('arn:aws:s3:us-east-1:111122223333:'), unfit: 'arn:aws:s3:::a-whole-bucket' },
  GrantIdType: { ordinary: '0'.repeat(64) },
  GrantNameType: { unfit: 'no space' },
  GrantOperationList: { ordinary: ['Encrypt'] },
  KeyIdType: { ordinary: absentKeyId },
  KeyMaterialDescriptionType: { unfit: 'a|b' },
  KeyStorePasswordType: {},
  MarkerType: { unfit: 'a\u0100' },
  PolicyNameType: { unfit: 'invalid-name' },
  PolicyType: { unfit: '{"Id":"\u2603"}', ordinary: '{}' },
  PrincipalIdType: { unfit: 'a b' },
  RegionType: { fit: padded('eu-', '-1'), unfit: 'EU-WEST-1' },
  ServicePrincipalType: { fit: padded('a.b.'), unfit: 'one.two' },
  XksKeyIdType: { unfit: 'xks key' },
  XksProxyAuthenticationAccessKeyIdType: { fit: (length) => 'A'.repeat(length), unfit: 'a'.repeat(20) },
  XksProxyAuthenticationRawSecretAccessKeyType: { unfit: '-'.repeat(43) },
  XksProxyUriEndpointType: { fit: padded('https://'), unfit: 'https://proxy:8443' },
  XksProxyUriPathType: { fit: (length) => (length < 15 ? '/kms/xks/v1' : padded('/', '/kms/xks/v1')(length)), unfit: '/kms/xks/v1/' },
  XksProxyVpcEndpointServiceNameType: {
    fit: padded('com.amazonaws.vpce.us-east-1.vpce-svc-'),
    unfit: 'com.amazonaws.vpce.nowhere',
  },
}

/**
 * Not shown in messages although the model does not call them sensitive: who holds a grant token has the grant, and the certificate is left out of
 * AWS's own records too.
 */
const hidden: ReadonlySet<string> = new Set(['GrantTokenType', 'TrustAnchorCertificateType'])

/** One member of a request, at any depth. */
export interface ModelMember {
  /** `Tags[].TagKey`; `[]` stands for the items of a list. */
  readonly path: string
  readonly shapeName: string
  readonly shape: ModelShape
  readonly required: boolean
}

/** Every operation of AWS KMS. */
export const operationNames: readonly string[] = Object.keys(model.operations).sort()

export const errorsOf = (operation: string): readonly string[] => model.errors[operation] ?? []

function shapeOf(name: string): ModelShape {
  const shape = model.shapes[name]
  if (!shape) throw new Error(`the model has no shape ${name}`)
  return shape
}

const entries = (members: Readonly<Record<string, string>>, prefix: string): readonly ModelMember[] =>
  Object.entries(members).map(([name, shapeName]) => ({
    path: prefix + name.replace('?', ''),
    shapeName,
    shape: shapeOf(shapeName),
    required: !name.endsWith('?'),
  }))

const inside = ({ path, shape }: ModelMember): readonly ModelMember[] =>
  shape.member === undefined
    ? entries(shape.members ?? {}, `${path}.`)
    : [{ path: `${path}[]`, shapeName: shape.member, shape: shapeOf(shape.member), required: true }]

const withInside = (member: ModelMember): readonly ModelMember[] => [member, ...inside(member).flatMap(withInside)]

/** The members of a request, without what is inside them. */
export const membersOf = (operation: string): readonly ModelMember[] => entries(model.operations[operation] ?? {}, '')

export const allMembersOf = (operation: string): readonly ModelMember[] => membersOf(operation).flatMap(withInside)

// ---- values ----

/** A value of a length or size. */
function valueOf({ shape, shapeName }: ModelMember, size: number): unknown {
  if (shape.type === 'integer') return size
  if (shape.type === 'blob') return Buffer.alloc(size, 7)
  if (shape.type === 'list') return Array.from({ length: size }, () => 'x')
  return samples[shapeName]?.fit?.(size) ?? 'x'.repeat(size)
}

/** A value that the model allows. Blobs are bytes; whoever sends JSON encodes them. */
export function ordinaryValue(member: ModelMember): unknown {
  const { shape, shapeName } = member
  const given = samples[shapeName]?.ordinary
  if (given !== undefined) return given
  if (shape.type === 'boolean') return false
  if (shape.type === 'timestamp') return 2_000_000_000
  if (shape.type === 'map') return { name: 'value' }
  if (shape.type === 'structure') return Object.fromEntries(inside(member).map((each) => [lastName(each.path), ordinaryValue(each)]))
  if (shape.type === 'list') return inside(member).map(ordinaryValue)
  // The longest would also do, and a text of one letter fits few patterns.
  return shape.enum?.[0] ?? valueOf(member, samples[shapeName]?.fit ? (shape.max ?? 1) : Math.max(1, shape.min ?? 1))
}

/** What is required, and nothing else. The keys, aliases and key stores that it names are not there. */
export const leastInput = (operation: string): Readonly<Record<string, unknown>> =>
  Object.fromEntries(
    membersOf(operation)
      .filter(({ required }) => required)
      .map((member) => [member.path, ordinaryValue(member)]),
  )

const lastName = (path: string): string => path.slice(path.lastIndexOf('.') + 1)
const lowerFirst = (text: string): string => text.charAt(0).toLowerCase() + text.slice(1)

/** `Tags[].TagKey` as AWS writes it when the first item is meant: `tags.1.member.tagKey`. */
export const wirePath = (path: string): string =>
  path
    .split('.')
    .map((part) => (part.endsWith('[]') ? `${lowerFirst(part.slice(0, -2))}.1.member` : lowerFirst(part)))
    .join('.')

/** A request that has `value` at `path`, and in the structures above it what they require. */
export function bodyWith(operation: string, path: string, value: unknown): Readonly<Record<string, unknown>> {
  const build = (members: readonly ModelMember[], prefix: string): unknown => {
    const next = members.find(({ path: each }) => path === each || path.startsWith(`${each}.`) || path.startsWith(`${each}[]`))
    if (!next) throw new Error(`${operation} has no member ${path}`)
    const inner = next.path === path ? value : build(inside(next), next.path)
    if (next.path.endsWith('[]')) return [inner]
    const others = prefix === '' ? [] : members.filter((each) => each !== next && each.required)
    return { ...Object.fromEntries(others.map((each) => [lastName(each.path), ordinaryValue(each)])), [lastName(next.path)]: inner }
  }
  return build(membersOf(operation), '') as Readonly<Record<string, unknown>>
}

// ---- what AWS says ----

/** Each rule of a shape, and whether a value keeps it. */
function rulesOf({
  type,
  min,
  max,
  pattern,
  enum: values,
}: ModelShape): readonly (readonly [rule: string, isKept: (value: unknown) => boolean])[] {
  const measure = type === 'integer' ? 'value' : 'length'
  const sizeOf = (value: unknown): number => (typeof value === 'number' ? value : (value as { readonly length: number }).length)
  return [
    ...(max === undefined
      ? []
      : [[`Member must have ${measure} less than or equal to ${max}`, (value: unknown) => sizeOf(value) <= max] as const]),
    // Of no length nothing is too short.
    ...(min === undefined || (min === 0 && type === 'list')
      ? []
      : [[`Member must have ${measure} greater than or equal to ${min}`, (value: unknown) => sizeOf(value) >= min] as const]),
    ...(pattern === undefined
      ? []
      : [
          [
            `Member must satisfy regular expression pattern: ${pattern}`,
            (value: unknown) => new RegExp(`^(?:${pattern})$`).test(value as string),
          ] as const,
        ]),
    ...(values === undefined
      ? []
      : [[`Member must satisfy enum value set: [${values.join(', ')}]`, (value: unknown) => values.includes(value as string)] as const]),
  ]
}

/** Everything that AWS says of a value: the parts of its message, in whatever order. */
export function problemsOf({ path, shape, shapeName }: ModelMember, value: unknown): readonly string[] {
  const rules = rulesOf(shape)
  const broken = rules.filter(([, isKept]) => !isKept(value)).map(([rule]) => rule)
  const isShown = (typeof value === 'string' || typeof value === 'number') && !shape.sensitive && !hidden.has(shapeName)
  // Of a list of plain values AWS speaks as a whole.
  if (path.endsWith('[]') && shape.type === 'string') {
    const all = rules.map(([rule]) => rule).join(', ')
    const list = `Value${isShown ? ` '[${value}]'` : ''} at '${wirePath(path.slice(0, -2))}'`
    return broken.length === 0 ? [] : [`${list} failed to satisfy constraint: Member must satisfy constraint: [${all}]`]
  }
  return broken.map((rule) => `Value${isShown ? ` '${value}'` : ''} at '${wirePath(path)}' failed to satisfy constraint: ${rule}`)
}

export const nullProblem = (path: string): string =>
  `Value null at '${wirePath(path)}' failed to satisfy constraint: Member must not be null`

/** One value at or beyond an edge of a bound, off an enumeration, against a pattern; and what AWS says of it: nothing where it is allowed. */
export interface Edge {
  readonly member: string
  readonly what: string
  readonly value: unknown
  readonly problems: readonly string[]
}

export function edgesOf(operation: string): readonly Edge[] {
  return allMembersOf(operation).flatMap((member) => {
    const { shape, shapeName, path } = member
    const edge = (what: string, value: unknown): Edge => ({ member: path, what, value, problems: problemsOf(member, value) })
    const sizes = [shape.min ?? 0, (shape.min ?? 0) - 1, shape.max, shape.max === undefined ? undefined : shape.max + 1]
    const possible = sizes.filter((size) => size !== undefined && (size >= 0 || shape.type === 'integer'))
    const bounded = shape.min !== undefined || shape.max !== undefined
    const unfit = samples[shapeName]?.unfit
    if (shape.pattern !== undefined && unfit === undefined) throw new Error(`${shapeName} has a pattern and no sample that breaks it`)
    return [
      ...(bounded
        ? possible.map((size) => edge(`${shape.type === 'integer' ? '' : 'length '}${size}`, valueOf(member, size as number)))
        : []),
      ...(unfit === undefined ? [] : [edge('characters beyond its pattern', unfit)]),
      ...(shape.enum
        ? [edge('a value that is not listed', 'NO_SUCH'), edge('a listed value in lower case', (shape.enum[0] ?? '').toLowerCase())]
        : []),
    ]
  })
}

/** Enumerations in the order of their names: AWS prints them in orders of its own, and adds to them. */
export const withoutListedValues = (text: string): string => text.replaceAll(/enum value set: \[[^\]]*\]/g, 'enum value set: […]')

/** The parts of a message that tells of constraints, sorted; without the values of enumerations. */
export function problemsOfText(message: string): readonly string[] {
  const [, text] = /^\d+ validation errors? detected: (.*)$/s.exec(withoutListedValues(message)) ?? []
  return text === undefined ? [] : text.split('; ').toSorted()
}
