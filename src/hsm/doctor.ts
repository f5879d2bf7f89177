/**
 * The administrator's view of a PKCS#11 library and of one of its tokens: what is there, what it can do, which kinds of
 * KMS key follow, what is missing and what that costs.
 *
 * `inspectModule` asks the library in a process of its own, so that a crash or a hang in it is a sentence here.
 * `diagnose` draws the conclusions from that and from the self-test that the agent ran; it is pure. `renderDoctor`
 * writes them as text; the report itself is the JSON form.
 */
import { fork } from 'node:child_process'
import { loaderFlags, programOf } from '../base/program.ts'
import { kindRows, type KmsKind } from './algorithms.ts'
import { CKM, nameOf } from './constants.ts'
import type { ProviderProfile } from './profile.ts'
import type { Capabilities, TokenInfo, WrapScheme } from './token.ts'

/** One mechanism as the token lists it. Sizes are in bits or bytes, as the mechanism has it. */
export interface MechanismReport {
  readonly number: number
  /** `CKM_AES_GCM`, or `CKM_0x80001087` for a number without a name. */
  readonly name: string
  readonly minKeySize: number
  readonly maxKeySize: number
  readonly flags: readonly string[]
}

export interface TokenReport {
  readonly label: string
  readonly manufacturer: string
  readonly model: string
  readonly serial: string
  readonly firmware: string
  readonly initialized: boolean
  readonly userPinSet: boolean
  readonly userPinLocked: boolean
  /** The next wrong PIN locks the token. */
  readonly userPinLastTry: boolean
  readonly userPinToBeChanged: boolean
  /** null where the token states no limit. */
  readonly maxSessions: number | null
  readonly pinLength: readonly [number, number]
}

export interface SlotReport {
  readonly id: string
  readonly description: string
  readonly hardware: boolean
  readonly token: TokenReport | undefined
  readonly mechanisms: readonly MechanismReport[]
  /** Why this slot could not be read. */
  readonly problem: string | undefined
}

export interface ModuleReport {
  readonly library: string
  readonly description: string
  readonly manufacturer: string
  readonly version: string
  readonly cryptoki: string
  readonly slots: readonly SlotReport[]
}

/** A library that could not be asked. The message says why and what to do. */
export class DoctorError extends Error {
  override readonly name = 'DoctorError'
}

/**
 * Loads the library in a child process and reads slots, tokens and mechanisms. Does not log in.
 *
 * @param request.env the environment of that process, whole; without it, this process's own
 * @throws DoctorError when the library cannot be loaded, crashes, or does not answer within `timeoutMs`
 */
