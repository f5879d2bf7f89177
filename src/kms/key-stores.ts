/**
 * Custom key stores while the service runs: what is connected to what, and how it comes to be.
 *
 * The record in the store says what a key store's state is; a process follows it. Connecting is a state machine that may be stopped anywhere:
 * `CONNECTING` with its holder is durable before anything is tried, and only that holder, of that connection, may end it. One whose holder died
 * is FAILED, never tried again by itself: nobody knows whether the token refused the password. A password that the token refused is
 * marked in the record and not tried again, by any process, until it is changed.
 *
 * Each process logs in to the token of a connected key store itself, when it starts or when the first call needs it.
 */

import { randomUUID } from 'node:crypto'
import { TokenError, type Token } from '../hsm/token.ts'
import type { KeyRecord, KeyState, KeyStoreChange, KeyStoreRecord } from '../store/store.ts'
import { XksError, type ProxySettings, type XksClient } from '../xks/client.ts'
import type { RequestMetadata } from '../xks/protocol.ts'
import { kmsError, type KmsError } from './errors.ts'
import { isExpired } from './import.ts'
import { openKeyStoreWatch, type KeyStoreHealth } from './key-store-health.ts'
import { isShown, shownObjects } from './material.ts'
import type { Call } from './operation.ts'
import { seal, unseal } from './seal.ts'
import type { Service } from './service.ts'
import { connectionErrorCode } from './xks-failures.ts'

export interface KeyStoreRooms {
  /** Tokens that a key store of type AWS_CLOUDHSM can be: by CloudHsmClusterId, what opens them with a PIN. Each opens a new login. */
  readonly keyStoreTokens: ReadonlyMap<string, (pin: string) => Promise<Token>>
  readonly xks: XksClient
  /** How often connected proxies are asked for their health; 0 and absent for never. */
  readonly healthIntervalMs?: number
}

export interface KeyStores extends KeyStoreRooms {
  /** The token of a connected key store. @throws KmsError when it is not connected, or not logged in to here: see `ready`. */
  tokenOf(keyStoreId: string): Token
  /** Whether `tokenOf` has it. */
  isOpen(keyStoreId: string): boolean
  /** Logs in to the key store of a key, if it is connected and this process has not yet. At once for other keys. */
  ready(key: KeyRecord): Promise<void> | undefined
  /** The same for a key store that is connected and a token. */
  openTokenOf(keyStore: KeyStoreRecord): Promise<void> | undefined
  /** Begins to connect; resolves when that is durable. @throws KmsError in a state from which it cannot be. */
  connect(keyStoreId: string, requestId: string): Promise<void>
  /** Resolves when nothing of it is in use any more. */
  disconnect(keyStoreId: string): Promise<void>
  /** Where the proxy of a key store is, with its secret. */
  proxyOf(keyStore: KeyStoreRecord): Promise<ProxySettings>
  /** What the proxies of connected external key stores said of their health, as far as this process asked. */
  health(): readonly KeyStoreHealth[]
  /** Does here what the records say by now, and ends what a dead process was at; asks proxies for their health when that is due. */
  follow(isDead: (instance: string) => boolean): Promise<void>
  /** With the client of the proxies. */
  close(): Promise<void>
}

/** Sealed for the key store and nothing else. */
export const sealSecret = (service: Service, keyStoreId: string, secret: string): Promise<Buffer> =>
  seal(service, Buffer.from(secret), `key-store/${keyStoreId}`)

export const keyStoreMissing = (id: string): KmsError =>
  kmsError('CustomKeyStoreNotFoundException', `The custom key store with ID ${id} was not found.`)

/** What AWS's look like; no configured token has such a name. */
export const isKeyStoreId = (name: string): boolean => /^cks-[0-9a-f]{17}$/.test(name)

