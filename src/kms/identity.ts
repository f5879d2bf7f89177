/**
 * Who is calling: access keys, sessions and principals. Secrets are stored encrypted under the service key in the HSM and are opened only to
 * derive a signing key, which is kept for its day and scope; the secret itself is wiped.
 *
 * A session token is the session itself, sealed under the service key: any instance can open it and nothing about it is stored.
 */

import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { compilePolicy, type CompiledPolicy } from '../auth/policy.ts'
import type { Principal } from '../auth/principal.ts'
import {
  readAuthorization,
  SigningKeyCache,
  verifySignature,
  type ReceivedSignature,
  type SignatureExpectation,
  type SignedRequest,
} from '../auth/sigv4.ts'
import { OperatorError } from '../base/operator-error.ts'
import { maxPlaintextBytes } from '../hsm/wrap.ts'
import { StoreConflict, type AccessKeyRecord, type PrincipalRecord } from '../store/store.ts'
import { sessionPolicy } from './access.ts'
import { rootArn } from './arn.ts'
import { kmsError, type KmsError } from './errors.ts'
import { deadInstances } from './lifecycle.ts'
import type { Authenticated } from './operation.ts'
import { seal, unseal } from './seal.ts'
import type { Service } from './service.ts'

export interface Credential {
  readonly accessKeyId: string
  readonly secretAccessKey: string
}

/** What a session token holds. Times in ms since the epoch. */
export interface SessionClaims {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly roleArn: string
  readonly roleId: string
  readonly sessionName: string
  readonly issuedAt: number
  readonly expiresAt: number
  readonly policy?: string
  readonly tags: Readonly<Record<string, string>>
}

export interface Identities {
  /**
   * Verifies the signature and answers who made it.
   * @throws SignatureError, or KmsError with AWS's code for an unknown, inactive or expired credential.
   */
  authenticate(request: SignedRequest, signingService: string): Promise<Authenticated> | Authenticated
  /**
   * A new access key for a user or an account's root: made, handed to `publish`, then stored.
   * @throws StoreConflict when the owner has `most` of them already, or is not the user with the unique id `ownerId` any more.
   */
  createAccessKey(
    owner: { readonly accountId: string; readonly principalArn: string; readonly most?: number; readonly ownerId?: string },
    publish?: (credential: Credential) => Promise<void>,
  ): Promise<Credential>
  /** Temporary credentials for an assumed role. */
  issueSession(claims: Omit<SessionClaims, 'accessKeyId' | 'secretAccessKey'>): Promise<Credential & { readonly sessionToken: string }>
}

interface Session extends Omit<SessionClaims, 'secretAccessKey'> {
  readonly principal: Principal
  readonly role: PrincipalRecord
}

/** Sessions opened lately; a token that fell out is opened again by the HSM. */
const rememberedSessions = 4096

/** Tokens that the HSM has refused; it would refuse them for ever, so a device is not asked about one of these twice. */
const rememberedRefusals = 4096

/** Base64 of at least a scheme's byte and a tag; how long the longest is follows from what a session can hold. */
const tokenForm = /^[A-Za-z0-9+/]{40,}={0,2}$/
const maxTokenCharacters = 2 * maxPlaintextBytes

/** Whoever reaches the port can send a token that only the HSM can tell from a genuine one: no more than this many wait for it at once. */
const maxTokensOpening = 32

const invalidToken = (): KmsError => kmsError('UnrecognizedClientException', 'The security token included in the request is invalid.')
const expiredToken = (): KmsError => kmsError('ExpiredTokenException', 'The security token included in the request is expired')

