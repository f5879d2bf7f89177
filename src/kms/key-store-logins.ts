/** The tokens of custom key stores that this process has logged in to: one login for each connection. */

import { TokenError, type Token } from '../hsm/token.ts'
import type { KeyStoreRecord } from '../store/store.ts'
import type { SecretOf } from './key-store-secrets.ts'

/** By CloudHsmClusterId, what opens the token with a PIN. Each opens a new login. */
export type TokenOpeners = ReadonlyMap<string, (pin: string) => Promise<Token>>

export interface KeyStoreLogins {
  /** The token of this connection, where it is open. */
  find(keyStore: KeyStoreRecord): Token | undefined
  /** Whether this connection is open, or being opened. */
  has(keyStore: KeyStoreRecord): boolean
  /** Logs in to the token for this connection, once however many ask. @throws TokenError */
  open(keyStore: KeyStoreRecord): Promise<Token>
  /** Ends the login to a key store, whichever connection it is of. */
  close(keyStoreId: string): Promise<void>
  /** The same, if it is of this connection. */
  closeOf(keyStore: KeyStoreRecord): Promise<void>
  /** Ends those that nobody wants any more. */
  closeUnless(isWanted: (keyStoreId: string, connection: string) => boolean): Promise<void>
}

interface Login {
  readonly connection: string
  readonly opening: Promise<Token>
  token: Token | undefined
}

export function openKeyStoreLogins(openers: TokenOpeners, secretOf: SecretOf): KeyStoreLogins {
  const logins = new Map<string, Login>()

  const loginOf = ({ id, connection }: KeyStoreRecord): Login | undefined => {
    const login = logins.get(id)
    return login?.connection === connection ? login : undefined
  }

  const end = async (id: string, login: Login | undefined): Promise<void> => {
    if (!login) return
    if (logins.get(id) === login) logins.delete(id)
    const token = await login.opening.catch(() => undefined)
    await token?.close()
  }

  const openToken = async (keyStore: KeyStoreRecord, clusterId: string): Promise<Token> => {
    const opener = openers.get(clusterId)
    if (!opener) throw new TokenError('unavailable', `no token is configured as ${clusterId}`)
    return opener(await secretOf(keyStore))
  }

  return {
    find: (keyStore) => loginOf(keyStore)?.token,
    has: (keyStore) => loginOf(keyStore) !== undefined,
    async open(keyStore) {
      const { id, connection, backing } = keyStore
      if (backing.type !== 'AWS_CLOUDHSM' || connection === null) throw new Error(`${id} has no token`)
      if (!loginOf(keyStore)) await end(id, logins.get(id))
      const known = loginOf(keyStore)
      if (known) return known.opening
      const login: Login = { connection, opening: openToken(keyStore, backing.clusterId), token: undefined }
      logins.set(id, login)
      try {
        return (login.token = await login.opening)
      } catch (error) {
        if (logins.get(id) === login) logins.delete(id)
        throw error
      }
    },
    close: (id) => end(id, logins.get(id)),
    closeOf: (keyStore) => end(keyStore.id, loginOf(keyStore)),
    async closeUnless(isWanted) {
      await Promise.all([...logins].filter(([id, { connection }]) => !isWanted(id, connection)).map(([id, login]) => end(id, login)))
    },
  }
}
