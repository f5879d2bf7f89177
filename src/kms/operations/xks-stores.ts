/**
 * Holdfast's own: the stores of the XKS proxy, through which AWS KMS uses keys as those of an external key store. What a request of KMS goes through:
 * `kms/xks/proxy.ts`. A store is of no region of ours; it is `arn:aws:holdfast::ACCOUNT:xks-store/PREFIX` to policies.
 */

import type { Token } from '../../hsm/token.ts'
import type { KeyRecord, XksCredential, XksStoreChange, XksStoreRecord } from '../../store/store.ts'
import { compileXksPolicy, maxPolicyCharacters, XksPolicyError } from '../../xks/policy.ts'
import { isUriPathPrefix, uriPath } from '../../xks/protocol.ts'
import { permitKey } from '../access.ts'
import { orConflict } from '../conflict.ts'
import { kmsError, type KmsError } from '../errors.ts'
import { uniqueName } from '../identity.ts'
import { keyFrom } from '../keys.ts'
import { stateOf } from '../key-stores.ts'
import { seconds } from '../metadata.ts'
import { operation, type Call } from '../operation.ts'
import { page, pageOf } from '../page.ts'
import { integer, keyId, list, oneOf, optional, string } from '../shape.ts'
import { sealCredential } from '../xks/credentials.ts'
import { listing, xksCredential } from './members.ts'

/** Of one account. AWS has ten key stores in an account and region. */
const maxStores = 100
/** One that works, one that comes, and some for who forgets. */
const maxCredentials = 5
/** What AWS KMS allows itself for one key store. */
const standardRate = 1800

const prefix = string({ max: 117, pattern: '(/[A-Za-z0-9_-]+)*' })
const regions = optional(list(string({ min: 4, max: 32, pattern: /[a-z]{2}(-[a-z]+)+-[0-9]/ }), { min: 1, max: 50 }))
const requestRate = optional(integer({ min: 1, max: 1_000_000 }))
const credential = optional(xksCredential)
/** Not `.` and `..`, which mean something else in a path. */
const externalKeyId = string({ min: 1, max: 128, pattern: /(?!\.{1,2}$)[A-Za-z0-9._-]+/ })

interface Named {
  readonly UriPathPrefix: string
}

const storeArn = (accountId: string, at: string): string => `arn:aws:holdfast::${accountId}:xks-store${at}`
const resources = (call: Call, { UriPathPrefix: at }: Named): readonly string[] => [storeArn(call.principal.accountId, at)]

const nameOf = (at: string): string => (at === '' ? 'without a prefix' : `with the URI path prefix ${at}`)
const missing = (at: string): KmsError => kmsError('NotFoundException', `The XKS store ${nameOf(at)} cannot be found.`)

const ownStore = (call: Call, at: string): XksStoreRecord | undefined => {
  const found = call.service.store.view.xksStore(at)
  return found?.accountId === call.principal.accountId ? found : undefined
}

/** A store of the caller's account. */
function getStore(call: Call, { UriPathPrefix: at }: Named): XksStoreRecord {
  const found = ownStore(call, at)
  if (!found) throw missing(at)
  touch(call, found)
  return found
}

function touch(call: Call, { accountId, prefix: at }: Pick<XksStoreRecord, 'accountId' | 'prefix'>): void {
  const arn = storeArn(accountId, at)
  if (!call.touched.some((each) => each.arn === arn)) call.touched.push({ arn, accountId, type: 'Holdfast::XksStore' })
}

async function changeStore(call: Call, named: Named, change: (current: XksStoreRecord) => XksStoreChange): Promise<XksStoreRecord> {
  const found = getStore(call, named)
  return orConflict(call.service.store.updateXksStore(found, change), () => {
    if (!ownStore(call, found.prefix)) throw missing(found.prefix)
  })
}

