/**
 * Copying a key from this token to another one, device to device: what a multi-Region key needs.
 *
 * Each token has a transport key pair, labelled `holdfast/transport`, that unwraps and does nothing else. The security officer of the sending
 * token put the public half there as CKA_TRUSTED; no user of that token can. A key that is made to be copied is CKA_EXTRACTABLE and CKA_WRAP_WITH_TRUSTED,
 * so that the device wraps it for a trusted key and refuses for any other. What leaves is readable by the receiving token alone:
 *
 *   1 | 1: RSAES-OAEP of a secret key; 2: of an AES key, behind which the key itself stands, wrapped by it (RFC 5649)
 *   1 | hash of the OAEP: 1 SHA-1, 2 SHA-224, 3 SHA-256, 4 SHA-384, 5 SHA-512; MGF1 with the same; no label
 *   n | the wrapped key
 *
 * Private keys are longer than what RSA encrypts. The AES key that wraps them, labelled `holdfast/transport-kek`, was generated in the sending
 * token by its security officer: it is trusted, and leaves by this same road only.
 */
import { createPublicKey } from 'node:crypto'
import { oaepRows, type KeyRowName } from './algorithms.ts'
import { CKK, CKO, CKR } from './constants.ts'
import { encodeRsaPublicKey } from './der.ts'
import { findDeviceError } from './errors.ts'
import { install, withMaterial, type Importer, type Installed } from './import.ts'
import type { KeyNaming } from './keys.ts'
import { oaepHashNames, type ProviderProfile } from './profile.ts'
import { oaepMechanism, type DeviceSession, type Handle, type KeyObjects } from './session.ts'
import { template } from './template.ts'
import type { TokenKeyKind } from './token.ts'
import { Rejected, Unsupported } from './wrap.ts'

const transportLabel = 'holdfast/transport'
const kekLabel = 'holdfast/transport-kek'

const direct = 1
const behindAes = 2
const headBytes = 2

interface TransportKey {
  readonly handle: Handle
  readonly spki: Buffer
}

/** This token's transport key, undefined when it was not set up. Of several, all see the same one. */
export function findTransportKey(session: DeviceSession): TransportKey | undefined {
  const wanted = { CKA_CLASS: CKO.CKO_PRIVATE_KEY, CKA_KEY_TYPE: CKK.CKK_RSA, CKA_LABEL: transportLabel, CKA_UNWRAP: true }
  const found = session.find(template(wanted)).map((handle) => {
    const [ckaId = empty, modulus = empty, exponent = empty] = session.attributes(handle, ['CKA_ID', 'CKA_MODULUS', 'CKA_PUBLIC_EXPONENT'])
    return { ckaId, handle, spki: encodeRsaPublicKey(modulus, exponent) }
  })
  return found.sort((a, b) => a.ckaId.compare(b.ckaId))[0]
}

const empty = Buffer.alloc(0)

/** The refusals of a device that keeps its promise. */
const refusals: ReadonlyMap<number, string> = new Map([
  [CKR.CKR_KEY_UNEXTRACTABLE, 'the key was made for this token alone and never leaves it'],
  [CKR.CKR_KEY_NOT_WRAPPABLE, 'the key leaves this token only under a key that its security officer trusts, and that is none'],
])

function wrap(session: DeviceSession, mechanism: Parameters<DeviceSession['wrapKey']>[0], wrappingKey: Handle, key: Handle): Buffer {
  try {
    return Buffer.from(session.wrapKey(mechanism, wrappingKey, key))
  } catch (error) {
    const reason = refusals.get(findDeviceError(error)?.code ?? -1)
    throw reason === undefined ? error : new Unsupported(reason, { cause: error })
  }
}

/** @param spki the receiving token's transport key */
export function exportKey(session: DeviceSession, profile: ProviderProfile, keys: KeyObjects, spki: Buffer): Buffer {
  const held = [keys.aes, keys.mac, keys.privateKey].filter((handle) => handle !== undefined)
  const [key, another] = held
  if (key === undefined) throw new Rejected('there is nothing but a public key under this CKA_ID')
  if (another !== undefined) throw new Unsupported('a key that consists of several objects cannot be copied')
  const receiver = findTrustedKey(session, spki)
  const byRsa = oaepMechanism(profile.oaepHash)
  const hash = oaepRows[profile.oaepHash].id
  if (keys.privateKey === undefined) return Buffer.concat([Buffer.of(direct, hash), wrap(session, byRsa, receiver, key)])

  if (profile.kwp === null) throw new Unsupported('the token has no AES key wrap with padding, without which private keys cannot be copied')
  const [kek] = session.find(
    template({ CKA_CLASS: CKO.CKO_SECRET_KEY, CKA_KEY_TYPE: CKK.CKK_AES, CKA_LABEL: kekLabel, CKA_TRUSTED: true, CKA_WRAP: true }),
  )
  if (kek === undefined)
    throw new Unsupported(`the security officer has made no ${kekLabel} on this token, without which private keys cannot be copied`)
  const wrappedKek = wrap(session, byRsa, receiver, kek)
  return Buffer.concat([Buffer.of(behindAes, hash), wrappedKek, wrap(session, { mechanism: profile.kwp }, kek, key)])
}

/** The object on this token that is this public key, and that the security officer trusts. */
function findTrustedKey(session: DeviceSession, spki: Buffer): Handle {
  let modulus
  let exponent
  try {
    const { n = '', e = '' } = createPublicKey({ key: spki, format: 'der', type: 'spki' }).export({ format: 'jwk' })
    modulus = Buffer.from(n, 'base64url')
    exponent = Buffer.from(e, 'base64url')
  } catch (error) {
    throw new Rejected('not a public key', { cause: error })
  }
  if (modulus.length === 0 || !encodeRsaPublicKey(modulus, exponent).equals(spki)) throw new Rejected('not an RSA public key')
  const same = { CKA_CLASS: CKO.CKO_PUBLIC_KEY, CKA_KEY_TYPE: CKK.CKK_RSA, CKA_MODULUS: modulus, CKA_PUBLIC_EXPONENT: exponent }
  const [trusted] = session.find(template({ ...same, CKA_TRUSTED: true, CKA_WRAP: true }))
  if (trusted !== undefined) return trusted
  throw new Unsupported(
    'the security officer of this token has not marked that transport key CKA_TRUSTED, so that no key leaves for it (docs/replication.md)',
  )
}

/** @param rows what a key of this kind consists of here */
export function adoptKey(
  importer: Importer,
  kind: TokenKeyKind,
  rows: readonly KeyRowName[],
  naming: KeyNaming,
  wrapped: Buffer,
): Installed {
  const [form, hash] = wrapped
  const name = oaepHashNames.find((each) => oaepRows[each].id === hash)
  if ((form !== direct && form !== behindAes) || name === undefined) throw new Rejected('not a wrapped key')
  if (!importer.profile.oaepHashes.includes(name))
    throw new Unsupported(`the token does not unwrap by OAEP with ${name}, as the sending one wraps`)
  const transportKey = findTransportKey(importer.session)
  if (transportKey === undefined) throw new Unsupported('the token has no transport key (docs/replication.md)')
  return withMaterial(
    importer,
    transportKey.handle,
    { way: 'unwrap', hash: name },
    form === behindAes,
    wrapped.subarray(headBytes),
    (material) => install(importer, material, kind, rows, { ...naming, replicable: true, imported: true }),
  )
}
