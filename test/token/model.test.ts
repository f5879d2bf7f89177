/**
 * Random sequences of calls on a few keys, held against a small model of AWS's rules: what each call answers, and what a key looks like after it.
 * The seed is printed; HOLDFAST_MODEL_SEED repeats a run, HOLDFAST_MODEL_RUNS makes it longer.
 */

import { randomInt } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openInProcess, rawCall, type InProcess } from './holdfast.ts'

const seed = Number(process.env['HOLDFAST_MODEL_SEED'] ?? randomInt(2 ** 31))
const numRuns = Number(process.env['HOLDFAST_MODEL_RUNS'] ?? 15)
console.log(`model: HOLDFAST_MODEL_SEED=${seed}`)

const dayMs = 86_400_000

interface ModelKey {
  readonly id: string
  state: 'Enabled' | 'Disabled' | 'PendingDeletion' | 'gone'
  deletionAt: number | undefined
  /** When the next automatic rotation is due, while it is on. */
  nextRotationAt: number | undefined
  periodDays: number
  materials: number
}

interface Blob {
  readonly key: ModelKey
  readonly ciphertext: string
  readonly plaintext: string
}

interface Model {
  nowMs: number
  readonly keys: ModelKey[]
  readonly blobs: Blob[]
  readonly aliases: Map<string, ModelKey>
}

let holdfast: InProcess

beforeAll(async () => {
  holdfast = await openInProcess({ regions: ['us-east-1'] })
})
afterAll(async () => {
  await holdfast.close()
})

type Answer = Readonly<Record<string, unknown>>

/** Makes the call and holds its outcome against what the model expects: undefined for success, else the error's type. */
async function call(operation: string, input: object, expected: string | undefined): Promise<Answer> {
  const { json } = await rawCall(holdfast, 'kms', operation, input, { nowMs: holdfast.clock.now() })
  expect([operation, input, json['__type']]).toEqual([operation, input, expected])
  return json
}

function expectValue(value: unknown, expected: unknown): void {
  expect(value).toBe(expected)
}

const stateErrors = {
  Enabled: undefined,
  Disabled: 'DisabledException',
  PendingDeletion: 'KMSInvalidStateException',
  gone: 'NotFoundException',
} as const

/** What an operation answers on a key that must be in one of these states. */
function outcome(key: ModelKey, allowed: readonly ModelKey['state'][]): string | undefined {
  if (allowed.includes(key.state)) return undefined
  return key.state === 'Enabled' ? 'KMSInvalidStateException' : stateErrors[key.state]
}

const anyState = ['Enabled', 'Disabled', 'PendingDeletion'] as const