const shown = (store: XksStoreRecord): Readonly<Record<string, unknown>> => ({
  UriPathPrefix: store.prefix,
  XksProxyUriPath: uriPath(store.prefix),
  Status: store.enabled ? 'Enabled' : 'Disabled',
  Regions: store.regions,
  RequestRate: store.requestRate,
  ...(store.policy !== null && { PolicyMode: store.policyMode }),
  Credentials: store.credentials.map(({ accessKeyId, createdAt }) => ({ AccessKeyId: accessKeyId, CreateDate: seconds(createdAt) })),
  CreateDate: seconds(store.createdAt),
})

interface GivenCredential {
  readonly AccessKeyId: string
  readonly RawSecretAccessKey: string
}

/** From the device's generator: 120 bits of name, 384 of secret, in the longest form that AWS takes. */
async function newCredential(token: Token): Promise<GivenCredential> {
  const secret = await token.random(48)
  const RawSecretAccessKey = secret.toString('base64')
  secret.fill(0)
  return { AccessKeyId: await uniqueName(token, 24), RawSecretAccessKey }
}

async function sealGiven(call: Call, at: string, given: GivenCredential): Promise<XksCredential> {
  return sealCredential(call.service, at, given.AccessKeyId, Buffer.from(given.RawSecretAccessKey, 'latin1'), call.nowMs)
}

/** The file that AWS's console takes ("Upload configuration file"), member by member. */
const consoleFile = (at: string, { AccessKeyId, RawSecretAccessKey }: GivenCredential) => ({
  XksProxyUriPath: uriPath(at),
  XksProxyAuthenticationCredential: { AccessKeyId, RawSecretAccessKey },
})

const withoutSecret = (output: Readonly<Record<string, unknown>>): unknown => {
  const { AccessKeyId } = output['XksProxyAuthenticationCredential'] as GivenCredential
  return { xksProxyAuthenticationCredential: { accessKeyId: AccessKeyId } }
}

export const CreateXksStore = operation({
  input: {
    UriPathPrefix: prefix,
    Regions: regions,
    RequestRate: requestRate,
    XksProxyAuthenticationCredential: credential,
  },
  output: ['XksProxyUriPath', 'XksProxyAuthenticationCredential'],
  resources,
  readOnly: false,
  responseElements: withoutSecret,
  async run(call, input) {
    const { UriPathPrefix: at } = input
    const { store, token } = call.service
    const { accountId } = call.principal
    // The pattern has no opinion on how long the whole path is.
    if (!isUriPathPrefix(at)) throw kmsError('ValidationException', `${at} cannot be the prefix of a URI path.`)
    const given = input.XksProxyAuthenticationCredential ?? (await newCredential(token))
    const record: XksStoreRecord = {
      prefix: at,
      accountId,
      createdAt: call.nowMs,
      enabled: true,
      regions: [...new Set(input.Regions ?? [call.region])],
      requestRate: input.RequestRate ?? standardRate,
      policy: null,
      policyMode: 'ENFORCE',
      credentials: [await sealGiven(call, at, given)],
      version: 1,
    }
    touch(call, record)
    await orConflict(store.insertXksStore(record, maxStores), () =>
      store.view.xksStore(at)
        ? kmsError('AlreadyExistsException', `There is an XKS store ${nameOf(at)} already.`)
        : kmsError('LimitExceededException', `An account has at most ${maxStores} XKS stores.`),
    )
    return consoleFile(at, given)
  },
})

export const ListXksStores = operation({
  input: listing,
  output: ['XksStores', 'NextMarker', 'Truncated'],
  resources: (call) => [storeArn(call.principal.accountId, '*')],
  readOnly: true,
  run(call) {
    const own = call.service.store.view
      .allXksStores()
      .filter(({ accountId }) => accountId === call.principal.accountId)
      .sort((a, b) => (a.prefix < b.prefix ? -1 : 1))
    // The prefix of one is empty, which a marker could not say.
    const { items, rest } = page(call, 100, (after, limit) => pageOf(own, ({ prefix: at }) => uriPath(at), after, limit), shown)
    return { XksStores: items, ...rest }
  },
})