export function openIdentities(service: () => Service): Identities {
  const signingKeys = new SigningKeyCache()
  const principals = new WeakMap<AccessKeyRecord, { readonly record: PrincipalRecord | undefined; readonly principal: Principal }>()
  const sessions = new Map<string, Session>()
  const expectations = new Map<string, SignatureExpectation>()

  /** What a signature for this service must be scoped to; made once for each of the few. */
  const expectation = (signingService: string): SignatureExpectation => {
    let expected = expectations.get(signingService)
    if (!expected) {
      expected = { services: new Set([signingService]), regions: new Set(service().config.regions) }
      expectations.set(signingService, expected)
    }
    return expected
  }

  const principalOf = (key: AccessKeyRecord): Principal => {
    const record = service().store.view.principal(key.principalArn)
    const known = principals.get(key)
    if (known && known.record === record) return known.principal
    const isRoot = key.principalArn === rootArn(key.accountId)
    if (!record && !isRoot) throw invalidToken()
    const principal: Principal = record
      ? {
          type: 'IAMUser',
          arn: record.arn,
          accountId: record.accountId,
          principalId: record.uniqueId,
          accessKeyId: key.accessKeyId,
          userName: record.name,
          tags: new Map(record.tags.map((tag) => [tag.key, tag.value])),
          identityPolicies: identityPolicies(record),
        }
      : {
          type: 'Root',
          arn: key.principalArn,
          accountId: key.accountId,
          principalId: key.accountId,
          accessKeyId: key.accessKeyId,
          tags: new Map(),
          identityPolicies: [],
        }
    principals.set(key, { record, principal })
    return principal
  }

  const refused = new Set<string>()
  /** By the token's hash: callers that come together with one token wait for one answer. */
  const opening = new Map<string, Promise<SessionClaims | undefined>>()
  const startOpening = async (token: string, name: string): Promise<SessionClaims | undefined> => {
    try {
      const claims = await openSessionToken(service(), token)
      if (!claims) {
        refused.add(name)
        const [oldest] = refused
        if (oldest !== undefined && refused.size > rememberedRefusals) refused.delete(oldest)
      }
      return claims
    } finally {
      opening.delete(name)
    }
  }
  const openToken = async (token: string, name: string): Promise<SessionClaims | undefined> => {
    if (refused.has(name) || token.length > maxTokenCharacters || !tokenForm.test(token)) return undefined
    const underWay = opening.get(name)
    if (underWay) return underWay
    if (opening.size >= maxTokensOpening) throw kmsError('ThrottlingException', 'Rate exceeded')
    const opened = startOpening(token, name)
    opening.set(name, opened)
    return opened
  }

  const openSession = async (
    received: ReceivedSignature & { readonly sessionToken: string },
  ): Promise<{ session: Session; secret: string | undefined }> => {
    const name = nameOfToken(received.sessionToken)
    const known = sessions.get(name)
    const role = known && service().store.view.principal(known.roleArn)
    // A changed role (its policies, its tags) makes the principal anew from the same claims, so only the same record serves.
    if (known && role === known.role) return { session: known, secret: undefined }
    const claims = await openToken(received.sessionToken, name)
    const current = claims && service().store.view.principal(claims.roleArn)
    // The same name for a role made anew is another role; AWS ends the sessions of a deleted one.
    if (current?.kind !== 'role' || current.uniqueId !== claims?.roleId) throw invalidToken()
    const { secretAccessKey, ...rest } = claims
    const session: Session = { ...rest, role: current, principal: sessionPrincipal(rest, current) }
    sessions.delete(name)
    sessions.set(name, session)
    const oldest = sessions.size > rememberedSessions ? sessions.keys().next().value : undefined
    if (oldest !== undefined) sessions.delete(oldest)
    return { session, secret: secretAccessKey }
  }

  const finish = (request: SignedRequest, received: ReceivedSignature, signingKey: Buffer, principal: Principal): Authenticated => {
    verifySignature(request, received, signingKey)
    return { principal, region: received.region }
  }

  const authenticateSession = async (
    request: SignedRequest,
    received: ReceivedSignature & { readonly sessionToken: string },
  ): Promise<Authenticated> => {
    const { session, secret } = await openSession(received)
    if (session.accessKeyId !== received.accessKeyId) throw invalidToken()
    if (session.expiresAt <= service().clock.now()) throw expiredToken()
    let signingKey = signingKeys.find(received)
    if (!signingKey) {
      const text = secret ?? (await openToken(received.sessionToken, nameOfToken(received.sessionToken)))?.secretAccessKey
      if (text === undefined) throw invalidToken()
      signingKey = signingKeys.get(received, () => text)
    }
    return finish(request, received, signingKey, session.principal)
  }

  return {
    authenticate(request, signingService) {
      const received = readAuthorization(request, service().clock.now(), expectation(signingService))
      const { sessionToken } = received
      if (sessionToken !== undefined) return authenticateSession(request, { ...received, sessionToken })
      const key = service().store.view.accessKey(received.accessKeyId)
      if (!key?.active) throw invalidToken()
      const principal = principalOf(key)
      const signingKey = signingKeys.find(received)
      if (signingKey) return finish(request, received, signingKey, principal)
      return openSecret(service(), key).then((secret) =>
        finish(
          request,
          received,
          signingKeys.get(received, () => secret),
          principal,
        ),
      )
    },

    createAccessKey: (owner, publish) => makeAccessKey(service(), owner, publish),

    async issueSession(claims) {
      const credential = await newCredential(service(), 'ASIA')
      const plain = Buffer.from(JSON.stringify({ ...claims, ...credential } satisfies SessionClaims))
      if (plain.length > maxPlaintextBytes) {
        plain.fill(0)
        throw kmsError('PackedPolicyTooLarge', 'The session policy and the session tags are together longer than a session token can hold.')
      }
      const sealed = await seal(service(), plain, 'session')
      return { ...credential, sessionToken: sealed.toString('base64') }
    },
  }
}

