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
  /** Goes on by itself; `close` waits for it. */
  const inBackground = (what: string, keyStoreId: string, work: Promise<void>): void => {
    const task = work
      .catch((error: unknown) => service().log.error({ keyStore: keyStoreId, err: error }, `${what} failed`))
      .finally(() => underWay.delete(task))
    underWay.add(task)
  }

  /** Left by a process that is no more, or by this one when the store failed it. */
  const isLeft = ({ id, holder }: KeyStoreRecord, isDead: (instance: string) => boolean): boolean =>
    holder !== null && (isDead(holder) || (holder === service().instance.id && !changing.has(id)))

  const login = async (keyStore: KeyStoreRecord): Promise<void> => {
    try {
      await logins.open(keyStore)
    } catch (error) {
      const { errorCode, refused } = failureOf(error)
      if (refused) await end(service(), keyStore, 'CONNECTED', failed(errorCode, true)).catch(ignoreSuperseded)
      throw error
    }
  }

  const finishConnecting = async (keyStore: KeyStoreRecord, requestId: string): Promise<void> => {
    const outcome = await tryConnection(service(), rooms, keyStore, requestId)
    if (outcome !== null) await logins.closeOf(keyStore)
    try {
      if (outcome === null) await end(service(), keyStore, 'CONNECTING', () => ({ state: 'CONNECTED', errorCode: null }))
      else if (typeof outcome === 'string') await end(service(), keyStore, 'CONNECTING', failed(outcome, false))
      else await end(service(), keyStore, 'CONNECTING', failed(outcome.refused, true))
    } catch (error) {
      await logins.closeOf(keyStore)
      ignoreSuperseded(error)
    }
  }

  return {
    login,
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
        await logins.close(keyStoreId)
        await end(service(), keyStore, 'DISCONNECTING', disconnected).catch(ignoreSuperseded)
      })
    },
    async follow(isDead) {
      const { store, log } = service()
      for (const keyStore of store.view.allKeyStores()) {
        const { id, state, backing } = keyStore
        if (isLeft(keyStore, isDead)) {
          if (state === 'CONNECTING') await end(service(), keyStore, state, failed('INTERNAL_ERROR', false)).catch(ignoreSuperseded)
          if (state === 'DISCONNECTING') await end(service(), keyStore, state, disconnected).catch(ignoreSuperseded)
        } else if (state === 'CONNECTED' && backing.type === 'AWS_CLOUDHSM') {
          if (logins.find(keyStore)?.health().state === 'stopped-pin') {
            log.error({ keyStore: id }, 'the token of a custom key store refuses its password: it is disconnected')
            await end(service(), keyStore, state, failed('INVALID_CREDENTIALS', true)).catch(ignoreSuperseded)
          } else if (!logins.has(keyStore)) {
            inBackground('logging in to a custom key store', id, login(keyStore))
          }
        }
      }
      await logins.closeUnless((id, connection) => {
        const keyStore = store.view.keyStore(id)
        return keyStore?.connection === connection && (keyStore.state === 'CONNECTED' || keyStore.state === 'CONNECTING')
      })
    },
    async close() {
      await Promise.all(underWay)
    },
  }
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