export const UpdateXksStore = operation({
  input: { UriPathPrefix: prefix, Regions: regions, RequestRate: requestRate },
  output: [],
  resources,
  readOnly: false,
  async run(call, input) {
    if (input.Regions === undefined && input.RequestRate === undefined)
      throw kmsError('ValidationException', 'Nothing to change: give Regions, RequestRate, or both.')
    await changeStore(call, input, () => ({
      ...(input.Regions && { regions: [...new Set(input.Regions)] }),
      ...(input.RequestRate !== undefined && { requestRate: input.RequestRate }),
    }))
    return {}
  },
})

const switched = (enabled: boolean) =>
  operation({
    input: { UriPathPrefix: prefix },
    output: [],
    resources,
    readOnly: false,
    async run(call, input) {
      await changeStore(call, input, () => ({ enabled }))
      return {}
    },
  })

/** The kill switch: from when it returns here, and within a second everywhere, every request is InvalidStateException. */
export const DisableXksStore = switched(false)
export const EnableXksStore = switched(true)

export const DeleteXksStore = operation({
  input: { UriPathPrefix: prefix },
  output: [],
  resources,
  readOnly: false,
  async run(call, input) {
    const found = getStore(call, input)
    await orConflict(call.service.store.deleteXksStore(found), () =>
      ownStore(call, found.prefix)
        ? kmsError('ConflictException', 'The XKS store is enabled. Disable it first, and see whether anybody misses it.')
        : missing(found.prefix),
    )
    return {}
  },
})

export const AddXksCredential = operation({
  input: { UriPathPrefix: prefix, XksProxyAuthenticationCredential: credential },
  output: ['XksProxyUriPath', 'XksProxyAuthenticationCredential'],
  resources,
  readOnly: false,
  responseElements: withoutSecret,
  async run(call, input) {
    const { prefix: at } = getStore(call, input)
    const given = input.XksProxyAuthenticationCredential ?? (await newCredential(call.service.token))
    const sealed = await sealGiven(call, at, given)
    await changeStore(call, input, ({ credentials }) => {
      if (credentials.some(({ accessKeyId }) => accessKeyId === sealed.accessKeyId))
        throw kmsError('AlreadyExistsException', `The XKS store has the access key id ${sealed.accessKeyId} already.`)
      if (credentials.length >= maxCredentials)
        throw kmsError(
          'LimitExceededException',
          `An XKS store has at most ${maxCredentials} credentials. Remove one that KMS does not use.`,
        )
      return { credentials: [...credentials, sealed] }
    })
    return consoleFile(at, given)
  },
})

export const RemoveXksCredential = operation({
  input: { UriPathPrefix: prefix, AccessKeyId: string({ min: 20, max: 30, pattern: /[A-Z2-7]+/ }) },
  output: [],
  resources,
  readOnly: false,
  async run(call, input) {
    await changeStore(call, input, ({ credentials }) => {
      const left = credentials.filter(({ accessKeyId }) => accessKeyId !== input.AccessKeyId)
      if (left.length === credentials.length)
        throw kmsError('NotFoundException', `The XKS store has no access key id ${input.AccessKeyId}.`)
      if (left.length === 0)
        throw kmsError('ConflictException', 'It is the last credential of the XKS store. Add another first, or disable the store.')
      return { credentials: left }
    })
    return {}
  },
})

export const PutXksPolicy = operation({
  input: {
    UriPathPrefix: prefix,
    Policy: string({ min: 1, max: maxPolicyCharacters }),
    Mode: optional(oneOf('ENFORCE', 'DRY_RUN'), 'ENFORCE'),
  },
  output: [],
  resources,
  readOnly: false,
  async run(call, input) {
    try {
      compileXksPolicy(input.Policy)
    } catch (error) {
      throw error instanceof XksPolicyError ? kmsError('MalformedPolicyDocumentException', error.message, { cause: error }) : error
    }
    await changeStore(call, input, () => ({ policy: input.Policy, policyMode: input.Mode ?? 'ENFORCE' }))
    return {}
  },
})

