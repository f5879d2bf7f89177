/**
 * How a custom key store comes to be connected, and disconnected again: a state machine that may be stopped anywhere.
 *
 * `CONNECTING` with its holder is durable before anything is tried, and only that holder, of that connection, may end it. One whose holder died
 * is FAILED, never tried again by itself: nobody knows whether the token refused the password. A password that the token refused is
 * marked in the record and not tried again, by any process, until it is changed.
 */

import { randomUUID } from 'node:crypto'
import { TokenError, type Token } from '../hsm/token.ts'
import type { KeyStoreChange, KeyStoreRecord } from '../store/store.ts'
import { XksError, type ProxySettings, type XksClient } from '../xks/client.ts'
import type { RequestMetadata } from '../xks/protocol.ts'
import type { KeyStoreLogins, TokenOpeners } from './key-store-logins.ts'
import { wrongState } from './key-stores.ts'
import { isShown, shownObjects } from './material.ts'
import type { Service } from './service.ts'
import { connectionErrorCode } from './xks-failures.ts'

export interface KeyStoreConnections {
  /** Begins to connect; resolves when that is durable. @throws KmsError in a state from which it cannot be. */
  connect(keyStoreId: string, requestId: string): Promise<void>
  /** Resolves when nothing of it is in use any more. @throws KmsError in a state from which it cannot be. */
  disconnect(keyStoreId: string): Promise<void>
  /** Logs in to a connected key store, and notes when its token refuses the password. @throws TokenError */
  login(keyStore: KeyStoreRecord): Promise<void>
  /** Ends what a dead process was at, and follows what became of the key stores that this one has logged in to, or should. */
  follow(isDead: (instance: string) => boolean): Promise<void>
  /** Resolves when nothing is under way. */
  close(): Promise<void>
}

interface Rooms {
  readonly openers: TokenOpeners
  readonly xks: Pick<XksClient, 'health'>
  readonly proxyOf: (keyStore: KeyStoreRecord) => Promise<ProxySettings>
  readonly logins: KeyStoreLogins
}

export function openKeyStoreConnections(service: () => Service, rooms: Rooms): KeyStoreConnections {
  const { logins } = rooms
  const changing = new Changing()
  const background = new Background(service)
  const login = (keyStore: KeyStoreRecord): Promise<void> => logIn(service(), logins, keyStore)

  return {
    login,
    connect: (keyStoreId, requestId) =>
      changing.during(keyStoreId, async () => {
        const keyStore = await beginConnecting(service(), keyStoreId)
        if (!keyStore) return
        const finished = changing.during(keyStoreId, () => finishConnecting(service(), rooms, keyStore, requestId))
        background.add('connecting a custom key store', keyStoreId, finished)
      }),
    disconnect: (keyStoreId) =>
      changing.during(keyStoreId, async () => {
        const keyStore = await beginDisconnecting(service(), keyStoreId)
        if (keyStore.state === 'DISCONNECTED') return
        await logins.close(keyStoreId)
        await end(service(), keyStore, 'DISCONNECTING', disconnected).catch(ignoreSuperseded)
      }),
    async follow(isDead) {
      const { store, instance } = service()
      /** Left by a process that is no more, or by this one when the store failed it. */
      const isLeft = ({ id, holder }: KeyStoreRecord): boolean =>
        holder !== null && (isDead(holder) || (holder === instance.id && !changing.has(id)))
      for (const keyStore of store.view.allKeyStores()) {
        if (isLeft(keyStore)) await endLeft(service(), keyStore)
        else if (keyStore.state === 'CONNECTED' && keyStore.backing.type === 'AWS_CLOUDHSM') {
          if (isRefused(logins, keyStore)) await endRefused(service(), keyStore)
          else if (!logins.has(keyStore)) background.add('logging in to a custom key store', keyStore.id, login(keyStore))
        }
      }
      await closeUnwanted(service(), logins)
    },
    close: () => background.settled(),
  }
}

