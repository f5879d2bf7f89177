/**
 * Custom key stores: made, shown, changed, connected, disconnected, deleted. As at AWS these operations act on no key: identity policies
 * alone allow them, for `*`. What connecting means: `kms/key-store-connections.ts`.
 */

import { randomBytes } from 'node:crypto'
import { isIP } from 'node:net'
import type { CloudHsmBacking, ExternalBacking, KeyStoreChange, KeyStoreRecord } from '../../store/store.ts'
import { XksError, type ProxySettings } from '../../xks/client.ts'
import { orConflict } from '../conflict.ts'
import { kmsError, type KmsError } from '../errors.ts'
import { sealSecret } from '../key-store-secrets.ts'
import { findKeyStore, keyStoreMissing, wrongState } from '../key-stores.ts'
import { seconds } from '../metadata.ts'
import { operation, type Call } from '../operation.ts'
import { page, pageOf } from '../page.ts'
import { oneOf, optional, string, type Input, type Shape } from '../shape.ts'
import { xksKmsError } from '../xks-failures.ts'
import { listing, xksCredential } from './members.ts'

const keyStoreId = string({ min: 1, max: 64 })
const keyStoreName = string({ min: 1, max: 256 })

/** What CreateCustomKeyStore and UpdateCustomKeyStore both take. */
const settings = {
  CloudHsmClusterId: optional(string({ min: 19, max: 24, pattern: /cluster-[2-7a-zA-Z]{11,16}/ })),
  KeyStorePassword: optional(string({ min: 7, max: 32, secret: true })),
  XksProxyUriEndpoint: optional(string({ min: 10, max: 128, pattern: '^https://[a-zA-Z0-9.-]+$' })),
  XksProxyUriPath: optional(
    string({ min: 10, max: 128, pattern: String.raw`^(/[a-zA-Z0-9\/_-]+/kms/xks/v\d{1,2})$|^(/kms/xks/v\d{1,2})$` }),
  ),
  XksProxyVpcEndpointServiceName: optional(
    string({ min: 20, max: 64, pattern: /^(com|eu)\.amazonaws\.vpce\.([a-z]+-){2,3}\d+\.vpce-svc-[0-9a-z]+$/ }),
  ),
  XksProxyVpcEndpointServiceOwner: optional(string({ min: 12, max: 12, pattern: /[0-9]{12}/ })),
  XksProxyAuthenticationCredential: optional(xksCredential),
  XksProxyConnectivity: optional(oneOf('PUBLIC_ENDPOINT', 'VPC_ENDPOINT_SERVICE')),
} as const satisfies Shape

type Settings = Input<typeof settings>

const cloudHsmMembers = ['CloudHsmClusterId', 'KeyStorePassword', 'TrustAnchorCertificate'] as const
const externalMembers = [
  'XksProxyUriEndpoint',
  'XksProxyUriPath',
  'XksProxyAuthenticationCredential',
  'XksProxyConnectivity',
  'XksProxyVpcEndpointServiceName',
  'XksProxyVpcEndpointServiceOwner',
] as const
type Member = (typeof cloudHsmMembers)[number] | (typeof externalMembers)[number]
type Given = { readonly [M in Member]?: unknown }

/** What a key store of the other type would have. */
function refuseForeign(given: Given, type: KeyStoreRecord['backing']['type']): void {
  const foreign = (type === 'AWS_CLOUDHSM' ? externalMembers : cloudHsmMembers).find((member) => given[member] !== undefined)
  if (foreign) throw kmsError('ValidationException', `${foreign} is not valid for a custom key store of type ${type}.`)
}

function given<T>(value: T | undefined, member: Member, type: string): T {
  if (value === undefined) throw kmsError('ValidationException', `${member} is required for a custom key store of type ${type}.`)
  return value
}

const here = (call: Call) => ({ accountId: call.principal.accountId, region: call.region })

