/**
 * The registry against the SDK's own schema: every operation of AWS KMS is a row here, and each built row takes and gives the members
 * that the SDK sends and reads, with their types, what is required, and the values of every enumeration. What is missing is a list.
 */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import * as cloudtrail from '@aws-sdk/client-cloudtrail'
import * as kms from '@aws-sdk/client-kms'
import * as sts from '@aws-sdk/client-sts'
import { describe, expect, test } from 'vitest'
import { KmsError } from '../../src/kms/errors.ts'
import type { Operation } from '../../src/kms/operation.ts'
import { apis } from '../../src/kms/operations/index.ts'
import type { Member, Shape } from '../../src/kms/shape.ts'
import { bodyWith, edgesOf, operationNames, problemsOfText, wirePath, withoutListedValues } from './kms-model.ts'

type Exports = Readonly<Record<string, unknown>>

const sdks: Readonly<Record<string, { readonly exports: Exports; readonly models: string }>> = {
  kms: { exports: kms, models: '@aws-sdk/client-kms/dist-types/models/models_0.d.ts' },
  sts: { exports: sts, models: '@aws-sdk/client-sts/dist-types/models/models_0.d.ts' },
  cloudtrail: { exports: cloudtrail, models: '@aws-sdk/client-cloudtrail/dist-types/models/models_0.d.ts' },
}

function apiNamed(name: string) {
  const api = apis.find((each) => each.name === name)
  if (!api) throw new Error(`no API is called ${name}`)
  return api
}

// ---- reading the SDK's schema: arrays that start with a number for their kind ----

const kindCodes: Readonly<Record<number, string>> = {
  0: 'string',
  1: 'integer',
  2: 'boolean',
  4: 'timestamp',
  5: 'timestamp',
  7: 'timestamp',
  21: 'blob',
  64: 'list',
  128: 'map',
}
const sensitiveTrait = 8

/** A reference is a function, a member `[reference, traits]`, a number, or a schema itself. */
function resolve(reference: unknown): unknown {
  if (typeof reference === 'function') return resolve((reference as () => unknown)())
  if (Array.isArray(reference) && typeof reference[0] !== 'number') return resolve(reference[0])
  return reference
}

interface Described {
  readonly kind: string
  readonly sensitive: boolean
  /** Of a structure or a list of structures. */
  readonly members?: Readonly<Record<string, Described>>
  readonly required?: readonly string[]
  readonly item?: Described
}

function describeSchema(reference: unknown): Described {
  const schema = resolve(reference)
  if (typeof schema === 'number') {
    if ((schema & 64) !== 0 && schema < 128) return { kind: 'list', sensitive: false, item: describeSchema(schema & 63) }
    return { kind: (schema & 128) !== 0 ? 'map' : (kindCodes[schema] ?? `code ${schema}`), sensitive: false }
  }
  if (!Array.isArray(schema)) throw new Error(`cannot read the schema ${String(schema)}`)
  const [kind, , , traits] = schema as unknown as readonly [number, unknown, unknown, unknown]
  const sensitive = typeof traits === 'number' && (traits & sensitiveTrait) !== 0
  switch (kind) {
    case 0:
      return { ...describeSchema(schema[4]), sensitive }
    case 1:
      return { kind: 'list', sensitive, item: describeSchema(schema[4]) }
    case 2:
      return { kind: 'map', sensitive }
    case 3: {
      const names = schema[4] as readonly string[]
      const kinds = schema[5] as readonly unknown[]
      // Required members come first; how many there are is the last entry, absent for none.
      const required = names.slice(0, (schema[6] as number | undefined) ?? 0)
      return {
        kind: 'structure',
        sensitive,
        required,
        members: Object.fromEntries(names.map((name, index) => [name, describeSchema(kinds[index])])),
      }
    }
    default:
      throw new Error(`cannot read a schema of kind ${kind}`)
  }
}

