/** Grants: permissions on one key for one principal, made, listed and ended without touching a policy. What one allows: auth/grants.ts. */

import { randomBytes } from 'node:crypto'
import { contextOperations, grantOperations } from '../../auth/grants.ts'
import { StoreConflict, type GrantRecord, type KeyRecord } from '../../store/store.ts'
import { foreignKeyUnseen, givenConstraints, permitRetirement } from '../access.ts'
import { kmsError, type KmsError } from '../errors.ts'
import { findKey, keyFrom, keyMissing } from '../keys.ts'
import { seconds } from '../metadata.ts'
import { dryRunSucceeded, namesKey, operation, type Call, type FoundKey } from '../operation.ts'
import { pageAsked, pageShown } from '../page.ts'
import { integer, keyId, list, oneOf, optional, string, stringMap, structure, type Member } from '../shape.ts'
import { isSymmetric, type KeyUsage } from '../specs.ts'
import { rootArn } from '../arn.ts'
import { dryRun, grantToken, grantTokens, marker } from './members.ts'

const grantId = string({ min: 1, max: 128 })
const principalArn = optional(string({ min: 1, max: 256, pattern: /^[\w+=,.@:/-]+$/ }))
// As text: AWS's messages print the pattern with escapes that need not be there.
const servicePrincipalPattern = new RegExp(String.raw`^([A-Za-z0-9\-]+)\.([A-Za-z0-9\-]+)(\.[A-Za-z0-9\-]+)+$`)
const servicePrincipal = optional(string({ min: 1, max: 128, pattern: servicePrincipalPattern }))
const limit = optional(integer({ min: 1, max: 1000 }))

const maxPairs = 8
const maxPairCharacters = 384

/** Bounded when it is read, before policies see it. */
const contextPairs: Member<Readonly<Record<string, string>>> = {
  ...stringMap,
  read(value, path, problems) {
    const pairs = stringMap.read(value, path, problems)
    const told = (rule: string) => problems.push(`Value at '${path}' failed to satisfy constraint: ${rule}`)
    const entries = Object.entries(pairs)
    if (entries.length > maxPairs) told(`Member must have length less than or equal to ${maxPairs}`)
    for (const [part, index] of [
      ['keys', 0],
      ['value', 1],
    ] as const) {
      if (entries.some((entry) => entry[index].length > maxPairCharacters)) {
        told(`Map ${part} must satisfy constraint: [Member must have length less than or equal to ${maxPairCharacters}]`)
      }
    }
    return pairs
  },
}

const invalid = (message: string): KmsError => kmsError('ValidationException', message)

/** What a grant on a key of each usage can permit, beside what it can on every key: the developer guide's table of grant operations. */
const operationsByUsage: Readonly<Record<KeyUsage, readonly string[]>> = {
  ENCRYPT_DECRYPT: ['Encrypt', 'Decrypt', 'ReEncryptFrom', 'ReEncryptTo'],
  SIGN_VERIFY: ['Sign', 'Verify'],
  GENERATE_VERIFY_MAC: ['GenerateMac', 'VerifyMac'],
  KEY_AGREEMENT: ['DeriveSharedSecret'],
  ENCAPSULATE_DECAPSULATE: ['Encapsulate', 'Decapsulate'],
}

function isGrantable(key: KeyRecord, name: string): boolean {
  if (['CreateGrant', 'RetireGrant', 'DescribeKey'].includes(name)) return true
  if (isSymmetric(key)) return contextOperations.has(name)
  if (name === 'GetPublicKey') return key.usage !== 'GENERATE_VERIFY_MAC'
  return operationsByUsage[key.usage as KeyUsage].includes(name)
}

function readOperations(key: KeyRecord, given: readonly string[]): readonly string[] {
  const operations = [...new Set(given)]
  if (operations.length === 0) throw invalid('Grants must contain at least one operation.')
  if (operations.length === 1 && operations[0] === 'CreateGrant') throw invalid('Grants must not contain only the CreateGrant operation.')
  const unfit = operations.find((name) => !isGrantable(key, name))
  if (unfit !== undefined) {
    throw invalid(`The operation ${unfit} cannot be granted on ${key.arn}: its key spec is ${key.spec} and its key usage ${key.usage}.`)
  }
  return operations
}

