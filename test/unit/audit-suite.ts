/** A trail to play with: records as the service writes them, a signing key without an HSM, and programs to be killed. */

import { execFileSync, spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { constants, generateKeyPairSync, privateEncrypt, randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ManualClock } from '../../src/base/clock.ts'
import { openTrail } from '../../src/audit/open.ts'
import type { TrailOptions } from '../../src/audit/open.ts'
import type { AuditRecord, Trail } from '../../src/audit/trail.ts'
import { builtProgram } from '../programs.ts'

export const accountId = '111122223333'
export const region = 'us-east-1'
export const startMs = Date.UTC(2026, 0, 1)

export interface TestSigner extends Pick<TrailOptions, 'sign' | 'publicKey'> {
  readonly pem: string
  /** How many signatures were made. */
  signatures(): number
}

const sha256Prefix = Buffer.from('3031300d060960864801650304020105000420', 'hex')

/** Signs digests as a token does: PKCS#1 v1.5 over a DigestInfo. */
export function makeSigner(): TestSigner {
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  let signatures = 0
  return {
    pem: publicKey.export({ type: 'spki', format: 'pem' }) as string,
    publicKey: async () => publicKey.export({ type: 'spki', format: 'der' }),
    sign: async (digest) => {
      signatures++
      const signature = privateEncrypt({ key: privateKey, padding: constants.RSA_PKCS1_PADDING }, Buffer.concat([sha256Prefix, digest]))
      return { algorithm: 'RSASSA_PKCS1_V1_5_SHA_256', signature }
    },
    signatures: () => signatures,
  }
}

export function sampleRecord(values: Record<string, unknown> = {}): AuditRecord {
  const arn = `arn:aws:kms:${region}:${accountId}:key/1234abcd-12ab-34cd-56ef-1234567890ab`
  return {
    eventVersion: '1.11',
    userIdentity: {
      type: 'IAMUser',
      principalId: 'AIDAEXAMPLEEXAMPLE123',
      arn: `arn:aws:iam::${accountId}:user/Alice`,
      accountId,
      accessKeyId: 'AKIAIOSFODNN7EXAMPLE',
      userName: 'Alice',
    },
    eventTime: new Date(startMs).toISOString().replace('.000Z', 'Z'),
    eventSource: 'kms.amazonaws.com',
    eventName: 'Decrypt',
    awsRegion: region,
    requestParameters: { keyId: arn, encryptionContext: { Abteilung: 'Prüfung ☃ 𝄞' } },
    responseElements: null,
    eventID: randomUUID(),
    readOnly: true,
    resources: [{ accountId, type: 'AWS::KMS::Key', ARN: arn }],
    recipientAccountId: accountId,
    ...values,
  }
}

export interface TestTrail {
  readonly directory: string
  readonly file: string
  readonly clock: ManualClock
  readonly signer: TestSigner
  open(options?: Partial<TrailOptions>): Promise<Trail>
  drop(): Promise<void>
}

export function makeTrail(signer: TestSigner): TestTrail {
  const directory = mkdtempSync(join(tmpdir(), 'holdfast-audit-'))
  const file = join(directory, 'audit.sqlite')
  const clock = new ManualClock(startMs)
  const opened: Trail[] = []
  return {
    directory,
    file,
    clock,
    signer,
    async open(options = {}) {
      const trail = await openTrail({ file, clock, sealEveryMs: 3_600_000, ...signer, ...options })
      opened.push(trail)
      return trail
    },
    async drop() {
      await Promise.all(opened.map((trail) => trail.close()))
      rmSync(directory, { recursive: true, maxRetries: 5 })
    },
  }
}

/** A second real process: `program` of this folder with arguments. */
export function startProgram(program: string, ...args: readonly string[]): ChildProcess {
  return spawn(process.execPath, [builtProgram(`test/unit/${program}`), ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
}

/** Reads lines of a program's output until `enough` says so, kills it without a warning, and answers the lines. */
export async function linesUntilKilled(child: ChildProcess, enough: (lines: readonly string[]) => boolean): Promise<readonly string[]> {
  const exited = new Promise((resolve) => child.once('exit', resolve))
  let text = ''
  for await (const chunk of child.stdout ?? []) {
    text += String(chunk)
    if (enough(text.split('\n').slice(0, -1))) child.kill('SIGKILL')
  }
  await exited
  return text.split('\n').slice(0, -1)
}

/** Whether a program is on this machine. */
export function installed(program: string, ...args: readonly string[]): boolean {
  try {
    execFileSync(program, args, { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}