export const CreateCustomKeyStore = operation({
  input: {
    ...settings,
    CustomKeyStoreName: keyStoreName,
    TrustAnchorCertificate: optional(string({ min: 1, max: 5000, secret: true })),
    CustomKeyStoreType: optional(oneOf('AWS_CLOUDHSM', 'EXTERNAL_KEY_STORE'), 'AWS_CLOUDHSM'),
  },
  output: ['CustomKeyStoreId'],
  resources: () => ['*'],
  readOnly: false,
  responseElements: ({ CustomKeyStoreId }) => ({ customKeyStoreId: CustomKeyStoreId }),
  async run(call, input) {
    const type = input.CustomKeyStoreType ?? 'AWS_CLOUDHSM'
    refuseForeign(input, type)
    const { backing, secret } = type === 'AWS_CLOUDHSM' ? cloudHsmBacking(input) : externalBacking(call, input)
    const id = `cks-${randomBytes(9).toString('hex').slice(0, 17)}`
    const draft = { ...here(call), id, name: input.CustomKeyStoreName, backing }
    checkUnique(call, draft)
    if (backing.type === 'AWS_CLOUDHSM') checkClusterKnown(call, backing.clusterId)
    // Of a VPC endpoint service AWS tests the connection when it is made.
    else if (backing.connectivity === 'PUBLIC_ENDPOINT') await testProxy(call, backing, secret)
    const keyStore: KeyStoreRecord = {
      ...draft,
      createdAt: call.nowMs,
      state: 'DISCONNECTED',
      errorCode: null,
      connection: null,
      holder: null,
      sealedSecret: await sealSecret(call.service, id, secret),
      version: 1,
    }
    await orNotUnique(call, draft, call.service.store.insertKeyStore(keyStore, call.service.config.quotas.customKeyStores))
    return { CustomKeyStoreId: id }
  },
})

interface Chosen<B> {
  readonly backing: B
  readonly secret: string
}

function cloudHsmBacking(input: Settings & { readonly TrustAnchorCertificate?: string }): Chosen<CloudHsmBacking> {
  const type = 'AWS_CLOUDHSM'
  return {
    secret: given(input.KeyStorePassword, 'KeyStorePassword', type),
    backing: {
      type,
      clusterId: given(input.CloudHsmClusterId, 'CloudHsmClusterId', type),
      trustAnchor: given(input.TrustAnchorCertificate, 'TrustAnchorCertificate', type),
      passwordRefused: false,
    },
  }
}

function externalBacking(call: Call, input: Settings): Chosen<ExternalBacking> {
  const type = 'EXTERNAL_KEY_STORE'
  const credential = given(input.XksProxyAuthenticationCredential, 'XksProxyAuthenticationCredential', type)
  const backing: ExternalBacking = {
    type,
    connectivity: given(input.XksProxyConnectivity, 'XksProxyConnectivity', type),
    uriEndpoint: given(input.XksProxyUriEndpoint, 'XksProxyUriEndpoint', type),
    uriPath: given(input.XksProxyUriPath, 'XksProxyUriPath', type),
    accessKeyId: credential.AccessKeyId,
    vpcEndpointServiceName: input.XksProxyVpcEndpointServiceName ?? null,
    vpcEndpointServiceOwner: input.XksProxyVpcEndpointServiceOwner ?? ownerByDefault(call, input.XksProxyConnectivity),
  }
  checkProxy(backing)
  return { backing, secret: credential.RawSecretAccessKey }
}

/** Of a VPC endpoint service nobody else's is said to be (KMS API reference: "the account ID calling the action will be used"). */
const ownerByDefault = ({ principal }: Call, connectivity: ExternalBacking['connectivity'] | undefined): string | null =>
  connectivity === 'VPC_ENDPOINT_SERVICE' ? principal.accountId : null

function checkProxy({ connectivity, uriEndpoint, uriPath, vpcEndpointServiceName, vpcEndpointServiceOwner }: ExternalBacking): void {
  const viaVpc = connectivity === 'VPC_ENDPOINT_SERVICE'
  if (viaVpc && vpcEndpointServiceName === null) {
    throw kmsError('ValidationException', 'XksProxyVpcEndpointServiceName is required when XksProxyConnectivity is VPC_ENDPOINT_SERVICE.')
  }
  if (!viaVpc && (vpcEndpointServiceName !== null || vpcEndpointServiceOwner !== null)) {
    const member = vpcEndpointServiceName === null ? 'XksProxyVpcEndpointServiceOwner' : 'XksProxyVpcEndpointServiceName'
    throw kmsError('ValidationException', `${member} is valid only when XksProxyConnectivity is VPC_ENDPOINT_SERVICE.`)
  }
  if (!uriPath.endsWith('/kms/xks/v1')) {
    throw kmsError(
      'XksProxyInvalidConfigurationException',
      'The XksProxyUriPath must end with /kms/xks/v1: this is the version that is supported.',
    )
  }
  // The specification wants a name that a certificate can be for.
  const host = uriEndpoint.slice('https://'.length)
  if (isIP(host) !== 0 || !URL.canParse(uriEndpoint) || new URL(uriEndpoint).hostname !== host.toLowerCase()) {
    throw kmsError('XksProxyInvalidConfigurationException', 'The XksProxyUriEndpoint must be https:// and a DNS name.')
  }
}