/** A key store of the caller's account and region. */
export function findKeyStore(
  { store }: Pick<Service, 'store'>,
  { accountId, region }: { readonly accountId: string; readonly region: string },
  id: string,
): KeyStoreRecord {
  const found = store.view.keyStore(id)
  if (found?.accountId !== accountId || found.region !== region) throw keyStoreMissing(id)
  return found
}

/** States that a disconnected key store hides: which of them it is shows again when it is connected. */
const hidden: ReadonlySet<KeyState> = new Set<KeyState>(['Enabled', 'Disabled'])

/**
 * A key's state as it is to callers: Unavailable while its key store is not connected, whatever it is then, unless its deletion is scheduled. What has
 * expired is not used any more, though the lifecycle job, which ends it, may come later.
 */
export function stateOf(service: Pick<Service, 'store' | 'clock'>, key: KeyRecord): KeyState {
  if (key.origin === 'EXTERNAL' && isExpired(service, key)) return 'PendingImport'
  if (key.customKeyStoreId === null || !hidden.has(key.state)) return key.state
  return service.store.view.keyStore(key.customKeyStoreId)?.state === 'CONNECTED' ? key.state : 'Unavailable'
}

/**
 * Whether a key's material can be got at: always, but for keys in a token that is a key store. `changing` is over soon, and `gone` may last.
 */
export function reachOf(service: Service, { origin, customKeyStoreId }: KeyRecord): 'connected' | 'changing' | 'gone' {
  if (origin !== 'AWS_CLOUDHSM' || customKeyStoreId === null) return 'connected'
  const state = service.store.view.keyStore(customKeyStoreId)?.state
  if (state === 'CONNECTED') return service.keyStores.isOpen(customKeyStoreId) ? 'connected' : 'changing'
  return state === 'CONNECTING' || state === 'DISCONNECTING' ? 'changing' : 'gone'
}

/** What a cryptographic operation answers then, and whatever else cannot be done. */
export const keyStoreNotConnected = ({ arn, origin }: KeyRecord): KmsError =>
  kmsError('KMSInvalidStateException', origin === 'EXTERNAL_KEY_STORE' ? proxyNotConnected : `${arn} is unavailable.`)

export const proxyNotConnected =
  'This KMS key is in a custom key store that is not connected to its external key store proxy. Connect the external key store and try the request again.'

