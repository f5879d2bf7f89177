/** Public keys of key pairs: read from the token once for each key material, then kept. What they can do is done here, not in the device. */

import { constants, createPublicKey, publicEncrypt, type KeyObject } from 'node:crypto'
import type { OaepAlgorithm } from '../hsm/token.ts'
import type { BackingKeyRecord, KeyRecord } from '../store/store.ts'
import { currentMaterial, withMaterial } from './material.ts'
import type { Service } from './service.ts'
import { oaepRows } from './specs.ts'

export interface PublicKey {
  /** SubjectPublicKeyInfo, DER. Nobody writes into it. */
  readonly spki: Buffer
  readonly key: KeyObject
}

const known = new WeakMap<BackingKeyRecord, Promise<PublicKey>>()

/** Calls that meet at a key whose public half is not known yet ask the token once. */
export function publicKeyOf(service: Service, key: KeyRecord): Promise<PublicKey> {
  const backing = currentMaterial(service, key)
  let found = known.get(backing)
  if (!found) {
    found = read(service, key)
    known.set(backing, found)
    found.catch(() => known.delete(backing))
  }
  return found
}

async function read(service: Service, key: KeyRecord): Promise<PublicKey> {
  const spki = await withMaterial(service, key, (token, ckaId) => token.publicKey(ckaId))
  return { spki, key: createPublicKey({ key: spki, format: 'der', type: 'spki' }) }
}

/** What is longer than `checkOaepLength` lets through is an error of OpenSSL's. */
export function encryptOaep({ key }: PublicKey, algorithm: OaepAlgorithm, plaintext: Buffer): Buffer {
  return publicEncrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: oaepRows[algorithm].hash }, plaintext)
}

export function modulusBytes(key: KeyObject): number {
  const bits = key.asymmetricKeyDetails?.modulusLength
  if (bits === undefined) throw new Error('only RSA keys have a modulus')
  return Math.ceil(bits / 8)
}

/** By OpenSSL's names. */
const coordinateBytes: ReadonlyMap<string, number> = new Map([
  ['prime256v1', 32],
  ['secp384r1', 48],
  ['secp521r1', 66],
  ['secp256k1', 32],
])

export function curveOf(key: KeyObject): { readonly name: string; readonly coordinateBytes: number } {
  const name = key.asymmetricKeyDetails?.namedCurve ?? ''
  const bytes = coordinateBytes.get(name)
  if (bytes === undefined) throw new Error(`no curve that is known here: ${name}`)
  return { name, coordinateBytes: bytes }
}
