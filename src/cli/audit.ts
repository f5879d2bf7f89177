/**
 * `holdfast audit …`: the trail read from its file, with the service running or not, or from an export of it. Needs no
 * credentials: whoever may read the file may.
 */

import { createReadStream, existsSync, readFileSync } from 'node:fs'
import type { TrailVerdict } from '../audit/verify.ts'
import { CommandFailure, exitCodes, UsageError, type Arguments, type Command } from './command.ts'

const file = { value: 'FILE', about: 'Another trail than that of the data directory.' }

function trailFile(args: Arguments, ofDataDir: () => string): string {
  const path = args.flags['file']?.[0] ?? ofDataDir()
  if (!existsSync(path)) throw new CommandFailure(`There is no audit trail at ${path}.`)
  return path
}

function readGiven(args: Arguments, flag: string): string | undefined {
  const path = args.flags[flag]?.[0]
  if (path === undefined) return undefined
  try {
    return readFileSync(path, 'utf8')
  } catch (cause) {
    throw new UsageError(`--${flag} names ${path}, which cannot be read.`, { cause })
  }
}

function time(args: Arguments, flag: string): number | undefined {
  const text = args.flags[flag]?.[0]
  if (text === undefined) return undefined
  const ms = Date.parse(text)
  if (Number.isNaN(ms)) throw new UsageError(`--${flag} must be a time such as 2031-05-01T12:00:00Z; it is ${JSON.stringify(text)}.`)
  return ms
}

const verify: Command = {
  name: 'audit verify',
  summary: 'Checks the whole audit trail: the chain of hashes and the seals made in the HSM. Exit code 1 if anything is wrong.',
  detail:
    'Says where a record was changed, removed, added or moved. Whoever can write the file and sign with another key could make a\n' +
    'trail that looks whole: keep the public key and the newest seal (audit seal) elsewhere and hand them in.',
  positionals: [{ name: 'EXPORT', optional: true }],
  flags: {
    file,
    'public-key': { value: 'PEM-FILE', about: "The audit key's public half, from a source other than the trail." },
    'expected-seal': { value: 'FILE', about: 'A seal of this trail that was kept elsewhere (audit seal).' },
    json: { about: 'Prints JSON.' },
  },
  async run(args, wiring) {
    const { verifyExport, verifyTrail } = await import('../audit/verify.ts')
    const { parseSeal } = await import('../audit/export.ts')
    const publicKeyPem = readGiven(args, 'public-key')
    const seal = readGiven(args, 'expected-seal')?.trimEnd()
    const options = { ...(publicKeyPem !== undefined && { publicKeyPem }), ...(seal !== undefined && { expectedSeal: parseSeal(seal) }) }
    const exported = args.positionals['EXPORT']
    const verdict =
      exported === undefined
        ? await verifyTrail(trailFile(args, wiring.auditTrail), options)
        : await verifyExport(createReadStream(exported, 'utf8') as AsyncIterable<string>, options)
    await wiring.print(args.flags['json'] ? `${JSON.stringify(verdict, encodeBytes, 2)}\n` : describe(verdict))
    return verdict.problems.length === 0 ? exitCodes.done : exitCodes.failed
  },
}

/** Hashes and signatures as hex. */
function encodeBytes(_name: string, value: unknown): unknown {
  const bytes = value as { readonly type?: unknown; readonly data?: unknown } | null
  // Buffer.toJSON has run before the replacer sees the value.
  return typeof bytes === 'object' && bytes?.type === 'Buffer' && Array.isArray(bytes.data)
    ? Buffer.from(bytes.data as number[]).toString('hex')
    : value
}

function describe(verdict: TrailVerdict): string {
  const { records, firstSequence, lastSequence, prunedSequence, seals, sealedSequence, keys, problems } = verdict
  const lines = [
    `Audit trail ${verdict.trailId}`,
    records === 0
      ? 'It has no records.'
      : `${records} records, ${firstSequence} to ${lastSequence}; ${seals} seals, sealed up to record ${sealedSequence}.`,
    ...(prunedSequence > 0 ? [`Records up to ${prunedSequence} were removed on purpose, as a signed statement says.`] : []),
    ...keys.map(({ keyId, given }) => `Signed by the audit key ${keyId}${given ? ', as handed in.' : ', as the trail itself says.'}`),
    ...problems.map(({ sequence, what }) => `PROBLEM at record ${sequence}: ${what}`),
    problems.length === 0 ? 'The trail is intact.' : 'THE TRAIL IS NOT INTACT.',
  ]
  return `${lines.join('\n')}\n`
}

const exportRecords: Command = {
  name: 'audit export',
  summary: 'Prints audit records with the hashes and seals that prove them, oldest first, one JSON object a line.',
  flags: {
    from: { value: 'TIME', about: 'From the first record at or after this time (ISO 8601).' },
    to: { value: 'TIME', about: 'To the last record at or before this time.' },
    file,
  },
  async run(args, wiring) {
    const [fromMs, toMs] = [time(args, 'from'), time(args, 'to')]
    const { exportTrail } = await import('../audit/export.ts')
    const range = { ...(fromMs !== undefined && { fromMs }), ...(toMs !== undefined && { toMs }) }
    for await (const line of exportTrail(trailFile(args, wiring.auditTrail), range)) await wiring.print(line)
    return exitCodes.done
  },
}

const seal: Command = {
  name: 'audit seal',
  summary: 'Prints the newest seal, to be kept where nobody who can write the trail can change it.',
  flags: { file },
  async run(args, wiring) {
    const { encodeSeal, findLastSeal } = await import('../audit/export.ts')
    const last = findLastSeal(trailFile(args, wiring.auditTrail))
    if (!last) throw new CommandFailure('The trail has no seal yet: seals are made every minute while the service runs.')
    await wiring.print(encodeSeal(last))
    return exitCodes.done
  },
}

export const auditCommands: readonly Command[] = [verify, exportRecords, seal]