function readConstraints(call: Call, key: KeyRecord): GrantRecord['constraints'] {
  const constraints = givenConstraints(call)
  const { encryptionContextEquals: equals, encryptionContextSubset: subset } = constraints
  if (equals && subset) throw invalid('You can specify either EncryptionContextEquals or EncryptionContextSubset, but not both.')
  if ((equals ?? subset) && !isSymmetric(key)) {
    throw invalid(
      `An encryption context constraint cannot be used in a grant on ${key.arn}: keys of spec ${key.spec} have no encryption context.`,
    )
  }
  return constraints
}

interface Party {
  readonly name: string
  readonly id: string | null
}

const noPrincipal = (arn: string): KmsError => kmsError('InvalidArnException', `ARN does not refer to a valid principal: ${arn}`)

/** Who is named must be there, and is remembered by its unique id: the same name may be somebody else's tomorrow. @throws KmsError */
function findParty(call: Call, arn: string): Party {
  const { view } = call.service.store
  if (/^arn:aws:iam::\d{12}:root$/.test(arn)) return { name: arn, id: null }
  const session = /^arn:aws:sts::(\d{12}):assumed-role\/([\w+=,.@-]+)\/[\w+=,.@-]{2,64}$/.exec(arn)
  const found = session ? view.principalByName(session[1] ?? '', 'role', session[2] ?? '') : view.principal(arn)
  if (!found) throw noPrincipal(arn)
  return { name: arn, id: found.uniqueId }
}

/** Of the caller's account. @throws KmsError */
function findOwnParty(call: Call, arn: string): Party {
  const [, accountId] = /^arn:aws:(?:iam|sts)::(\d{12}):.+$/.exec(arn) ?? []
  if (accountId === undefined) throw noPrincipal(arn)
  if (accountId !== call.principal.accountId) throw foreignKeyUnseen(call)
  return findParty(call, arn)
}

/** Of a principal and a service principal one may be given. */
function readParty(call: Call, kind: 'Grantee' | 'Retiring'): Party | undefined {
  const principal = call.input[`${kind}Principal`] as string | undefined
  const service = call.input[`${kind}ServicePrincipal`] as string | undefined
  if (principal !== undefined && service !== undefined) {
    throw invalid(`You can specify either ${kind}Principal or ${kind}ServicePrincipal, but not both.`)
  }
  return principal === undefined ? (service === undefined ? undefined : { name: service, id: null }) : findParty(call, principal)
}

const isService = (party: string): boolean => !party.startsWith('arn:')

const full = ({ arn }: KeyRecord, quota: number, options?: ErrorOptions): KmsError =>
  kmsError('LimitExceededException', `${arn} has ${quota} grants, which is the quota of a KMS key.`, options)

/** What a dry run can say of `insertOnce`. @throws KmsError */
async function checkRoom(call: Call, key: KeyRecord, grant: GrantRecord): Promise<void> {
  const { grants } = call.service.store
  const { grantsPerKey } = call.service.config.quotas
  if ((await grants.count(key.arn)) >= grantsPerKey && !(await grants.sameAs(grant))) throw full(key, grantsPerKey)
}

/** Stores a grant, or answers the one that the same request with the same name made before. */
async function insertOnce(call: Call, key: KeyRecord, grant: GrantRecord): Promise<GrantRecord> {
  const { grants, view } = call.service.store
  const { grantsPerKey } = call.service.config.quotas
  for (let attempt = 1; ; attempt++) {
    try {
      await grants.insert(grant, grantsPerKey)
      return grant
    } catch (error) {
      if (!(error instanceof StoreConflict)) throw error
      const same = await grants.sameAs(grant)
      if (same) return same
      if (!view.key(key.arn)) throw keyMissing(key.arn)
      // The same one may have been ended between the two looks: then there is room now.
      if (attempt === 2) throw full(key, grantsPerKey, { cause: error })
    }
  }
}