function checkClusterKnown(call: Call, clusterId: string): void {
  if (!call.service.keyStores.keyStoreTokens.has(clusterId)) {
    throw kmsError('CloudHsmClusterNotFoundException', `The CloudHSM cluster with ID ${clusterId} was not found.`)
  }
}

type Unique = Pick<KeyStoreRecord, 'id' | 'accountId' | 'region' | 'name' | 'backing'>

/** AWS's rules on what no two key stores have in common, in its order of scopes: account and region, account, region. */
function checkUnique(call: Call, wanted: Unique): void {
  const others = call.service.store.view.allKeyStores().filter(({ id }) => id !== wanted.id)
  const own = others.filter(({ accountId, region }) => accountId === wanted.accountId && region === wanted.region)
  if (own.some(({ name }) => name === wanted.name)) {
    throw kmsError('CustomKeyStoreNameInUseException', `The custom key store name ${wanted.name} is already in use.`)
  }
  const isNew = call.service.store.view.keyStore(wanted.id) === undefined
  const { customKeyStores: most } = call.service.config.quotas
  if (isNew && own.length >= most) {
    throw kmsError('LimitExceededException', `The account has ${most} custom key stores in ${wanted.region}, which is its quota.`)
  }
  for (const other of others) {
    if (wanted.backing.type === 'AWS_CLOUDHSM') {
      const { backing, accountId } = other
      if (backing.type === 'AWS_CLOUDHSM' && accountId === wanted.accountId && backing.clusterId === wanted.backing.clusterId) {
        throw kmsError(
          'CloudHsmClusterInUseException',
          `The CloudHSM cluster ${backing.clusterId} is already associated with a custom key store.`,
        )
      }
    } else if (other.backing.type === 'EXTERNAL_KEY_STORE' && other.region === wanted.region)
      checkProxyUnique(wanted.backing, other.backing)
  }
}

function checkProxyUnique(wanted: ExternalBacking, other: ExternalBacking): void {
  const inUse = (
    code: 'XksProxyUriInUseException' | 'XksProxyUriEndpointInUseException' | 'XksProxyVpcEndpointServiceInUseException',
    what: string,
  ) => kmsError(code, `${what} is already associated with another external key store in this Region.`)
  const endpoint = wanted.uriEndpoint.toLowerCase()
  if (endpoint === other.uriEndpoint.toLowerCase()) {
    // Key stores with a public endpoint may share it, each with its path; a private DNS name is of one key store.
    if (wanted.connectivity !== 'PUBLIC_ENDPOINT' || other.connectivity !== 'PUBLIC_ENDPOINT') {
      throw inUse('XksProxyUriEndpointInUseException', `The XksProxyUriEndpoint ${wanted.uriEndpoint}`)
    }
    if (wanted.uriPath === other.uriPath) throw inUse('XksProxyUriInUseException', `The proxy URI ${wanted.uriEndpoint}${wanted.uriPath}`)
  }
  if (wanted.vpcEndpointServiceName !== null && wanted.vpcEndpointServiceName === other.vpcEndpointServiceName) {
    throw inUse('XksProxyVpcEndpointServiceInUseException', `The VPC endpoint service ${wanted.vpcEndpointServiceName}`)
  }
}

/** A write that lost a race says why in the same words as the check before it. */
const orNotUnique = <T>(call: Call, wanted: Unique, write: Promise<T>): Promise<T> => orConflict(write, () => checkUnique(call, wanted))

async function testProxy(call: Call, backing: ExternalBacking, secret: string): Promise<void> {
  const proxy: ProxySettings = {
    endpoint: backing.uriEndpoint,
    path: backing.uriPath,
    region: call.region,
    accessKeyId: backing.accessKeyId,
    secretAccessKey: secret,
  }
  try {
    await call.service.keyStores.xks.health(proxy, { kmsRequestId: call.facts.requestId, kmsOperation: call.operation.name })
  } catch (error) {
    if (!(error instanceof XksError)) throw error
    call.service.log.warn(
      { requestId: call.facts.requestId, failure: error.failure, detail: error.message },
      'an XKS proxy did not pass its test',
    )
    throw xksKmsError(error, 'manage')
  }
}

