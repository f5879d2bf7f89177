/** Which operation is allowed on a key in which state: the whole table, held as docs/key-states.md. After a change on purpose: `vitest -u`. */

import { join } from 'node:path'
import { expect, test } from 'vitest'
import { apis } from '../../src/kms/operations/index.ts'
import { allowedStates, refusal, type KeyOperationName } from '../../src/kms/states.ts'
import type { KeyState } from '../../src/store/store.ts'

/** What a caller can meet; `Creating` looks like no key, `Destroying` like `PendingDeletion`. */
const shown = [
  'Enabled',
  'Disabled',
  'PendingDeletion',
  'PendingReplicaDeletion',
  'PendingImport',
  'Unavailable',
] as const satisfies readonly KeyState[]
const states = [...shown, 'Destroying', 'Creating'] as const
const names = Object.keys(allowedStates).sort() as KeyOperationName[]

const arn = 'arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab'

const isAllowed = (name: KeyOperationName, state: KeyState): boolean => (allowedStates[name] as readonly KeyState[]).includes(state)

/** `DisabledException: … is disabled.` */
function refusalText(name: KeyOperationName, state: KeyState): string {
  const { code, message } = refusal(arn, state, name)
  return `${code}: ${message.replace(arn, '…')}`
}

function tableOfStates(): string {
  const notes: string[] = []
  const cell = (name: KeyOperationName, state: KeyState): string => {
    if (isAllowed(name, state)) return 'yes'
    const text = refusalText(name, state)
    if (!notes.includes(text)) notes.push(text)
    return `${notes.indexOf(text) + 1}`
  }
  const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  const rows = names.map((name) => row([name, ...shown.map((state) => cell(name, state))]))
  return [
    '# Key states',
    '',
    'Which operation works on a key in which state, and what the others answer; `…` stands for the ARN of the key. The table is',
    'made from `src/kms/states.ts` by `test/unit/kms-states.test.ts`, which fails when this page says anything else.',
    '',
    row(['Operation', ...shown]),
    row(['---', ...shown.map(() => '---')]),
    ...rows,
    '',
    ...notes.map((text, index) => `${index + 1}. \`${text}\``),
    '',
    'An operation that is not here works on no key (`ListKeys`, `CreateKey`, `GenerateRandom`). `UpdateAlias` looks at the state of the key that',
    'the alias is to point to, and `DeleteAlias` and the key that an alias is taken from may be in any state.',
    '',
    'Two states are inside only. A key that is being created is not there for anybody until its object in the token was checked. A key whose',
    'destruction has begun is shown as `PendingDeletion`; it can no longer be cancelled.',
    '',
    '## How a key moves',
    '',
    '- `CreateKey`: Enabled; with `Origin` EXTERNAL PendingImport.',
    '- `DisableKey`: Enabled → Disabled. `EnableKey`: Disabled → Enabled. Both may be repeated.',
    '- `ScheduleKeyDeletion`: → PendingDeletion, for 7 to 30 days. `CancelKeyDeletion`: PendingDeletion → Disabled, or PendingImport',
    '  for a key that lacks imported material.',
    '- `ScheduleKeyDeletion` of a multi-Region primary that has replicas, whatever their state: → PendingReplicaDeletion. When the last of them is',
    '  gone, at the next round of the lifecycle job: → PendingDeletion; the waiting period begins then. `CancelKeyDeletion` as above.',
    '- `ReplicateKey`: the replica is Enabled, or PendingImport with `Origin` EXTERNAL, when the call returns. What the call answers says Creating,',
    '  as AWS does. `UpdatePrimaryRegion` is one write, so that no key is ever Updating.',
    '- The waiting period ends: the objects in the token are destroyed, then the key is gone.',
    '- The token, healthy and logged in, does not show the object of an Enabled key when it is used: → Unavailable. Nothing is deleted.',
    '  When the object is back: → Enabled, at the next round of the lifecycle job.',
    '- `ImportKeyMaterial`: PendingImport → Enabled, when all material that the key ever encrypted with is there. What was disabled while its',
    '  material was there stays so. Unavailable → Enabled, if it was this material that the token had lost.',
    '- `DeleteImportedKeyMaterial`, and material whose time is over: Enabled, Disabled, Unavailable → PendingImport. In PendingDeletion the state',
    '  stays. Material that waits for its rotation changes no state. Callers see it from the moment of expiry on; the lifecycle job destroys the objects',
    '  when it comes.',
    '',
  ].join('\n')
}

test('the page on key states says what the code does', async () => {
  await expect(tableOfStates()).toMatchFileSnapshot(join(import.meta.dirname, '../../docs/key-states.md'))
})

test('every operation that works on keys has a row, and every row an operation', () => {
  const rows = new Set<string>(names)
  const all = apis.flatMap((api) => [...api.operations.values()])
  const workers = all.filter((operation) => operation.worksOnKeys).map((operation) => operation.name)
  expect(workers.filter((name) => !rows.has(name))).toEqual([])
  expect(names.filter((name) => !all.some((operation) => operation.name === name))).toEqual([])
})

test('no operation works on a key that is being created', () => {
  for (const name of names) expect(isAllowed(name, 'Creating'), name).toBe(false)
})

test('a destruction that has begun cannot be cancelled, scheduled again or used', () => {
  for (const name of ['CancelKeyDeletion', 'ScheduleKeyDeletion', 'EnableKey', 'Encrypt', 'Decrypt', 'TagResource'] as const) {
    expect(isAllowed(name, 'Destroying'), name).toBe(false)
    expect(refusalText(name, 'Destroying')).toBe('KMSInvalidStateException: … is pending deletion.')
  }
})

test('what reads a key in PendingDeletion reads it while it is being destroyed', () => {
  for (const name of names) {
    // Neither reads.
    if (name === 'CancelKeyDeletion' || name === 'DeleteImportedKeyMaterial') continue
    expect(isAllowed(name, 'Destroying'), name).toBe(isAllowed(name, 'PendingDeletion'))
  }
})

test('key material works in the state Enabled alone', () => {
  const users = ['Encrypt', 'Decrypt', 'ReEncrypt', 'GenerateDataKey', 'GenerateDataKeyWithoutPlaintext'] as const
  for (const name of users) for (const state of states) expect(isAllowed(name, state), `${name} ${state}`).toBe(state === 'Enabled')
})