/** Input (4) or output (5) of an operation. An operation without one refers to the unit type, which has no members. */
function schemaOf(exports: Exports, operation: string, place: 4 | 5): Described {
  const schema = exports[`${operation}$`]
  if (!Array.isArray(schema)) throw new Error(`the SDK has no schema for ${operation}`)
  const resolved = resolve(schema[place])
  return Array.isArray(resolved) ? describeSchema(resolved) : { kind: 'structure', sensitive: false, members: {}, required: [] }
}

/** Our shape in the same words. */
function describeShape(shape: Shape): Pick<Described, 'members' | 'required'> {
  const members = Object.entries(shape)
  return {
    members: Object.fromEntries(members.map(([name, member]) => [name, describeMember(member)])),
    required: members.filter(([, member]) => !member.optional).map(([name]) => name),
  }
}

function describeMember({ kind, sensitive, fields }: Member<unknown, boolean>): Described {
  const nested = fields && describeShape(fields)
  if (kind === 'list') return { kind, sensitive, ...(nested && { item: { kind: 'structure', sensitive: false, ...nested } }) }
  return { kind, sensitive, ...nested }
}

/** What can be compared: names and kinds at every depth, which are required (in any order), no item kinds of plain lists. */
function comparable({ members, required }: Pick<Described, 'members' | 'required'>): unknown {
  return {
    required: [...(required ?? [])].sort(),
    members: Object.fromEntries(
      Object.entries(members ?? {})
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([name, { kind, item, ...nested }]) => [
          name,
          { kind, ...(nested.members && { structure: comparable(nested) }), ...(item?.members && { items: comparable(item) }) },
        ]),
    ),
  }
}

/** Every member that the SDK marks sensitive or that is a blob, by its path. */
function secretMembers(described: Pick<Described, 'members'>, prefix = ''): readonly string[] {
  return Object.entries(described.members ?? {}).flatMap(([name, member]) => [
    ...(member.sensitive || member.kind === 'blob' ? [prefix + name] : []),
    ...secretMembers(member.item ?? member, `${prefix + name}.`),
  ])
}

// ---- enumerations: the schema calls them strings, the type declarations say which they are ----

interface Declared {
  readonly name: string
  /** The values that the SDK's enumeration has. */
  readonly values: readonly string[]
  readonly isList: boolean
}

function declaredEnums(sdk: { readonly exports: Exports; readonly models: string }, structure: string): readonly Declared[] {
  const source = readFileSync(createRequire(import.meta.url).resolve(sdk.models), 'utf8')
  const body = new RegExp(`export interface ${structure} \\{\\n([\\s\\S]*?)\\n\\}`).exec(source)?.[1]
  if (body === undefined) return []
  return body.split('\n').flatMap((line) => {
    const match = /^ {4}(\w+)\??: (\w+)(\[\])?(?: \| undefined)?;$/.exec(line)
    if (!match) return []
    const [, name = '', type = '', list] = match
    const values = sdk.exports[type]
    return typeof values === 'object' && values !== null ? [{ name, values: Object.values(values), isList: list !== undefined }] : []
  })
}

/** What a member says of a value that no enumeration has. */
function refusedWith(operation: Operation, body: Readonly<Record<string, unknown>>): string {
  try {
    operation.read(body)
  } catch (error) {
    if (error instanceof KmsError) return error.message
    throw error
  }
  return 'accepted'
}

// ---- the tests ----

const built = apis
  .filter(({ name }) => name !== 'holdfast')
  .flatMap((api) => [...api.operations.values()].map((operation) => ({ api: api.name, name: operation.name, operation })))