/** How many are connecting or disconnecting a key store right now, here. */
class Changing {
  readonly #counts = new Map<string, number>()
  has(keyStoreId: string): boolean {
    return this.#counts.has(keyStoreId)
  }
  async during(keyStoreId: string, work: () => Promise<void>): Promise<void> {
    this.#add(keyStoreId, 1)
    try {
      await work()
    } finally {
      this.#add(keyStoreId, -1)
    }
  }
  #add(keyStoreId: string, more: 1 | -1): void {
    const count = (this.#counts.get(keyStoreId) ?? 0) + more
    if (count === 0) this.#counts.delete(keyStoreId)
    else this.#counts.set(keyStoreId, count)
  }
}

/** What goes on by itself; how it failed is in the log. */
class Background {
  readonly #underWay = new Set<Promise<void>>()
  readonly #service: () => Service
  constructor(service: () => Service) {
    this.#service = service
  }
  add(what: string, keyStoreId: string, work: Promise<void>): void {
    const task = work
      .catch((error: unknown) => this.#service().log.error({ keyStore: keyStoreId, err: error }, `${what} failed`))
      .finally(() => this.#underWay.delete(task))
    this.#underWay.add(task)
  }
  async settled(): Promise<void> {
    await Promise.all(this.#underWay)
  }
}

/** Undefined when it is connected, or another is at it. @throws KmsError */
async function beginConnecting({ store, instance }: Service, keyStoreId: string): Promise<KeyStoreRecord | undefined> {
  let begun = false
  const keyStore = await store.updateKeyStore(keyStoreId, ({ state }) => {
    begun = state === 'DISCONNECTED'
    if (state === 'FAILED' || state === 'DISCONNECTING') throw wrongState(state, 'be connected')
    return begun ? { state: 'CONNECTING', errorCode: null, connection: randomUUID(), holder: instance.id } : {}
  })
  return begun ? keyStore : undefined
}

async function finishConnecting(service: Service, rooms: Rooms, keyStore: KeyStoreRecord, requestId: string): Promise<void> {
  const { logins } = rooms
  const outcome = await tryConnection(service, rooms, keyStore, requestId)
  if (outcome !== null) await logins.closeOf(keyStore)
  try {
    if (outcome === null) await end(service, keyStore, 'CONNECTING', () => ({ state: 'CONNECTED', errorCode: null }))
    else if (typeof outcome === 'string') await end(service, keyStore, 'CONNECTING', failed(outcome, false))
    else await end(service, keyStore, 'CONNECTING', failed(outcome.refused, true))
  } catch (error) {
    await logins.closeOf(keyStore)
    ignoreSuperseded(error)
  }
}

/** At once where there is nothing to log out of. @throws KmsError */
function beginDisconnecting({ store, instance }: Service, keyStoreId: string): Promise<KeyStoreRecord> {
  return store.updateKeyStore(keyStoreId, ({ state, backing }) => {
    if (state === 'DISCONNECTED' || state === 'DISCONNECTING') throw wrongState(state, 'be disconnected')
    return backing.type === 'EXTERNAL_KEY_STORE'
      ? { state: 'DISCONNECTED', errorCode: null, connection: null, holder: null }
      : { state: 'DISCONNECTING', errorCode: null, holder: instance.id }
  })
}

async function logIn(service: Service, logins: KeyStoreLogins, keyStore: KeyStoreRecord): Promise<void> {
  try {
    await logins.open(keyStore)
  } catch (error) {
    const { errorCode, refused } = failureOf(error)
    if (refused) await end(service, keyStore, 'CONNECTED', failed(errorCode, true)).catch(ignoreSuperseded)
    throw error
  }
}

async function endLeft(service: Service, keyStore: KeyStoreRecord): Promise<void> {
  const { state } = keyStore
  if (state === 'CONNECTING') await end(service, keyStore, state, failed('INTERNAL_ERROR', false)).catch(ignoreSuperseded)
  if (state === 'DISCONNECTING') await end(service, keyStore, state, disconnected).catch(ignoreSuperseded)
}

/** The token of a login that was good refuses the password since. */
const isRefused = (logins: KeyStoreLogins, keyStore: KeyStoreRecord): boolean => logins.find(keyStore)?.health().state === 'stopped-pin'

async function endRefused(service: Service, keyStore: KeyStoreRecord): Promise<void> {
  service.log.error({ keyStore: keyStore.id }, 'the token of a custom key store refuses its password: it is disconnected')
  await end(service, keyStore, 'CONNECTED', failed('INVALID_CREDENTIALS', true)).catch(ignoreSuperseded)
}

async function closeUnwanted({ store }: Service, logins: KeyStoreLogins): Promise<void> {
  await logins.closeUnless((id, connection) => {
    const keyStore = store.view.keyStore(id)
    return keyStore?.connection === connection && (keyStore.state === 'CONNECTED' || keyStore.state === 'CONNECTING')
  })
}

class Superseded extends Error {}

function ignoreSuperseded(error: unknown): void {
  if (!(error instanceof Superseded)) throw error
}

/** Only while it is still this connection, in this state. @throws Superseded */
async function end(
  { store }: Service,
  keyStore: KeyStoreRecord,
  from: KeyStoreRecord['state'],
  change: (now: KeyStoreRecord) => KeyStoreChange,
): Promise<void> {
  await store.updateKeyStore(keyStore.id, (now) => {
    if (now.connection !== keyStore.connection || now.state !== from) throw new Superseded()
    return { ...change(now), holder: null }
  })
}

const disconnected = (): KeyStoreChange => ({ state: 'DISCONNECTED', connection: null })

const failed =
  (errorCode: string | null, refused: boolean) =>
  ({ backing }: KeyStoreRecord): KeyStoreChange => ({
    state: 'FAILED',
    errorCode,
    ...(refused && backing.type === 'AWS_CLOUDHSM' && { backing: { ...backing, passwordRefused: true } }),
  })

/** Null when it is connected, else AWS's code of what is in the way; `refused` when that is the password, which is not tried again then. */
async function tryConnection(
  service: Service,
  { openers, xks, proxyOf, logins }: Rooms,
  keyStore: KeyStoreRecord,
  requestId: string,
): Promise<KeyStoreRecord['errorCode'] | { readonly refused: string }> {
  const { backing } = keyStore
  try {
    if (backing.type === 'EXTERNAL_KEY_STORE') {
      const about: RequestMetadata = { kmsRequestId: requestId, kmsOperation: 'ConnectCustomKeyStore' }
      await xks.health(await proxyOf(keyStore), about)
      return null
    }
    if (backing.passwordRefused) return { refused: 'INVALID_CREDENTIALS' }
    if (!openers.has(backing.clusterId)) return 'CLUSTER_NOT_FOUND'
    const token = await logins.open(keyStore)
    return (await isAnother(service, token, keyStore)) ? 'CLUSTER_NOT_FOUND' : null
  } catch (error) {
    const told = error instanceof TokenError || error instanceof XksError ? { reason: error.message } : { err: error }
    service.log.warn({ keyStore: keyStore.id, ...told }, 'a custom key store could not be connected')
    if (error instanceof XksError) return connectionErrorCode(error)
    const { errorCode, refused } = failureOf(error)
    return refused && errorCode !== null ? { refused: errorCode } : errorCode
  }
}

/** A token that shows nothing of what the key store's keys have in it is not the one that they were made in, nor a copy. */
async function isAnother(service: Service, token: Token, { id }: KeyStoreRecord): Promise<boolean> {
  const keys = service.store.view.keysIn(id, Number.MAX_SAFE_INTEGER).filter(({ materialId }) => materialId !== null)
  if (keys.length === 0) return false
  const objects = shownObjects(await token.allObjects())
  return !keys.some((key) => isShown(service, key, objects))
}

/** What CloudHSM's client says, by what the token says. */
const loginErrors: Readonly<Record<string, string>> = {
  CKR_PIN_LOCKED: 'USER_LOCKED_OUT',
  // One more wrong try would lock it: not tried.
  CKF_USER_PIN_FINAL_TRY: 'USER_LOCKED_OUT',
  CKR_USER_PIN_NOT_INITIALIZED: 'USER_NOT_FOUND',
}

/** The way into FAILED of a token that could not be opened. */
function failureOf(error: unknown): Pick<KeyStoreRecord, 'errorCode'> & { readonly refused: boolean } {
  if (!(error instanceof TokenError)) return { errorCode: 'INTERNAL_ERROR', refused: false }
  const { code = '' } = error
  const known = loginErrors[code]
  if (known !== undefined) return { errorCode: known, refused: true }
  return code.startsWith('CKR_PIN') ? { errorCode: 'INVALID_CREDENTIALS', refused: true } : { errorCode: 'NETWORK_ERRORS', refused: false }
}