/** Which key store had a part in a cryptographic operation is in its record, whatever became of it. */
export function noteKeyStore(call: Pick<Call, 'note'>, key: KeyRecord): void {
  if (key.customKeyStoreId === null) return
  call.note['customKeyStoreId'] = key.customKeyStoreId
  if (key.xksKeyId !== null) call.note['xksKeyId'] = key.xksKeyId
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

/** What this process has opened for one connection of a key store. */
interface Opened {
  readonly connection: string
  readonly opening: Promise<Token>
  token: Token | undefined
}

class Superseded extends Error {}

export function openKeyStores(service: () => Service, rooms: KeyStoreRooms): KeyStores {
  const { keyStoreTokens, healthIntervalMs = 0 } = rooms
  const opened = new Map<string, Opened>()
  const underWay = new Set<Promise<void>>()
  /** How many are connecting or disconnecting a key store right now, here. */
  const changing = new Map<string, number>()
  const whileChanging = async (id: string, work: () => Promise<void>): Promise<void> => {
    changing.set(id, (changing.get(id) ?? 0) + 1)
    try {
      await work()
    } finally {
      changing.set(id, (changing.get(id) ?? 1) - 1)
      if (changing.get(id) === 0) changing.delete(id)
    }
  }
  const secrets = new WeakMap<KeyStoreRecord, Promise<string>>()

  /** Left by a process that is no more, or by this one when the store failed it. */
  const isLeft = ({ id, holder }: KeyStoreRecord, isDead: (instance: string) => boolean): boolean =>
    holder !== null && (isDead(holder) || (holder === service().instance.id && !changing.has(id)))

  const find = (id: string): KeyStoreRecord | undefined => service().store.view.keyStore(id)

  const findToken = (id: string): Token | undefined => {
    const keyStore = find(id)
    const here = opened.get(id)
    return keyStore?.state === 'CONNECTED' && here?.connection === keyStore.connection ? here.token : undefined
  }

  const secretOf = (keyStore: KeyStoreRecord): Promise<string> => {
    let secret = secrets.get(keyStore)
    if (!secret) {
      secret = unseal(service(), keyStore.sealedSecret, `key-store/${keyStore.id}`).then((bytes) => {
        if (!bytes) throw new Error(`the secret of ${keyStore.id} was not sealed here`)
        const text = bytes.toString()
        bytes.fill(0)
        return text
      })
      secrets.set(keyStore, secret)
      // The device may have been busy: the next one asks again.
      secret.catch(() => secrets.delete(keyStore))
    }
    return secret
  }

  const forget = async (id: string, which: Opened | undefined): Promise<void> => {
    if (!which) return
    if (opened.get(id) === which) opened.delete(id)
    const token = await which.opening.catch(() => undefined)
    await token?.close()
  }

  /** Logs in to the token for this connection, once however many ask. */
  const openToken = async (keyStore: KeyStoreRecord): Promise<Token> => {
    const { id, connection, backing } = keyStore
    if (backing.type !== 'AWS_CLOUDHSM' || connection === null) throw new Error(`${id} has no token`)
    const known = opened.get(id)
    if (known?.connection === connection) return known.opening
    await forget(id, known)
    const again = opened.get(id)
    if (again?.connection === connection) return again.opening
    const opener = keyStoreTokens.get(backing.clusterId)
    const open = async (): Promise<Token> => {
      if (!opener) throw new TokenError('unavailable', `no token is configured as ${backing.clusterId}`)
      return opener(await secretOf(keyStore))
    }
    const entry: Opened = { connection, opening: open(), token: undefined }
    opened.set(id, entry)
    try {
      return (entry.token = await entry.opening)
    } catch (error) {
      if (opened.get(id) === entry) opened.delete(id)
      throw error
    }
  }

  /** Only while it is still this connection, in this state. */
  const end = async (keyStore: KeyStoreRecord, from: KeyStoreRecord['state'], change: (now: KeyStoreRecord) => KeyStoreChange) => {
    await service().store.updateKeyStore(keyStore.id, (now) => {
      if (now.connection !== keyStore.connection || now.state !== from) throw new Superseded()
      return { ...change(now), holder: null }
    })
  }

  const fail =
    (errorCode: string | null, refused: boolean) =>
    ({ backing }: KeyStoreRecord): KeyStoreChange => ({
      state: 'FAILED',
      errorCode,
      ...(refused && backing.type === 'AWS_CLOUDHSM' && { backing: { ...backing, passwordRefused: true } }),
    })

  const tryConnection = async (keyStore: KeyStoreRecord, requestId: string): Promise<KeyStoreRecord['errorCode'] | { refused: string }> => {
    const { backing } = keyStore
    try {
      if (backing.type === 'EXTERNAL_KEY_STORE') {
        const about: RequestMetadata = { kmsRequestId: requestId, kmsOperation: 'ConnectCustomKeyStore' }
        await rooms.xks.health(await proxyOf(keyStore), about)
        return null
      }
      if (backing.passwordRefused) return { refused: 'INVALID_CREDENTIALS' }
      if (!keyStoreTokens.has(backing.clusterId)) return 'CLUSTER_NOT_FOUND'
      const token = await openToken(keyStore)
      if (await isAnother(token, keyStore)) return 'CLUSTER_NOT_FOUND'
      return null
    } catch (error) {
      const told = error instanceof TokenError || error instanceof XksError ? { reason: error.message } : { err: error }
      service().log.warn({ keyStore: keyStore.id, ...told }, 'a custom key store could not be connected')
      if (error instanceof XksError) return connectionErrorCode(error)
      const { errorCode, refused } = failureOf(error)
      return refused && errorCode !== null ? { refused: errorCode } : errorCode
    }
  }

  /** A token that shows nothing of what the key store's keys have in it is not the one that they were made in, nor a copy. */
  const isAnother = async (token: Token, { id }: KeyStoreRecord): Promise<boolean> => {
    const keys = service()
      .store.view.keysIn(id, Number.MAX_SAFE_INTEGER)
      .filter(({ materialId }) => materialId !== null)
    if (keys.length === 0) return false
    const objects = shownObjects(await token.allObjects())
    return !keys.some((key) => isShown(service(), key, objects))
  }

  const finishConnecting = async (keyStore: KeyStoreRecord, requestId: string): Promise<void> => {
    const outcome = await tryConnection(keyStore, requestId)
    const unused = outcome === null ? undefined : opened.get(keyStore.id)
    if (unused?.connection === keyStore.connection) await forget(keyStore.id, unused)
    try {
      if (outcome === null) await end(keyStore, 'CONNECTING', () => ({ state: 'CONNECTED', errorCode: null }))
      else if (typeof outcome === 'string') await end(keyStore, 'CONNECTING', fail(outcome, false))
      else await end(keyStore, 'CONNECTING', fail(outcome.refused, true))
    } catch (error) {
      await forget(keyStore.id, opened.get(keyStore.id)?.connection === keyStore.connection ? opened.get(keyStore.id) : undefined)
      if (!(error instanceof Superseded)) throw error
    }
  }

  /** Goes on by itself; `close` waits for it. */
  const inBackground = (what: string, keyStoreId: string, work: Promise<void>): void => {
    const task = work
      .catch((error: unknown) => service().log.error({ keyStore: keyStoreId, err: error }, `${what} failed`))
      .finally(() => underWay.delete(task))
    underWay.add(task)
  }

  const proxyOf = async (keyStore: KeyStoreRecord): Promise<ProxySettings> => {
    const { backing, region } = keyStore
    if (backing.type !== 'EXTERNAL_KEY_STORE') throw new Error(`${keyStore.id} has no proxy`)
    return {
      endpoint: backing.uriEndpoint,
      path: backing.uriPath,
      region,
      accessKeyId: backing.accessKeyId,
      secretAccessKey: await secretOf(keyStore),
    }
  }

  const watch = openKeyStoreWatch({ xks: rooms.xks, proxyOf, log: () => service().log })
  let lookedAt: number | undefined
  /** In the background: a proxy that hangs holds up nothing. */
  const lookWhenDue = (): void => {
    const { store, clock } = service()
    const now = clock.now()
    // From the first round on: who connected it asked just then.
    lookedAt ??= now
    if (healthIntervalMs === 0 || now - lookedAt < healthIntervalMs) return
    lookedAt = now
    const connected = store.view
      .allKeyStores()
      .filter(({ state, backing }) => state === 'CONNECTED' && backing.type === 'EXTERNAL_KEY_STORE')
    const looking = watch.look(connected).finally(() => underWay.delete(looking))
    underWay.add(looking)
  }

  /** A connected key store whose token this process has not opened, or whose PIN was changed under it. */
  const openConnected = async (keyStore: KeyStoreRecord): Promise<void> => {
    try {
      await openToken(keyStore)
    } catch (error) {
      const { errorCode, refused } = failureOf(error)
      if (refused) await end(keyStore, 'CONNECTED', fail(errorCode, true)).catch(ignoreSuperseded)
      throw error
    }
  }

  const openTokenOf = (keyStore: KeyStoreRecord): Promise<void> | undefined =>
    findToken(keyStore.id) ? undefined : openConnected(keyStore)

  return {
    ...rooms,
    proxyOf,
    openTokenOf,
    // One that was disconnected since is none to tell of.
    health: () => watch.read().filter(({ keyStore }) => find(keyStore.id)?.state === 'CONNECTED'),
    isOpen: (keyStoreId) => findToken(keyStoreId) !== undefined,
    tokenOf(keyStoreId) {
      const token = findToken(keyStoreId)
      if (token) return token
      throw kmsError('KMSInvalidStateException', 'The custom key store of this key is not connected.')
    },
    ready(key) {
      if (key.origin !== 'AWS_CLOUDHSM' || key.customKeyStoreId === null) return undefined
      const keyStore = find(key.customKeyStoreId)
      return keyStore?.state === 'CONNECTED' ? openTokenOf(keyStore) : undefined
    },
    connect(keyStoreId, requestId) {
      const { store, instance } = service()
      return whileChanging(keyStoreId, async () => {
        let begun = false
        const keyStore = await store.updateKeyStore(keyStoreId, ({ state }) => {
          begun = state === 'DISCONNECTED'
          if (state === 'FAILED' || state === 'DISCONNECTING') throw wrongState(state, 'be connected')
          return begun ? { state: 'CONNECTING', errorCode: null, connection: randomUUID(), holder: instance.id } : {}
        })
        if (!begun) return
        const finished = whileChanging(keyStoreId, () => finishConnecting(keyStore, requestId))
        inBackground('connecting a custom key store', keyStoreId, finished)
      })
    },
    disconnect(keyStoreId) {
      const { store, instance } = service()
      return whileChanging(keyStoreId, async () => {
        const keyStore = await store.updateKeyStore(keyStoreId, ({ state, backing }) => {
          if (state === 'DISCONNECTED' || state === 'DISCONNECTING') throw wrongState(state, 'be disconnected')
          return backing.type === 'EXTERNAL_KEY_STORE'
            ? { state: 'DISCONNECTED', errorCode: null, connection: null, holder: null }
            : { state: 'DISCONNECTING', errorCode: null, holder: instance.id }
        })
        if (keyStore.state === 'DISCONNECTED') return
        await forget(keyStoreId, opened.get(keyStoreId))
        await end(keyStore, 'DISCONNECTING', () => ({ state: 'DISCONNECTED', connection: null })).catch(ignoreSuperseded)
      })
    },
    async follow(isDead) {
      const { store, log } = service()
      for (const keyStore of store.view.allKeyStores()) {
        const { id, state, backing } = keyStore
        if (isLeft(keyStore, isDead)) {
          if (state === 'CONNECTING') await end(keyStore, state, fail('INTERNAL_ERROR', false)).catch(ignoreSuperseded)
          if (state === 'DISCONNECTING')
            await end(keyStore, state, () => ({ state: 'DISCONNECTED', connection: null })).catch(ignoreSuperseded)
        } else if (state === 'CONNECTED' && backing.type === 'AWS_CLOUDHSM') {
          const here = opened.get(id)
          if (here?.connection === keyStore.connection && here.token?.health().state === 'stopped-pin') {
            log.error({ keyStore: id }, 'the token of a custom key store refuses its password: it is disconnected')
            await end(keyStore, state, fail('INVALID_CREDENTIALS', true)).catch(ignoreSuperseded)
          } else if (here?.connection !== keyStore.connection) {
            inBackground('logging in to a custom key store', id, openConnected(keyStore))
          }
        }
      }
      for (const [id, here] of opened) {
        const keyStore = find(id)
        const isWanted = keyStore?.connection === here.connection && (keyStore.state === 'CONNECTED' || keyStore.state === 'CONNECTING')
        if (!isWanted) await forget(id, here)
      }
      lookWhenDue()
    },
    async close() {
      await Promise.all(underWay)
      await Promise.all([...opened].map(([id, here]) => forget(id, here)))
      rooms.xks.close()
    },
  }
}

function ignoreSuperseded(error: unknown): void {
  if (!(error instanceof Superseded)) throw error
}

export const wrongState = (state: KeyStoreRecord['state'], what: string): KmsError =>
  kmsError('CustomKeyStoreInvalidStateException', `The custom key store cannot ${what} while its connection state is ${state}.`)