export const CreateGrant = operation({
  input: {
    KeyId: keyId,
    GranteePrincipal: principalArn,
    RetiringPrincipal: principalArn,
    Operations: list(oneOf(...grantOperations), { max: grantOperations.length }),
    Constraints: optional(
      structure({
        EncryptionContextSubset: optional(contextPairs),
        EncryptionContextEquals: optional(contextPairs),
        SourceArn: optional(string({ min: 20, max: 512, pattern: /^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{12}:.+$/ })),
      }),
    ),
    GrantTokens: grantTokens,
    Name: optional(string({ min: 1, max: 256, pattern: /^[a-zA-Z0-9:/_-]+$/ })),
    DryRun: dryRun,
    GranteeServicePrincipal: servicePrincipal,
    RetiringServicePrincipal: servicePrincipal,
  },
  output: ['GrantToken', 'GrantId'],
  keys: { key: keyFrom('KeyId', { crossAccount: true }) },
  readOnly: false,
  dryRunInside: true,
  responseElements: ({ GrantId }, call) => ({ grantId: GrantId, ...namesKey(undefined, call) }),
  async run(call, input, { key }) {
    const operations = readOperations(key, input.Operations)
    const constraints = readConstraints(call, key)
    const grantee = readParty(call, 'Grantee')
    const retiring = readParty(call, 'Retiring')
    if (!grantee) throw invalid('You must specify either GranteePrincipal or GranteeServicePrincipal, but not both.')
    if (isService(grantee.name) && (constraints.sourceArn === undefined || !retiring)) {
      throw invalid(
        'When you specify a GranteeServicePrincipal, you must also specify a SourceArn grant constraint, and either a RetiringPrincipal or a RetiringServicePrincipal.',
      )
    }
    const wanted: GrantRecord = {
      grantId: randomBytes(32).toString('hex'),
      keyArn: key.arn,
      grantee: grantee.name,
      granteeId: grantee.id,
      retiring: retiring?.name ?? null,
      retiringId: retiring?.id ?? null,
      issuingAccountId: call.principal.accountId,
      name: input.Name ?? null,
      operations,
      constraints,
      createdAt: call.nowMs,
    }
    if (input.DryRun) {
      await checkRoom(call, key, wanted)
      throw dryRunSucceeded()
    }
    const grant = await insertOnce(call, key, wanted)
    return { GrantToken: call.service.grantTokens.issue(grant), GrantId: grant.grantId }
  },
})

/** Where a grant names a service the member is called so. */
const shownParty = (kind: 'Grantee' | 'Retiring', party: string | null): Readonly<Record<string, string>> =>
  party === null ? {} : { [`${kind}${isService(party) ? 'Service' : ''}Principal`]: party }

const shownGrant = (grant: GrantRecord): Readonly<Record<string, unknown>> => {
  const { encryptionContextEquals, encryptionContextSubset, sourceArn } = grant.constraints
  const constraints = {
    ...(encryptionContextSubset && { EncryptionContextSubset: encryptionContextSubset }),
    ...(encryptionContextEquals && { EncryptionContextEquals: encryptionContextEquals }),
    ...(sourceArn !== undefined && { SourceArn: sourceArn }),
  }
  return {
    KeyId: grant.keyArn,
    GrantId: grant.grantId,
    Name: grant.name ?? '',
    CreationDate: seconds(grant.createdAt),
    ...shownParty('Grantee', grant.grantee),
    ...shownParty('Retiring', grant.retiring),
    IssuingAccount: rootArn(grant.issuingAccountId),
    Operations: grant.operations,
    ...(Object.keys(constraints).length > 0 && { Constraints: constraints }),
  }
}

/** Ids are ours: 64 hex digits. */
function readGrantId(id: string): string {
  if (!/^[0-9a-f]{64}$/.test(id)) throw kmsError('InvalidGrantIdException', `Invalid grant ID '${id}'`)
  return id
}

const grantMissing = (id: string): KmsError => kmsError('NotFoundException', `Grant ID ${id} not found`)

/** Of two filters one; that on services is for services (API reference, ListGrants and ListRetirableGrants). */
function readFilter(call: Call, kind: 'Grantee' | 'Retiring'): string | undefined {
  const principal = call.input[`${kind}Principal`] as string | undefined
  const service = call.input[`${kind}ServicePrincipal`] as string | undefined
  if (service !== undefined) {
    if (principal !== undefined) throw invalid(`You can specify either ${kind}Principal or ${kind}ServicePrincipal, but not both.`)
    // A listing goes across accounts: no service sees what is another's.
    const own = call.service.managedKeys.serviceOf(call.principal)
    if (own !== undefined && service.startsWith(`${own}.`)) return service
    throw kmsError('AccessDeniedException', `${kind}ServicePrincipal can be used only by AWS services.`)
  }
  if (principal !== undefined && isService(principal)) throw noPrincipal(principal)
  return principal
}

const pageSize = 50