export const GetXksPolicy = operation({
  input: { UriPathPrefix: prefix },
  output: ['Policy', 'Mode'],
  resources,
  readOnly: true,
  run(call, input) {
    const { policy, policyMode, prefix: at } = getStore(call, input)
    if (policy === null) throw kmsError('NotFoundException', `The XKS store ${nameOf(at)} has no policy: whatever KMS asks for is allowed.`)
    return { Policy: policy, Mode: policyMode }
  },
})

export const DeleteXksPolicy = operation({
  input: { UriPathPrefix: prefix },
  output: [],
  resources,
  readOnly: false,
  async run(call, input) {
    await changeStore(call, input, () => ({ policy: null, policyMode: 'ENFORCE' }))
    return {}
  },
})

function checkFit({ arn, spec, origin, managedBy }: KeyRecord): void {
  const unfit = (why: string): KmsError => kmsError('ValidationException', `${arn} cannot be a key of an XKS store: ${why}.`)
  if (spec !== 'SYMMETRIC_DEFAULT') throw unfit(`its spec is ${spec}, not SYMMETRIC_DEFAULT`)
  if (managedBy !== null) throw unfit('it is an AWS managed key')
  if (origin === 'EXTERNAL_KEY_STORE') throw unfit('it is in an external key store itself')
}

/**
 * Through a store KMS encrypts and decrypts, so whoever shows it a key must be allowed to do both himself; and to hand that on, since the store
 * meets none of the conditions under which he may, and goes on when he may no longer.
 */
export const AddXksKey = operation({
  input: { UriPathPrefix: prefix, ExternalKeyId: externalKeyId, KeyId: keyId },
  output: ['KeyArn'],
  resources,
  keys: { key: keyFrom('KeyId', { alias: true, action: 'kms:Encrypt', usage: 'ENCRYPT_DECRYPT', verify: checkFit }) },
  readOnly: false,
  responseElements: ({ KeyArn }) => ({ keyArn: KeyArn }),
  async run(call, input, { key }) {
    for (const action of ['kms:Decrypt', 'kms:CreateGrant']) await permitKey(call, action, { record: key, alias: undefined }, {})
    const found = getStore(call, input)
    const { store } = call.service
    if (call.service.tokenOf(key).capabilities().wrapScheme?.startsWith('gcm-') !== true) {
      throw kmsError('UnsupportedOperationException', 'The token that holds this key has no AES-GCM, which external key stores need.')
    }
    const shown = { externalKeyId: input.ExternalKeyId, keyArn: key.arn, createdAt: call.nowMs }
    await orConflict(store.insertXksKey(found, shown), () =>
      ownStore(call, found.prefix)
        ? kmsError('AlreadyExistsException', `The XKS store has a key with the external key id ${input.ExternalKeyId} already.`)
        : missing(found.prefix),
    )
    return { KeyArn: key.arn }
  },
})

export const RemoveXksKey = operation({
  input: { UriPathPrefix: prefix, ExternalKeyId: externalKeyId },
  output: [],
  resources,
  readOnly: false,
  async run(call, input) {
    const found = getStore(call, input)
    await orConflict(call.service.store.deleteXksKey(found, input.ExternalKeyId), () =>
      kmsError('NotFoundException', `The XKS store has no key with the external key id ${input.ExternalKeyId}.`),
    )
    return {}
  },
})

export const ListXksKeys = operation({
  input: { UriPathPrefix: prefix, ...listing },
  output: ['XksKeys', 'NextMarker', 'Truncated'],
  resources,
  readOnly: true,
  run(call, input) {
    const { prefix: at } = getStore(call, input)
    const { view } = call.service.store
    const { items, rest } = page(
      call,
      100,
      (after, limit) => view.listXksKeys(at, after, limit),
      (shownKey) => {
        const key = view.key(shownKey.keyArn)
        return {
          ExternalKeyId: shownKey.externalKeyId,
          KeyArn: shownKey.keyArn,
          KeyState: key ? stateOf(call.service, key) : 'Deleted',
          CreateDate: seconds(shownKey.createdAt),
        }
      },
    )
    return { XksKeys: items, ...rest }
  },
})
