/** What the threads of the crypto pool do. */

import { generateKeyPairSync, type KeyPairKeyObjectResult } from 'node:crypto'
import { move, transferableSymbol, valueSymbol } from 'piscina'
import { verifyEd25519ph } from '../base/ed25519ph.ts'
import type { Ed25519phQuestion, PairSpec } from './crypto-pool.ts'

export { isEcdsaSignature } from './ecdsa.ts'

/** Has the pool start a thread in place of one that was lost. */
export const wake = (): null => null

export const isEd25519phSignature = ({ publicKey, digest, signature }: Ed25519phQuestion): boolean =>
  verifyEd25519ph(Buffer.from(publicKey), Buffer.from(digest), Buffer.from(signature))

const rsa = (modulusLength: number) => () => generateKeyPairSync('rsa', { modulusLength })
const ec = (namedCurve: string) => () => generateKeyPairSync('ec', { namedCurve })

const generators: Readonly<Record<PairSpec, () => KeyPairKeyObjectResult>> = {
  RSA_2048: rsa(2048),
  RSA_3072: rsa(3072),
  RSA_4096: rsa(4096),
  ECC_NIST_P256: ec('prime256v1'),
  ECC_NIST_P384: ec('secp384r1'),
  ECC_NIST_P521: ec('secp521r1'),
  ECC_SECG_P256K1: ec('secp256k1'),
  ECC_NIST_EDWARDS25519: () => generateKeyPairSync('ed25519'),
}

/** The private key is handed over, not copied: no second one stays behind in this thread. */
export function keyPair(spec: PairSpec) {
  const pair = generators[spec]()
  const privateKey = pair.privateKey.export({ type: 'pkcs8', format: 'der' })
  const publicKey = pair.publicKey.export({ type: 'spki', format: 'der' })
  // DER comes in memory of its own, but nobody promises it, and memory that others share cannot be handed over.
  const own = privateKey.byteLength === privateKey.buffer.byteLength
  const handed = own ? privateKey : new Uint8Array(privateKey)
  if (!own) privateKey.fill(0)
  return move({
    [transferableSymbol]: [handed.buffer],
    [valueSymbol]: { privateKey: handed, publicKey },
  })
}
