/** Our own operations that tell of the token: what it shows of a key, and what its own transport key is. */

import { createHash } from 'node:crypto'
import { kmsError } from '../errors.ts'
import { keyFrom } from '../keys.ts'
import { operation } from '../operation.ts'
import { keyId, optional, string } from '../shape.ts'
import { requireHomeAccount } from './accounts.ts'

/** The attributes of a key's objects as the token shows them now, signed by the audit key. Whoever may describe a key may have this of it. */
export const AttestKey = operation({
  input: { KeyId: keyId },
  output: ['Attestation', 'SignatureAlgorithm', 'Signature', 'PublicKey'],
  keys: { key: keyFrom('KeyId', { alias: true, action: 'kms:DescribeKey' }) },
  readOnly: true,
  async run(call, _input, { key }) {
    const { token, store, auditKey } = call.service
    const backingKeys = []
    for (const backing of store.view.backingKeys(key.arn)) {
      backingKeys.push({
        keyMaterialId: backing.materialId,
        current: backing.materialId === key.materialId,
        ckaId: backing.ckaId,
        // Imported material that was deleted has none.
        objects: backing.state === 'absent' ? [] : await call.service.tokenOf(key).objects(backing.ckaId),
      })
    }
    const attestation = JSON.stringify({
      format: 'holdfast-attestation-1',
      time: new Date(call.service.clock.now()).toISOString(),
      keyArn: key.arn,
      keyState: key.state,
      token: call.service.tokenOf(key).info(),
      backingKeys,
    })
    const digest = createHash('sha256').update(attestation).digest()
    const { algorithm, signature } = await token.sign(auditKey.ckaId, digest)
    return {
      Attestation: attestation,
      SignatureAlgorithm: algorithm,
      Signature: signature.toString('base64'),
      PublicKey: (await token.publicKey(auditKey.ckaId)).toString('base64'),
    }
  },
})

/**
 * The public half of the transport key of the region's token, for the ceremony that lets another token's keys come here (docs/replication.md).
 * The fingerprint is SHA-256 of the DER encoding, in hex, as OpenSSL and the officer's tool show it.
 */
export const GetTransportKey = operation({
  input: { Region: optional(string({ min: 1, max: 32, pattern: /^([a-z]+-){2,3}\d+$/ })) },
  output: ['PublicKey', 'Fingerprint', 'TokenLabel', 'TokenSerial'],
  resources: () => ['*'],
  readOnly: true,
  async run(call, { Region = call.region }) {
    requireHomeAccount(call)
    const { service } = call
    if (!service.config.regions.includes(Region)) throw kmsError('UnsupportedOperationException', `Region ${Region} is not served here.`)
    const token = service.tokenOf({ token: service.tokenName(Region) })
    const spki = await token.transportKey()
    if (!spki) throw kmsError('NotFoundException', `The token of ${Region} has no transport key: docs/replication.md says how to make it.`)
    const { label, serial } = token.info()
    const base64 = spki.toString('base64').replaceAll(/.{64}(?=.)/g, '$&\n')
    return {
      PublicKey: `-----BEGIN PUBLIC KEY-----\n${base64}\n-----END PUBLIC KEY-----\n`,
      Fingerprint: createHash('sha256').update(spki).digest('hex'),
      TokenLabel: label,
      TokenSerial: serial,
    }
  },
})