export function inspectModule(request: {
  readonly library: string
  readonly env?: Readonly<Record<string, string | undefined>>
  readonly timeoutMs?: number
}): Promise<ModuleReport> {
  const { library, env, timeoutMs = 60_000 } = request
  return new Promise((resolve, reject) => {
    const child = fork(programOf(new URL('doctor-process.ts', import.meta.url)), [], {
      execArgv: [...loaderFlags],
      ...(env === undefined ? {} : { env }),
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    let answer: { readonly report?: ModuleReport; readonly problem?: string } | undefined
    let late = false
    const timer = setTimeout(() => {
      late = true
      child.kill('SIGKILL')
    }, timeoutMs)
    child.once('message', (message) => {
      answer = message as typeof answer
    })
    child.once('error', (error) => {
      clearTimeout(timer)
      reject(new DoctorError(`the process that asks ${library} could not be started: ${error.message}`, { cause: error }))
    })
    // 'close', not 'exit': the end of a process can be seen before the last message it sent has been read.
    child.once('close', (code, signal) => {
      clearTimeout(timer)
      if (answer?.report !== undefined) resolve(answer.report)
      else if (late) reject(new DoctorError(`${library} did not answer in ${timeoutMs} ms; is the device reachable?`))
      else if (answer?.problem !== undefined) reject(new DoctorError(`${library} cannot be used: ${answer.problem}`))
      else reject(new DoctorError(`${library} ended its process with ${signal ?? `exit code ${code}`}; report that to its vendor`))
    })
    child.send({ library }, () => {})
  })
}

/** Whether KMS keys of a spec and usage can be made on this token, and how that is known. */
export interface KeySpecReport {
  readonly spec: string
  readonly usage: string
  readonly supported: boolean
  readonly detail: string
}

/** `problem`: to be mended. `cost`: works, at a price or without a feature. `note`: good to know. */
export interface Finding {
  readonly level: 'problem' | 'cost' | 'note'
  readonly subject: string
  readonly text: string
}

export interface DoctorReport {
  readonly module: ModuleReport
  /** The token that was opened, undefined when none was. */
  readonly token: TokenInfo | undefined
  readonly profile: { readonly name: string; readonly product: string; readonly unverified: readonly string[] } | undefined
  readonly wrapScheme: WrapScheme | undefined
  readonly probes: Capabilities['probes']
  readonly keySpecs: readonly KeySpecReport[]
  readonly findings: readonly Finding[]
  /** No finding is a problem. */
  readonly healthy: boolean
}

/** The part of the self-test's outcome that conclusions are drawn from. */
type Proved = Pick<Capabilities, 'wrapScheme' | 'wrapSchemes' | 'keyKinds' | 'algorithms' | 'probes'>

/** What is known of the token once the agent has opened it. */
export interface OpenedToken {
  readonly info: TokenInfo
  readonly capabilities: Proved
  readonly profile: ProviderProfile
}

/** Every KeySpec of AWS KMS's CreateKey that no token kind serves, so that it can be listed too. */
const otherSpecs: readonly (readonly [spec: string, usage: string])[] = [
  ...['SIGN_VERIFY', 'ENCRYPT_DECRYPT', 'KEY_AGREEMENT'].map((usage) => ['SM2', usage] as const),
  ...['ML_DSA_44', 'ML_DSA_65', 'ML_DSA_87'].map((spec) => [spec, 'SIGN_VERIFY'] as const),
  ...['ML_KEM_512', 'ML_KEM_768', 'ML_KEM_1024'].map((spec) => [spec, 'ENCAPSULATE_DECAPSULATE'] as const),
]

/** What the choice of a scheme costs, beside the best one. Undefined: nothing. */
const schemeCosts: Readonly<Record<WrapScheme, string | undefined>> = {
  'gcm-iv-in': undefined,
  'gcm-iv-back': undefined,
  'gcm-iv-tail': undefined,
  'cbc-hmac':
    'The token has no usable AES-GCM. Each backing key takes two objects, each call two operations of the device, and the ' +
    'encryption context is bound by a fresh inner key in this service’s memory.',
  'rsa-oaep':
    'The token has no usable AES. Each Decrypt is an RSA operation of the device, far slower than AES, and the encryption ' +
    'context is bound by a fresh inner key in this service’s memory.',
}

const objectsPerKey = (scheme: WrapScheme): number => (scheme === 'cbc-hmac' || scheme === 'rsa-oaep' ? 2 : 1)

const count = (amount: number, noun: string): string => `${amount} ${noun}${amount === 1 ? '' : 's'}`

/** What the state of a token means for whoever wants to use it. */
function tokenFindings(token: TokenReport): readonly Finding[] {
  const found: Finding[] = []
  const add = (level: Finding['level'], text: string): number => found.push({ level, subject: `token "${token.label}"`, text })
  if (!token.userPinSet) add('problem', 'No user PIN is set: the security officer has to set one.')
  if (token.userPinLocked) add('problem', 'The user PIN is locked after too many wrong ones: the security officer has to set a new one.')
  else if (token.userPinLastTry) add('problem', 'One more wrong PIN locks the token. Check the PIN file before starting the service.')
  if (token.userPinToBeChanged) add('problem', 'The user PIN is still the one first given and must be changed before it can be used.')
  return found
}

/** Draws the conclusions. Without `opened`, from the library alone. */
export function diagnose(module: ModuleReport, opened?: OpenedToken): DoctorReport {
  const findings: Finding[] = []
  for (const slot of module.slots) {
    if (slot.problem !== undefined)
      findings.push({ level: 'problem', subject: `slot ${slot.id}`, text: `It cannot be read: ${slot.problem}.` })
  }
  if (opened === undefined) {
    const usable = module.slots.filter((slot) => slot.token?.initialized === true)
    if (usable.length === 0) findings.push({ level: 'problem', subject: 'tokens', text: 'No slot holds an initialized token.' })
    for (const slot of usable) if (slot.token !== undefined) findings.push(...tokenFindings(slot.token))
    findings.push({ level: 'note', subject: 'self-test', text: 'No token was opened, so that nothing is known of what they really do.' })
    return report(module, undefined, [], findings)
  }

  const { info, capabilities, profile } = opened
  const slot = module.slots.find(({ token }) => token?.label === info.label && token.serial === info.serial)
  if (slot?.token === undefined)
    findings.push({ level: 'problem', subject: `token "${info.label}"`, text: 'The library no longer shows it.' })
  else findings.push(...tokenFindings(slot.token))
  findings.push(...schemeFindings(capabilities, profile))
  if (slot !== undefined) findings.push(...featureFindings(slot.mechanisms, profile))

  const specs = describeSpecs(capabilities)
  findings.push(...specFindings(specs, capabilities))
  return report(module, opened, specs, findings)
}

function report(
  module: ModuleReport,
  opened: OpenedToken | undefined,
  keySpecs: readonly KeySpecReport[],
  findings: readonly Finding[],
): DoctorReport {
  const order = ['problem', 'cost', 'note']
  return {
    module,
    token: opened?.info,
    profile: opened && {
      name: opened.profile.name,
      product: opened.profile.product,
      unverified: [...opened.profile.reasons].filter(([, why]) => /\bunverified\b/i.test(why)).map(([field]) => field),
    },
    wrapScheme: opened?.capabilities.wrapScheme,
    probes: opened?.capabilities.probes ?? [],
    keySpecs,
    findings: [...findings].sort((a, b) => order.indexOf(a.level) - order.indexOf(b.level)),
    healthy: findings.every(({ level }) => level !== 'problem'),
  }
}

const kmsKinds = (Object.keys(kindRows) as KmsKind[]).filter((kind) => !kind.startsWith('import '))

function describeSpecs({ wrapScheme, keyKinds, probes }: Proved): readonly KeySpecReport[] {
  const symmetric = wrapScheme === undefined ? 'no wrap scheme passed the self-test' : `by ${wrapScheme}`
  return [
    { spec: 'SYMMETRIC_DEFAULT', usage: 'ENCRYPT_DECRYPT', supported: wrapScheme !== undefined, detail: symmetric },
    ...kmsKinds.map((kind) => {
      const [spec = '', usage = ''] = kind.split(' ')
      const detail = probes.find(({ name }) => name === kind)?.detail ?? 'the self-test did not try it'
      return { spec, usage, supported: keyKinds.includes(kind), detail }
    }),
    ...otherSpecs.map(([spec, usage]) => ({ spec, usage, supported: false, detail: 'this version of the service does not use it' })),
  ]
}

function specFindings(specs: readonly KeySpecReport[], { keyKinds, algorithms }: Proved): readonly Finding[] {
  const found: Finding[] = []
  const missing = (subject: string, text: string): number => found.push({ level: 'cost', subject, text })
  const lacking = specs.filter(({ supported }) => !supported).map(({ spec, usage }) => `${spec} for ${usage}`)
  if (lacking.length > 0) {
    missing('key specs', `CreateKey answers UnsupportedOperationException here for ${lacking.join(', ')}.`)
  }
  const unable = new Set(kmsKinds.filter((kind) => keyKinds.includes(kind)).flatMap((kind) => kindRows[kind].algorithms))
  for (const algorithm of algorithms) unable.delete(algorithm)
  if (unable.size > 0) {
    missing(
      'algorithms',
      `Keys can be made, but ${[...unable].join(', ')} ${unable.size === 1 ? 'is' : 'are'} answered UnsupportedOperationException here.`,
    )
  }
  return found
}

function schemeFindings(capabilities: Proved, profile: ProviderProfile): readonly Finding[] {
  const scheme = capabilities.wrapScheme
  if (scheme === undefined) {
    const text = 'No wrap scheme passed the self-test, so that no KMS key can be made. The self-test’s table says what each one lacked.'
    return [{ level: 'problem', subject: 'wrap scheme', text }]
  }
  const found: Finding[] = []
  if (profile.wrap !== 'probe' && profile.wrap !== scheme) {
    const text = `The profile expects ${profile.wrap}, which failed; new blobs get ${scheme}. Is the profile "${profile.name}" the right one, and the firmware recent?`
    found.push({ level: 'problem', subject: 'wrap scheme', text })
  }
  const cost = schemeCosts[scheme]
  if (cost !== undefined) found.push({ level: 'cost', subject: `wrap scheme ${scheme}`, text: cost })
  if (profile.limits.objects !== null) {
    const keys = Math.floor(profile.limits.objects / objectsPerKey(scheme))
    const text = `The product holds ${count(profile.limits.objects, 'object')}, enough for about ${count(keys, 'backing key')}; each rotation makes one more.`
    found.push({ level: 'note', subject: 'capacity', text })
  }
  return found
}

/** What KMS features the mechanisms that are missing would have carried. */
function featureFindings(mechanisms: readonly MechanismReport[], profile: ProviderProfile): readonly Finding[] {
  const has = (mechanism: number): boolean => mechanisms.some(({ number }) => number === mechanism)
  const found: Finding[] = []
  const missing = (subject: string, text: string): number => found.push({ level: 'cost', subject, text })

  if (profile.kwp === null || !has(profile.kwp)) {
    missing(
      'AES key wrap with padding',
      `${profile.kwp === null ? 'The product has none' : `The token lists no ${nameOf('CKM', profile.kwp)}`}: ` +
        'ImportKeyMaterial by RSA_AES_KEY_WRAP_SHA_1 and _SHA_256 cannot be unwrapped in the device.',
    )
  }
  if (!has(CKM.CKM_RSA_PKCS_OAEP)) {
    missing('RSA-OAEP', 'The token lists no CKM_RSA_PKCS_OAEP: neither RSA keys for encryption nor ImportKeyMaterial are possible.')
  } else if (!profile.oaepHashes.includes('sha256')) {
    missing(
      'RSA-OAEP with SHA-256',
      profile.rawFallback
        ? 'The device does OAEP only with SHA-1; for RSAES_OAEP_SHA_256 it does raw RSA and the padding is taken off in this service’s memory.'
        : 'RSAES_OAEP_SHA_256 is not possible, for imports either.',
    )
  }
  if (!profile.ecdhRawZ || !has(CKM.CKM_ECDH1_DERIVE)) {
    missing('ECDH', 'The device gives no raw shared secret: DeriveSharedSecret, and keys of usage KEY_AGREEMENT, are not possible.')
  }
  return found
}

/** Columns as wide as their widest cell. */
function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)))
  const line = (cells: readonly string[]): string =>
    `  ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ')}`.trimEnd()
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n')
}

