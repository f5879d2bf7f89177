/**
 * The canary: a small key object with a fixed CKA_ID and label that every provisioned token has. One operation with it
 * proves that this is the token it should be, that the login holds and that the device computes; its absence says that
 * the token or the login is gone, where a search that finds nothing says nothing.
 */
import { canaryRows, findSignature, keyRows } from './algorithms.ts'
import { CKR } from './constants.ts'
import { findDeviceError } from './errors.ts'
import { keyTypeOf, makeKey, sortObjects, Unprotected } from './keys.ts'
import type { ProviderProfile } from './profile.ts'
import { cbcMechanism, hmacMechanism, type DeviceSession, type KeyObjects } from './session.ts'
import { canaryLabel } from './token.ts'

/** As long as this product's key ids are, 16 or 2 bytes, say. */
export function canaryId(profile: ProviderProfile): Buffer {
  const id = Buffer.alloc(profile.keyIdBytes)
  Buffer.from('hf-canary-key-01').copy(id)
  return id
}

/** Undefined when the token does not show it. Always a search: a cached handle would prove less. */
export function findCanary(session: DeviceSession, profile: ProviderProfile): KeyObjects | undefined {
  const handles = session.findById(canaryId(profile), canaryLabel)
  return handles.length === 0 ? undefined : sortObjects(session, handles)
}

/** Whether what has the canary's CKA_ID is it by its label, too. */
export function isCanary(session: DeviceSession, { aes, mac, privateKey }: KeyObjects): boolean {
  const key = aes ?? mac ?? privateKey
  return key !== undefined && session.attributes(key, ['CKA_LABEL'])[0]?.toString() === canaryLabel
}

/** Makes it of the first kind of key that the token can make; throws the device's last answer if it can make none. */
export function makeCanary(session: DeviceSession, profile: ProviderProfile): void {
  let refusal: unknown
  for (const { key } of canaryRows) {
    if (keyRows[key].shape === 'secret' && !profile.generate) continue
    try {
      makeKey(session, [key], { token: true, ckaId: canaryId(profile), label: canaryLabel }, profile)
      const made = findCanary(session, profile)
      if (made === undefined) throw new Unprotected('the token does not show the canary key it has just made')
      useCanary(session, made)
      return
    } catch (error) {
      if (findDeviceError(error) === undefined && !(error instanceof Unprotected)) throw error
      refusal = error
      session.reopen()
    }
  }
  throw refusal instanceof Error ? refusal : new Error('the profile leaves no kind of canary key')
}

const block = Buffer.alloc(16, 'canary')
const iv = Buffer.alloc(16)

/** Real crypto; throws what the device answers. */
export function useCanary(session: DeviceSession, canary: KeyObjects): void {
  let output: Buffer
  if (canary.aes !== undefined) output = session.encrypt(cbcMechanism(iv), canary.aes, block)
  else if (canary.mac !== undefined) output = session.sign(hmacMechanism, canary.mac, block)
  else if (canary.privateKey !== undefined) {
    const signature = findSignature(keyTypeOf(session, canary.privateKey))
    if (signature === undefined) throw new Error('the canary key is of a kind that does not sign')
    const digest = Buffer.concat([signature.prefix, Buffer.alloc(signature.digestBytes, 1)])
    output = session.sign(signature.mechanism, canary.privateKey, digest)
  } else throw new Error('the canary key has no object that can be used')
  if (output.length === 0) throw new Error(`the device answered nothing to the canary (${CKR.CKR_OK})`)
}