/** See `Identities.createAccessKey`. */
export async function makeAccessKey(
  rooms: Pick<Service, 'token' | 'serviceKey' | 'store' | 'clock'>,
  { accountId, principalArn, most, ownerId }: Parameters<Identities['createAccessKey']>[0],
  publish?: (credential: Credential) => Promise<void>,
): Promise<Credential> {
  const credential = await newCredential(rooms, 'AKIA')
  const { accessKeyId, secretAccessKey } = credential
  const sealedSecret = await seal(rooms, Buffer.from(secretAccessKey, 'latin1'), `access-key/${accessKeyId}`)
  await publish?.(credential)
  await rooms.store.insertAccessKey(
    { accessKeyId, accountId, principalArn, sealedSecret, active: true, createdAt: rooms.clock.now() },
    most,
    ownerId,
  )
  return credential
}

async function openSecret(rooms: Pick<Service, 'token' | 'serviceKey'>, { accessKeyId, sealedSecret }: AccessKeyRecord): Promise<string> {
  const secret = await unseal(rooms, sealedSecret, `access-key/${accessKeyId}`)
  if (!secret) throw new Error(`the stored secret of ${accessKeyId} does not open under the service key`)
  const text = secret.toString('latin1')
  secret.fill(0)
  return text
}

const nameOfToken = (token: string): string => createHash('sha256').update(token).digest('base64')

async function openSessionToken(service: Service, token: string): Promise<SessionClaims | undefined> {
  const sealed = Buffer.from(token, 'base64')
  const plain = await unseal(service, sealed, 'session')
  if (!plain) return undefined
  try {
    return JSON.parse(plain.toString()) as SessionClaims
  } finally {
    plain.fill(0)
  }
}

function sessionPrincipal(claims: Omit<SessionClaims, 'secretAccessKey'>, role: PrincipalRecord): Principal {
  return {
    type: 'AssumedRole',
    arn: `arn:aws:sts::${role.accountId}:assumed-role/${role.name}/${claims.sessionName}`,
    accountId: role.accountId,
    principalId: `${role.uniqueId}:${claims.sessionName}`,
    accessKeyId: claims.accessKeyId,
    session: {
      roleArn: role.arn,
      roleId: role.uniqueId,
      roleName: role.name,
      sessionName: claims.sessionName,
      issuedAt: claims.issuedAt,
      expiresAt: claims.expiresAt,
    },
    tags: sessionTags(claims.tags, role),
    identityPolicies: identityPolicies(role),
    ...(claims.policy !== undefined && { sessionPolicies: [sessionPolicy(claims.policy)] }),
  }
}

/** A session tag overrides the role's of that name, whatever its case: policies ask without it. */
function sessionTags(given: SessionClaims['tags'], role: PrincipalRecord): ReadonlyMap<string, string> {
  const overridden = new Set(Object.keys(given).map((key) => key.toLowerCase()))
  const inherited = role.tags.filter(({ key }) => !overridden.has(key.toLowerCase()))
  return new Map([...Object.entries(given), ...inherited.map(({ key, value }) => [key, value] as const)])
}

const compiled = new WeakMap<PrincipalRecord, readonly CompiledPolicy[]>()

function identityPolicies(record: PrincipalRecord): readonly CompiledPolicy[] {
  let policies = compiled.get(record)
  if (!policies) {
    policies = Object.values(record.policies).map((text) => compilePolicy(text, 'identity'))
    compiled.set(record, policies)
  }
  return policies
}

/** AWS's form: 20 characters with a four-letter prefix, and 40 of base64. From the device's generator. */
async function newCredential({ token }: Pick<Service, 'token'>, prefix: 'AKIA' | 'ASIA'): Promise<Credential> {
  const accessKeyId = prefix + (await uniqueName(token, 16))
  const secret = await token.random(30)
  const secretAccessKey = secret.toString('base64')
  secret.fill(0)
  return { accessKeyId, secretAccessKey }
}