export const DescribeCustomKeyStores = operation({
  input: {
    CustomKeyStoreId: optional(keyStoreId),
    CustomKeyStoreName: optional(keyStoreName),
    ...listing,
  },
  output: ['CustomKeyStores', 'NextMarker', 'Truncated'],
  resources: () => ['*'],
  readOnly: true,
  run(call, input) {
    const { CustomKeyStoreId: id, CustomKeyStoreName: name } = input
    if (id !== undefined && name !== undefined) {
      throw kmsError('ValidationException', 'You can specify a CustomKeyStoreId or a CustomKeyStoreName, but not both.')
    }
    const all = call.service.store.view
      .allKeyStores()
      .filter(({ accountId, region }) => accountId === call.principal.accountId && region === call.region)
      .filter((keyStore) => (id === undefined || keyStore.id === id) && (name === undefined || keyStore.name === name))
      .toSorted((a, b) => (a.id < b.id ? -1 : 1))
    if (all.length === 0 && id !== undefined) throw keyStoreMissing(id)
    if (all.length === 0 && name !== undefined) {
      throw kmsError('CustomKeyStoreNotFoundException', `The custom key store with name ${name} was not found.`)
    }
    const { items, rest } = page(call, 1000, (after, limit) => pageOf(all, (keyStore) => keyStore.id, after, limit), listEntry)
    return { CustomKeyStores: items, ...rest }
  },
})

function listEntry({ id, name, state, errorCode, createdAt, backing }: KeyStoreRecord): Readonly<Record<string, unknown>> {
  return {
    CustomKeyStoreId: id,
    CustomKeyStoreName: name,
    ...(backing.type === 'AWS_CLOUDHSM' && { CloudHsmClusterId: backing.clusterId, TrustAnchorCertificate: backing.trustAnchor }),
    ConnectionState: state,
    ...(state === 'FAILED' && { ConnectionErrorCode: errorCode ?? 'INTERNAL_ERROR' }),
    CreationDate: seconds(createdAt),
    CustomKeyStoreType: backing.type,
    ...(backing.type === 'EXTERNAL_KEY_STORE' && {
      XksProxyConfiguration: {
        Connectivity: backing.connectivity,
        AccessKeyId: backing.accessKeyId,
        UriEndpoint: backing.uriEndpoint,
        UriPath: backing.uriPath,
        ...(backing.vpcEndpointServiceName !== null && { VpcEndpointServiceName: backing.vpcEndpointServiceName }),
        ...(backing.vpcEndpointServiceOwner !== null && { VpcEndpointServiceOwner: backing.vpcEndpointServiceOwner }),
      },
    }),
  }
}

/** What may be changed while it is connected; everything else only while it is not. */
const changeableConnected: ReadonlySet<string> = new Set([
  'CustomKeyStoreId',
  'NewCustomKeyStoreName',
  'XksProxyAuthenticationCredential',
  'XksProxyUriPath',
])

export const UpdateCustomKeyStore = operation({
  input: { ...settings, CustomKeyStoreId: keyStoreId, NewCustomKeyStoreName: optional(keyStoreName) },
  output: [],
  resources: () => ['*'],
  readOnly: false,
  async run(call, input) {
    const keyStore = findKeyStore(call.service, here(call), input.CustomKeyStoreId)
    const members = Object.keys(input)
    if (members.length === 1) throw kmsError('ValidationException', 'You must specify at least one property to update.')
    refuseForeign(input, keyStore.backing.type)
    checkChangeable(keyStore, members)
    const name = input.NewCustomKeyStoreName ?? keyStore.name
    const backing = changedBacking(call, keyStore.backing, input)
    checkUnique(call, { ...keyStore, name, backing })
    if (backing.type === 'AWS_CLOUDHSM') {
      // Whether it is related, as AWS calls it, shows when it is connected: it must have the objects of the keys.
      if (input.CloudHsmClusterId !== undefined) checkClusterKnown(call, input.CloudHsmClusterId)
    } else if (backing !== keyStore.backing && (backing.connectivity === 'PUBLIC_ENDPOINT' || keyStore.state === 'CONNECTED')) {
      const secret = input.XksProxyAuthenticationCredential?.RawSecretAccessKey
      await testProxy(call, backing, secret ?? (await call.service.keyStores.proxyOf(keyStore)).secretAccessKey)
    }
    const secret = input.KeyStorePassword ?? input.XksProxyAuthenticationCredential?.RawSecretAccessKey
    const sealed = secret === undefined ? undefined : await sealSecret(call.service, keyStore.id, secret)
    const update = call.service.store.updateKeyStore(keyStore.id, (current): KeyStoreChange => {
      // What was tested above is what is written, or nothing is.
      if (current.backing !== keyStore.backing)
        throw kmsError('CustomKeyStoreInvalidStateException', 'The custom key store is being changed by another request.')
      checkChangeable(current, members)
      checkUnique(call, { ...current, name, backing })
      return { name, backing, ...(sealed && { sealedSecret: sealed }) }
    })
    await orGone(keyStore.id, orNotUnique(call, { ...keyStore, name, backing }, update))
    return {}
  },
})