abstract class OnKey implements fc.AsyncCommand<Model, InProcess> {
  readonly #pick: number
  constructor(pick: number) {
    this.#pick = pick
  }
  check = (model: Readonly<Model>): boolean => model.keys.length > 0
  async run(model: Model): Promise<void> {
    const key = model.keys[this.#pick % model.keys.length] as ModelKey
    await this.act(key, model)
    await compare(key, model)
  }
  abstract act(key: ModelKey, model: Model): Promise<void>
  toString(): string {
    return `${this.constructor.name}(${this.#pick})`
  }
}

/** What a key looks like from outside. */
async function compare(key: ModelKey, model: Model): Promise<void> {
  const shown = await call('DescribeKey', { KeyId: key.id }, outcome(key, anyState))
  if (key.state === 'gone') return
  const metadata = shown['KeyMetadata'] as Answer
  expect(metadata).toMatchObject({ KeyState: key.state, Enabled: key.state === 'Enabled' })
  expect(metadata['DeletionDate']).toBe(key.deletionAt === undefined ? undefined : key.deletionAt / 1000)
  const rotation = await call('GetKeyRotationStatus', { KeyId: key.id }, undefined)
  const isShownOn = key.nextRotationAt !== undefined && key.state !== 'PendingDeletion'
  expect(rotation['KeyRotationEnabled']).toBe(isShownOn)
  if (isShownOn)
    expect(rotation).toMatchObject({ RotationPeriodInDays: key.periodDays, NextRotationDate: (key.nextRotationAt ?? 0) / 1000 })
  const { Rotations } = await call('ListKeyRotations', { KeyId: key.id, IncludeKeyMaterial: 'ALL_KEY_MATERIAL' }, undefined)
  expect(Rotations).toHaveLength(key.materials)
  const { Aliases } = await call('ListAliases', { KeyId: key.id }, undefined)
  const names = [...model.aliases].filter(([, target]) => target === key).map(([name]) => name)
  expect((Aliases as readonly Answer[]).map((alias) => alias['AliasName'])).toEqual(names.toSorted())
}

class CreateKey implements fc.AsyncCommand<Model, InProcess> {
  check = (model: Readonly<Model>): boolean => model.keys.length < 4
  async run(model: Model): Promise<void> {
    const { KeyMetadata } = await call('CreateKey', {}, undefined)
    const id = (KeyMetadata as Answer)['KeyId'] as string
    const key: ModelKey = { id, state: 'Enabled', deletionAt: undefined, nextRotationAt: undefined, periodDays: 365, materials: 1 }
    model.keys.push(key)
    await compare(key, model)
  }
  toString = (): string => 'CreateKey'
}

class SetEnabled extends OnKey {
  readonly #enabled: boolean
  constructor(pick: number, enabled: boolean) {
    super(pick)
    this.#enabled = enabled
  }
  async act(key: ModelKey): Promise<void> {
    const expected = outcome(key, ['Enabled', 'Disabled'])
    await call(this.#enabled ? 'EnableKey' : 'DisableKey', { KeyId: key.id }, expected)
    if (expected === undefined) key.state = this.#enabled ? 'Enabled' : 'Disabled'
  }
  override toString = (): string => (this.#enabled ? 'EnableKey' : 'DisableKey')
}

class ScheduleKeyDeletion extends OnKey {
  readonly #days: number
  constructor(pick: number, days: number) {
    super(pick)
    this.#days = days
  }
  async act(key: ModelKey, model: Model): Promise<void> {
    const expected = outcome(key, ['Enabled', 'Disabled'])
    await call('ScheduleKeyDeletion', { KeyId: key.id, PendingWindowInDays: this.#days }, expected)
    if (expected !== undefined) return
    key.state = 'PendingDeletion'
    key.deletionAt = model.nowMs + this.#days * dayMs
  }
}

class CancelKeyDeletion extends OnKey {
  async act(key: ModelKey): Promise<void> {
    const expected = key.state === 'gone' ? 'NotFoundException' : key.state === 'PendingDeletion' ? undefined : 'KMSInvalidStateException'
    await call('CancelKeyDeletion', { KeyId: key.id }, expected)
    if (expected !== undefined) return
    key.state = 'Disabled'
    key.deletionAt = undefined
  }
}

class Encrypt extends OnKey {
  async act(key: ModelKey, model: Model): Promise<void> {
    const plaintext = Buffer.from(`${model.blobs.length}`).toString('base64')
    const { CiphertextBlob } = await call('Encrypt', { KeyId: key.id, Plaintext: plaintext }, outcome(key, ['Enabled']))
    if (typeof CiphertextBlob === 'string') model.blobs.push({ key, ciphertext: CiphertextBlob, plaintext })
  }
}

class Decrypt implements fc.AsyncCommand<Model, InProcess> {
  readonly #pick: number
  constructor(pick: number) {
    this.#pick = pick
  }
  check = (model: Readonly<Model>): boolean => model.blobs.length > 0
  async run(model: Model): Promise<void> {
    const { key, ciphertext, plaintext } = model.blobs[this.#pick % model.blobs.length] as Blob
    // Of a key that is gone nobody is told more than that.
    const expected = key.state === 'gone' ? 'AccessDeniedException' : outcome(key, ['Enabled'])
    const { Plaintext } = await call('Decrypt', { CiphertextBlob: ciphertext }, expected)
    expectValue(Plaintext, expected === undefined ? plaintext : undefined)
  }
  toString = (): string => `Decrypt(${this.#pick})`
}

class EnableKeyRotation extends OnKey {
  readonly #days: number
  constructor(pick: number, days: number) {
    super(pick)
    this.#days = days
  }
  async act(key: ModelKey, model: Model): Promise<void> {
    const expected = outcome(key, ['Enabled'])
    await call('EnableKeyRotation', { KeyId: key.id, RotationPeriodInDays: this.#days }, expected)
    if (expected !== undefined) return
    if (key.nextRotationAt === undefined || key.periodDays !== this.#days) key.nextRotationAt = model.nowMs + this.#days * dayMs
    key.periodDays = this.#days
  }
}

class DisableKeyRotation extends OnKey {
  async act(key: ModelKey): Promise<void> {
    const expected = outcome(key, ['Enabled'])
    await call('DisableKeyRotation', { KeyId: key.id }, expected)
    if (expected === undefined) key.nextRotationAt = undefined
  }
}

class RotateKeyOnDemand extends OnKey {
  async act(key: ModelKey): Promise<void> {
    const expected = outcome(key, ['Enabled'])
    await call('RotateKeyOnDemand', { KeyId: key.id }, expected)
    if (expected === undefined) key.materials += 1
  }
}

const aliasName = (n: number): string => `alias/model-${n}`

class CreateAlias extends OnKey {
  readonly #name: string
  constructor(pick: number, n: number) {
    super(pick)
    this.#name = aliasName(n)
  }
  async act(key: ModelKey, model: Model): Promise<void> {
    const exists = model.aliases.has(this.#name) ? 'AlreadyExistsException' : undefined
    const expected = outcome(key, ['Enabled', 'Disabled']) ?? exists
    await call('CreateAlias', { AliasName: this.#name, TargetKeyId: key.id }, expected)
    if (expected === undefined) model.aliases.set(this.#name, key)
  }
}

class DeleteAlias implements fc.AsyncCommand<Model, InProcess> {
  readonly #name: string
  constructor(n: number) {
    this.#name = aliasName(n)
  }
  check = (): boolean => true
  async run(model: Model): Promise<void> {
    await call('DeleteAlias', { AliasName: this.#name }, model.aliases.has(this.#name) ? undefined : 'NotFoundException')
    model.aliases.delete(this.#name)
  }
  toString = (): string => `DeleteAlias(${this.#name})`
}

class DescribeByAlias implements fc.AsyncCommand<Model, InProcess> {
  readonly #name: string
  constructor(n: number) {
    this.#name = aliasName(n)
  }
  check = (): boolean => true
  async run(model: Model): Promise<void> {
    const key = model.aliases.get(this.#name)
    const { KeyMetadata } = await call('DescribeKey', { KeyId: this.#name }, key ? undefined : 'NotFoundException')
    expectValue((KeyMetadata as Answer | undefined)?.['KeyId'], key?.id)
  }
  toString = (): string => `DescribeByAlias(${this.#name})`
}

/** Time passes, and the service looks for what is due. */
class Wait implements fc.AsyncCommand<Model, InProcess> {
  readonly #days: number
  constructor(days: number) {
    this.#days = days
  }
  check = (model: Readonly<Model>): boolean => model.keys.length > 0
  async run(model: Model): Promise<void> {
    holdfast.clock.advance(this.#days * dayMs)
    model.nowMs = holdfast.clock.now()
    await holdfast.service.runLifecycle()
    for (const key of model.keys) {
      if (key.state === 'PendingDeletion' && (key.deletionAt ?? Infinity) <= model.nowMs) {
        key.state = 'gone'
        for (const [name, target] of model.aliases) if (target === key) model.aliases.delete(name)
      }
      if (key.state === 'Enabled' && key.nextRotationAt !== undefined && key.nextRotationAt <= model.nowMs) {
        key.materials += 1
        // A day late is on time; after a longer wait (the key was disabled) the period begins again.
        const from = model.nowMs - key.nextRotationAt < dayMs ? key.nextRotationAt : model.nowMs
        key.nextRotationAt = from + key.periodDays * dayMs
      }
    }
    for (const key of model.keys) await compare(key, model)
  }
  toString = (): string => `Wait(${this.#days} days)`
}

const pick = fc.nat({ max: 7 })
const alias = fc.nat({ max: 2 })
const commands = [
  fc.constant(new CreateKey()),
  fc.tuple(pick, fc.boolean()).map(([key, enabled]) => new SetEnabled(key, enabled)),
  fc.tuple(pick, fc.integer({ min: 7, max: 30 })).map(([key, days]) => new ScheduleKeyDeletion(key, days)),
  pick.map((key) => new CancelKeyDeletion(key)),
  pick.map((key) => new Encrypt(key)),
  pick.map((blob) => new Decrypt(blob)),
  fc.tuple(pick, fc.constantFrom(90, 100, 365)).map(([key, days]) => new EnableKeyRotation(key, days)),
  pick.map((key) => new DisableKeyRotation(key)),
  pick.map((key) => new RotateKeyOnDemand(key)),
  fc.tuple(pick, alias).map(([key, n]) => new CreateAlias(key, n)),
  alias.map((n) => new DeleteAlias(n)),
  alias.map((n) => new DescribeByAlias(n)),
  fc.constantFrom(1, 8, 31, 91).map((days) => new Wait(days)),
]

async function expectTheRules(sequence: Iterable<fc.AsyncCommand<Model, InProcess>>): Promise<void> {
  const model: Model = { nowMs: holdfast.clock.now(), keys: [], blobs: [], aliases: new Map() }
  const setup = () => ({ model, real: holdfast })
  try {
    await new CreateKey().run(model)
    await fc.asyncModelRun(setup, sequence)
  } finally {
    // The next sequence begins without these names, and no round has to rotate what nobody looks at any more.
    for (const name of model.aliases.keys()) await call('DeleteAlias', { AliasName: name }, undefined)
    for (const key of model.keys) {
      if (key.state === 'Enabled') await call('DisableKeyRotation', { KeyId: key.id }, undefined)
    }
  }
}

test('whatever is done to keys in whatever order, they answer as the rules say', async () => {
  await fc.assert(
    fc.asyncProperty(fc.commands([...commands], { maxCommands: 40, size: '+1' }), async (sequence) => {
      await expectTheRules(sequence)
    }),
    { seed, numRuns, endOnFailure: true },
  )
}, 120_000)
