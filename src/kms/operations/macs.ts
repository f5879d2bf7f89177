/** HMAC keys: both directions are made in the token. */

import { timingSafeEqual } from 'node:crypto'
import type { MacAlgorithm } from '../../hsm/token.ts'
import type { KeyRecord } from '../../store/store.ts'
import { kmsError } from '../errors.ts'
import { keyFrom } from '../keys.ts'
import { withMaterial } from '../material.ts'
import { dryRunSucceeded, operation, type Call } from '../operation.ts'
import { blob, keyId, oneOf, type Input, type Shape } from '../shape.ts'
import { checkAlgorithm, macAlgorithms } from '../specs.ts'
import { dryRun, grantTokens } from './members.ts'

const macInput = {
  Message: blob({ min: 1, max: 4096 }),
  KeyId: keyId,
  MacAlgorithm: oneOf(...macAlgorithms),
  GrantTokens: grantTokens,
  DryRun: dryRun,
} as const satisfies Shape

const macKey = keyFrom('KeyId', { alias: true, crossAccount: true, usage: 'GENERATE_VERIFY_MAC' })

function check(key: KeyRecord, input: Input<typeof macInput>): MacAlgorithm {
  checkAlgorithm(key, input.MacAlgorithm)
  return input.MacAlgorithm
}

const macOf = ({ service }: Call, key: KeyRecord, algorithm: MacAlgorithm, message: Buffer): Promise<Buffer> =>
  withMaterial(service, key, (token, ckaId) => token.mac(ckaId, algorithm, message))

export const GenerateMac = operation({
  input: macInput,
  output: ['Mac', 'MacAlgorithm', 'KeyId'],
  keys: { key: macKey },
  readOnly: true,
  dryRunInside: true,
  async run(call, input, { key }) {
    const algorithm = check(key, input)
    if (input.DryRun) throw dryRunSucceeded()
    const mac = await macOf(call, key, algorithm, input.Message)
    return { Mac: mac.toString('base64'), MacAlgorithm: algorithm, KeyId: key.arn }
  },
})

export const VerifyMac = operation({
  input: { ...macInput, Mac: blob({ min: 1, max: 6144 }) },
  output: ['KeyId', 'MacValid', 'MacAlgorithm'],
  keys: { key: macKey },
  readOnly: true,
  dryRunInside: true,
  async run(call, input, { key }) {
    const algorithm = check(key, input)
    const mac = await macOf(call, key, algorithm, input.Message)
    const good = mac.length === input.Mac.length && timingSafeEqual(mac, input.Mac)
    mac.fill(0)
    if (!good) throw kmsError('KMSInvalidMacException')
    if (input.DryRun) throw dryRunSucceeded()
    return { KeyId: key.arn, MacValid: true, MacAlgorithm: algorithm }
  },
})