const base32 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'

/** `length` random letters and digits, as AWS's unique ids have them. */
export async function uniqueName(token: Service['token'], length: number): Promise<string> {
  return [...(await token.random(length))].map((byte) => base32.charAt(byte % 32)).join('')
}

/** The configuration names an account that this data directory does not have, while it has others: a slip, not a first start. */
class OtherAccount extends OperatorError {
  constructor(wanted: string, present: string) {
    super(
      `HOLDFAST_ACCOUNT_ID is ${wanted}, but this data directory was made for account ${present}. ` +
        'Set it back, or make a further account with "holdfast account create".',
    )
  }
}

/**
 * The account of the configuration, with an access key of its root, made once. The key is published (written to the credentials
 * file) before it is stored, and the account is stored last: a stop anywhere leads to the same end at the next start. Of several
 * processes that start together one does it, and the others wait: the file can hold only one key.
 */
export async function bootstrapAccount(service: Service, publish: (credential: Credential) => Promise<void>): Promise<boolean> {
  const { store, instance } = service
  const { accountId } = service.config
  const claim = `bootstrap/${accountId}`
  const [other] = store.view.account(accountId) ? [] : store.view.listAccounts(undefined, 1).items
  if (other) throw new OtherAccount(accountId, other.accountId)
  for (;;) {
    if (store.view.account(accountId)) return false
    const holder = store.view.setting(claim)
    const isFree = holder === undefined || holder === instance.id || (await deadInstances(service)).isDead(holder)
    if (isFree && (await store.compareAndSetSetting(claim, holder, instance.id))) break
    await sleep(100)
  }
  // The claim brought the view up to date: another may have finished and ended meanwhile.
  if (store.view.account(accountId)) return false
  for (const leftover of store.view.accessKeysOf(rootArn(accountId))) await store.deleteAccessKey(leftover.accessKeyId)
  await service.identities.createAccessKey({ accountId, principalArn: rootArn(accountId) }, publish)
  await store.insertAccount({ accountId, createdAt: service.clock.now() })
  return true
}

export interface MadeAccount {
  readonly credential: Credential
  readonly createdAt: number
}

/** As long a request for an account may be made again. */
const repeatableMs = 24 * 3_600_000

/**
 * A further account with an access key of its root; undefined when it exists. The key comes first, so that no stop leaves an account that
 * nobody can enter; the row of the account decides between two callers, and the winner removes what others left.
 *
 * @param hash of the request: who makes the same one again, because the answer was lost, is answered the same for a day, unless that access key was
 *   deleted or switched off since
 */
export async function createAccount(
  service: Service,
  accountId: string,
  createdAt: number,
  hash?: string,
): Promise<MadeAccount | undefined> {
  const { store, identities } = service
  if (store.view.account(accountId)) return madeBefore(service, accountId, createdAt, hash)
  const credential = await identities.createAccessKey({ accountId, principalArn: rootArn(accountId) })
  const { accessKeyId } = credential
  const remove = async (id: string): Promise<void> => {
    try {
      await store.deleteAccessKey(id)
    } catch (error) {
      // The other caller was quicker.
      if (!(error instanceof StoreConflict)) throw error
    }
  }
  // Of callers that were stopped before the account was there. What is made afterwards is its root's.
  const others = store.view.accessKeysOf(rootArn(accountId)).filter((key) => key.accessKeyId !== accessKeyId)
  try {
    await store.insertAccount({ accountId, createdAt, ...(hash !== undefined && { request: { hash, accessKeyId } }) })
  } catch (error) {
    // Whether it was written may be unknown: of an account that is there this may be the only key.
    await store.refresh()
    if (error instanceof StoreConflict || !store.view.account(accountId)) await remove(accessKeyId)
    if (!(error instanceof StoreConflict)) throw error
    return madeBefore(service, accountId, createdAt, hash)
  }
  for (const other of others) await remove(other.accessKeyId)
  return { credential, createdAt }
}

async function madeBefore(service: Service, accountId: string, nowMs: number, hash: string | undefined): Promise<MadeAccount | undefined> {
  const { view } = service.store
  const { request, createdAt = 0 } = view.account(accountId) ?? {}
  if (!request || request.hash !== hash || nowMs - createdAt > repeatableMs) return undefined
  const key = view.accessKey(request.accessKeyId)
  if (!key?.active) return undefined
  return { credential: { accessKeyId: key.accessKeyId, secretAccessKey: await openSecret(service, key) }, createdAt }
}