export const ListGrants = operation({
  input: {
    Limit: limit,
    Marker: marker,
    KeyId: keyId,
    GrantId: optional(grantId),
    GranteePrincipal: principalArn,
    GranteeServicePrincipal: servicePrincipal,
  },
  output: ['Grants', 'NextMarker', 'Truncated'],
  keys: { key: keyFrom('KeyId', { crossAccount: true }) },
  readOnly: true,
  async run(call, input, { key }) {
    const { grants } = call.service.store
    const grantee = readFilter(call, 'Grantee')
    const { after, limit: most } = pageAsked(call, pageSize)
    if (input.GrantId !== undefined) {
      const grant = await grants.get(readGrantId(input.GrantId))
      const fits = grant?.keyArn === key.arn && (grantee === undefined || grant.grantee === grantee)
      return { Grants: grant && fits ? [shownGrant(grant)] : [], Truncated: false }
    }
    const found = await grants.list({ keyArn: key.arn, ...(grantee !== undefined && { grantee }) }, after, most)
    const { items, rest } = pageShown(call, found, shownGrant)
    return { Grants: items, ...rest }
  },
})

export const ListRetirableGrants = operation({
  input: { Limit: limit, Marker: marker, RetiringPrincipal: principalArn, RetiringServicePrincipal: servicePrincipal },
  output: ['Grants', 'NextMarker', 'Truncated'],
  resources: (_call, { RetiringPrincipal: retiring }) => [retiring ?? '*'],
  readOnly: true,
  async run(call) {
    const retiring = readFilter(call, 'Retiring')
    if (retiring === undefined) throw invalid('You must specify either RetiringPrincipal or RetiringServicePrincipal, but not both.')
    const { after, limit: most } = pageAsked(call, pageSize)
    const { name, id } = isService(retiring) ? { name: retiring, id: null } : findOwnParty(call, retiring)
    const found = await call.service.store.grants.list({ retiring: name, retiringId: id, region: call.region }, after, most)
    const { items, rest } = pageShown(call, found, shownGrant)
    return { Grants: items, ...rest }
  },
})

interface RetireInput {
  readonly GrantToken?: string
  readonly KeyId?: string
  readonly GrantId?: string
}

/** A grant is named by a token, or by its key and id. */
function readRetired(
  call: Call,
  { GrantToken: token, KeyId: key, GrantId: id }: RetireInput,
): { readonly keyRef: string; readonly grantId: string } {
  if (token !== undefined && key === undefined && id === undefined) {
    const named = call.service.grantTokens.read(token)
    return { keyRef: named.keyArn, grantId: named.grantId }
  }
  if (token !== undefined || key === undefined || id === undefined) {
    throw invalid('You must specify either a grant token, or both a key ID and a grant ID.')
  }
  return { keyRef: key, grantId: readGrantId(id) }
}

/** A grant of the key, as it is now. What a key of another account has not looks like what may not be done. */
async function getGrant(call: Call, key: KeyRecord, id: string): Promise<GrantRecord> {
  const grant = await call.service.store.grants.get(id)
  if (grant?.keyArn === key.arn) return grant
  throw key.accountId === call.principal.accountId ? grantMissing(id) : foreignKeyUnseen(call)
}

async function deleteGrant(call: Call, grant: GrantRecord): Promise<void> {
  try {
    await call.service.store.grants.delete(grant)
  } catch (error) {
    if (error instanceof StoreConflict) throw grantMissing(grant.grantId)
    throw error
  }
}

export const RetireGrant = operation({
  input: { GrantToken: optional(grantToken), KeyId: optional(keyId), GrantId: optional(grantId), DryRun: dryRun },
  output: [],
  keys: {
    key: {
      find: (call: Call, input: RetireInput): FoundKey => findKey(call, readRetired(call, input).keyRef, 'key'),
      async permit(call: Call, found: FoundKey, input: RetireInput) {
        permitRetirement(call, found, await getGrant(call, found.record, readRetired(call, input).grantId))
      },
    },
  },
  readOnly: false,
  async run(call, input, { key }) {
    const { grantId: id } = readRetired(call, input)
    call.note['grantId'] = id
    await deleteGrant(call, await getGrant(call, key, id))
    return {}
  },
})

export const RevokeGrant = operation({
  input: { KeyId: keyId, GrantId: grantId, DryRun: dryRun },
  output: [],
  keys: { key: keyFrom('KeyId', { crossAccount: true }) },
  readOnly: false,
  dryRunInside: true,
  async run(call, input, { key }) {
    const grant = await call.service.store.grants.get(readGrantId(input.GrantId))
    // Whoever may revoke may list, so what is not there can be told apart.
    if (grant?.keyArn !== key.arn) throw grantMissing(input.GrantId)
    if (input.DryRun) throw dryRunSucceeded()
    await deleteGrant(call, grant)
    return {}
  },
})