function checkChangeable({ state }: KeyStoreRecord, members: readonly string[]): void {
  if (state === 'DISCONNECTED') return
  if (state === 'CONNECTED' && members.every((member) => changeableConnected.has(member))) return
  throw wrongState(state, 'be updated')
}

function changedBacking(call: Call, backing: KeyStoreRecord['backing'], input: Settings): KeyStoreRecord['backing'] {
  if (backing.type === 'AWS_CLOUDHSM') {
    if (input.KeyStorePassword === undefined && input.CloudHsmClusterId === undefined) return backing
    return {
      ...backing,
      clusterId: input.CloudHsmClusterId ?? backing.clusterId,
      // Nothing but a password makes a refused one another.
      passwordRefused: backing.passwordRefused && input.KeyStorePassword === undefined,
    }
  }
  if (!externalMembers.some((member) => input[member] !== undefined)) return backing
  const connectivity = input.XksProxyConnectivity ?? backing.connectivity
  const viaVpc = connectivity === 'VPC_ENDPOINT_SERVICE'
  if (connectivity !== backing.connectivity && input.XksProxyUriEndpoint === undefined) {
    throw kmsError('ValidationException', 'XksProxyUriEndpoint is required when XksProxyConnectivity changes.')
  }
  const changed: ExternalBacking = {
    ...backing,
    connectivity,
    uriEndpoint: input.XksProxyUriEndpoint ?? backing.uriEndpoint,
    uriPath: input.XksProxyUriPath ?? backing.uriPath,
    accessKeyId: input.XksProxyAuthenticationCredential?.AccessKeyId ?? backing.accessKeyId,
    // The public endpoint that follows a VPC endpoint service has none.
    vpcEndpointServiceName: input.XksProxyVpcEndpointServiceName ?? (viaVpc ? backing.vpcEndpointServiceName : null),
    vpcEndpointServiceOwner:
      input.XksProxyVpcEndpointServiceOwner ?? (viaVpc ? (backing.vpcEndpointServiceOwner ?? ownerByDefault(call, connectivity)) : null),
  }
  checkProxy(changed)
  return changed
}

const orGone = <T>(id: string, write: Promise<T>): Promise<T> => orConflict(write, () => keyStoreMissing(id))

export const ConnectCustomKeyStore = operation({
  input: { CustomKeyStoreId: keyStoreId },
  output: [],
  resources: () => ['*'],
  readOnly: false,
  async run(call, input) {
    const { id } = findKeyStore(call.service, here(call), input.CustomKeyStoreId)
    await orGone(id, call.service.keyStores.connect(id, call.facts.requestId))
    return {}
  },
})

export const DisconnectCustomKeyStore = operation({
  input: { CustomKeyStoreId: keyStoreId },
  output: [],
  resources: () => ['*'],
  readOnly: false,
  async run(call, input) {
    const { id } = findKeyStore(call.service, here(call), input.CustomKeyStoreId)
    await orGone(id, call.service.keyStores.disconnect(id))
    return {}
  },
})

const hasKeys = (): KmsError =>
  kmsError('CustomKeyStoreHasCMKsException', 'The custom key store contains KMS keys. Delete them before you delete the custom key store.')

export const DeleteCustomKeyStore = operation({
  input: { CustomKeyStoreId: keyStoreId },
  output: [],
  resources: () => ['*'],
  readOnly: false,
  async run(call, input) {
    const { store } = call.service
    const { id } = findKeyStore(call.service, here(call), input.CustomKeyStoreId)
    const check = (): void => {
      const { state } = findKeyStore(call.service, here(call), id)
      if (state !== 'DISCONNECTED') throw wrongState(state, 'be deleted')
      if (store.view.keysIn(id, 1).length > 0) throw hasKeys()
    }
    check()
    // Somebody may have connected it, put a key into it, or deleted it, just now.
    await orConflict(store.deleteKeyStore(id), check)
    return {}
  },
})