/** Breaks a sentence into lines, each after the first indented. */
function paragraph(text: string, indent: string, width = 100): string {
  const lines = ['']
  for (const word of text.split(' ')) {
    const last = lines.at(-1) ?? ''
    if (last !== '' && indent.length + last.length + 1 + word.length > width) lines.push(word)
    else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`
  }
  return lines.join(`\n${indent}`)
}

/** `16-32`, `2048`, or nothing where the token states no size. */
function sizes({ minKeySize, maxKeySize }: MechanismReport): string {
  if (maxKeySize === 0) return ''
  return minKeySize === maxKeySize ? String(maxKeySize) : `${minKeySize}-${maxKeySize}`
}

function slotRow(slot: SlotReport): readonly string[] {
  const { token } = slot
  if (token === undefined) return [slot.id, slot.problem ?? '(empty)', '', '', '', '']
  if (!token.initialized) return [slot.id, '(not initialized)', '', token.manufacturer, token.model, token.firmware]
  return [slot.id, token.label, token.serial, token.manufacturer, token.model, token.firmware]
}

/** The report as text for a terminal, ending with a line break. */
export function renderDoctor(report: DoctorReport): string {
  const { module, token, profile } = report
  const sections = [
    `Library ${module.library}\n  ${[module.description, module.manufacturer, `version ${module.version}`, `PKCS#11 ${module.cryptoki}`].filter((part) => part !== '').join(', ')}`,
    `Slots\n${table(['slot', 'token', 'serial', 'manufacturer', 'model', 'firmware'], module.slots.map(slotRow))}`,
  ]
  if (token !== undefined) {
    const slot = module.slots.find(({ token: shown }) => shown?.label === token.label && shown.serial === token.serial)
    if (profile !== undefined) {
      const unverified =
        profile.unverified.length === 0 ? '' : `\n  not verified on hardware: ${paragraph(profile.unverified.join(', '), '    ')}`
      sections.push(`Profile ${profile.name} (${profile.product})${unverified}`)
    }
    if (slot !== undefined) {
      const rows = slot.mechanisms.map((mechanism) => [mechanism.name, sizes(mechanism), mechanism.flags.join(' ')])
      sections.push(
        `Mechanisms of "${token.label}" (listed by the token; sizes in bits or bytes)\n${table(['mechanism', 'key size', 'for'], rows)}`,
      )
    }
    const probeRows = report.probes.map(({ name, passed, detail }) => [name, passed ? 'passed' : 'no', detail])
    sections.push(`Self-test (done by the token with throw-away keys)\n${table(['ability', 'outcome', 'detail'], probeRows)}`)
    const specRows = report.keySpecs.map(({ spec, usage, supported, detail }) => [spec, usage, supported ? 'yes' : 'no', detail])
    sections.push(`KMS keys that this token can serve\n${table(['key spec', 'usage', 'here', 'detail'], specRows)}`)
  }
  const words = { problem: 'PROBLEM', cost: 'missing', note: 'note' } as const
  const findings = report.findings.map(({ level, subject, text }) => `  ${words[level]}: ${subject}\n    ${paragraph(text, '    ')}`)
  sections.push(findings.length === 0 ? 'Nothing is missing.' : `What that means\n${findings.join('\n')}`)
  if (token !== undefined) sections.push(report.healthy ? 'This token can be used.' : 'This token has problems, see above.')
  return `${sections.join('\n\n')}\n`
}
