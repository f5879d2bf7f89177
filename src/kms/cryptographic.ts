/**
 * AWS's cryptographic operations (developer guide, "Cryptographic operations"). Three rules ask for them: what a key's last use is, which
 * requests share a quota, and what is said of an ARN that is no key's.
 */

const pairs = ['GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext']
const others = [
  'Decapsulate',
  'Decrypt',
  'DeriveSharedSecret',
  'Encapsulate',
  'Encrypt',
  'GenerateDataKey',
  'GenerateDataKeyWithoutPlaintext',
  'GenerateMac',
  'ReEncrypt',
  'Sign',
  'Verify',
  'VerifyMac',
]

/** All that use a key. */
export const keyUses: ReadonlySet<string> = new Set([...others, ...pairs])

/** Those whose request quota is one for all keys of a type; data key pairs have one for each spec. */
export const sharingQuota: ReadonlySet<string> = new Set([...others, 'GenerateRandom'])