describe('the registry', () => {
  test('knows every operation of the AWS SDK for KMS, and no other', () => {
    const commands = Object.keys(kms)
      .filter((name) => name.endsWith('Command') && name !== '$Command')
      .map((name) => name.slice(0, -'Command'.length))
    expect(commands).toHaveLength(56)
    expect([...apiNamed('kms').operations.keys()].sort()).toEqual(commands.sort())
  })

  test('builds them all: none is without input and key', () => {
    const stubs = [...apiNamed('kms').operations.values()].filter(
      ({ input, worksOnKeys }) => Object.keys(input).length === 0 && !worksOnKeys,
    )
    expect(stubs).toEqual([])
    expect([...apiNamed('kms').operations.keys()].sort()).toEqual(operationNames)
  })

  test('has the two STS operations and the one of CloudTrail that clients of KMS use', () => {
    expect([...apiNamed('sts').operations.keys()].sort()).toEqual(['AssumeRole', 'GetCallerIdentity'])
    expect([...apiNamed('cloudtrail').operations.keys()]).toEqual(['LookupEvents'])
  })

  test('stamps each row with the action, the event source and the target that AWS has for it', () => {
    expect(apiNamed('kms')).toMatchObject({ target: 'TrentService', signingName: 'kms', eventSource: 'kms.amazonaws.com' })
    expect(apiNamed('kms').operations.get('Encrypt')).toMatchObject({ action: 'kms:Encrypt', eventSource: 'kms.amazonaws.com' })
    expect(apiNamed('sts').operations.get('AssumeRole')).toMatchObject({ action: 'sts:AssumeRole', eventSource: 'sts.amazonaws.com' })
    expect(apiNamed('cloudtrail').operations.get('LookupEvents')).toMatchObject({
      action: 'cloudtrail:LookupEvents',
      eventSource: 'cloudtrail.amazonaws.com',
    })
  })
})

describe.each(built)('$api $name', ({ api, name, operation }) => {
  const sdk = sdks[api]
  if (!sdk) throw new Error(`no SDK for ${api}`)

  test('takes the members of the SDK, with their types and what is required', () => {
    expect(comparable(describeShape(operation.input))).toEqual(comparable(schemaOf(sdk.exports, name, 4)))
  })

  test('gives the members of the SDK', () => {
    expect([...operation.output].sort()).toEqual(Object.keys(schemaOf(sdk.exports, name, 5).members ?? {}).sort())
  })

  test('never records what the SDK calls sensitive', () => {
    expect(secretMembers(describeShape(operation.input))).toEqual(
      expect.arrayContaining([...secretMembers(schemaOf(sdk.exports, name, 4))]),
    )
  })

  test('accepts the values that the SDK lists for each enumeration, and names them all when it refuses another', () => {
    for (const { name: member, values, isList } of declaredEnums(sdk, `${name}Request`)) {
      for (const value of values) expect(refusedWith(operation, { [member]: isList ? [value] : value })).not.toContain('enum value set')
      const message = refusedWith(operation, { [member]: isList ? ['NO_SUCH'] : 'NO_SUCH' })
      const [, listed] =
        /'\[?NO_SUCH\]?' at '[\w.]+' failed to satisfy constraint: .*Member must satisfy enum value set: \[([^\]]*)\]/.exec(message) ?? []
      expect({ member, values: listed?.split(', ').sort() }).toEqual({ member, values: [...values].sort() })
    }
  })
})

describe.each(operationNames)('the bounds of %s', (name) => {
  const operation = apiNamed('kms').operations.get(name)

  test.each(edgesOf(name))('$member with $what', ({ member, value, problems }) => {
    const body = bodyWith(name, member, Buffer.isBuffer(value) ? value.toString('base64') : value)
    const message = operation ? refusedWith(operation, body) : 'no such operation'
    // Other members are missing here, so the message may name them too. An item of a list of plain values is told of by the list.
    const places = [member, member.replace(/\[\]$/, '')].map((path) => ` at '${wirePath(path)}' `)
    const aboutThis = problemsOfText(message).filter((part) => places.some((place) => part.includes(place)))
    expect(aboutThis).toEqual(problems.map(withoutListedValues).toSorted())
  })
})
