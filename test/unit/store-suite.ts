/** What every back end of the store must do. A back end is one entry of `backEnds`; each test file runs for each. */

import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ManualClock } from '../../src/base/clock.ts'
import { openStore } from '../../src/store/open.ts'
import type {
  AccessKeyRecord,
  AliasRecord,
  BackingKeyRecord,
  ImportObject,
  KeyRecord,
  KeyStoreRecord,
  PrincipalRecord,
  Store,
  XksStoreRecord,
} from '../../src/store/store.ts'

/** One empty database, opened as often as a test likes: each opening is what another process would see. */
export interface TestDatabase {
  open(options?: { readonly keptChanges?: number; readonly pollMs?: number }): Promise<Store>
  /** Closes what is open and removes everything. */
  drop(): Promise<void>
}

export const backEnds: readonly { readonly name: string; readonly make: () => TestDatabase }[] = [{ name: 'SQLite', make: makeSqlite }]

export const clock = new ManualClock(Date.UTC(2026, 0, 1))

function makeSqlite(): TestDatabase {
  const directory = mkdtempSync(join(tmpdir(), 'holdfast-store-'))
  const opened: Store[] = []
  return {
    async open(options = {}) {
      const store = await openStore({ file: join(directory, 'store.sqlite'), clock, pollMs: 20, ...options })
      opened.push(store)
      return store
    },
    async drop() {
      await Promise.all(opened.map((store) => store.close()))
      rmSync(directory, { recursive: true, maxRetries: 5 })
    },
  }
}

export const accountId = '111122223333'
export const region = 'us-east-1'

export function sampleKeyStore(values: Partial<KeyStoreRecord> = {}): KeyStoreRecord {
  const id = `cks-${randomUUID().replaceAll('-', '').slice(0, 17)}`
  return {
    id,
    accountId,
    region,
    name: id,
    createdAt: clock.now(),
    state: 'DISCONNECTED',
    errorCode: null,
    connection: null,
    holder: null,
    backing: { type: 'AWS_CLOUDHSM', clusterId: `cluster-${id}`, trustAnchor: 'pem', passwordRefused: false },
    sealedSecret: new Uint8Array([1, 2, 3]),
    version: 1,
    ...values,
  }
}

export function sampleXksStore(values: Partial<XksStoreRecord> = {}): XksStoreRecord {
  return {
    prefix: `/${randomUUID()}`,
    accountId,
    createdAt: clock.now(),
    enabled: true,
    regions: ['eu-west-1'],
    requestRate: 1800,
    policy: null,
    policyMode: 'ENFORCE',
    credentials: [{ accessKeyId: 'A'.repeat(20), sealedSecret: Buffer.from([1, 2, 3]), createdAt: 5 }],
    version: 1,
    ...values,
  }
}

export function sampleKey(values: Partial<KeyRecord> = {}): KeyRecord {
  const keyId = values.keyId ?? randomUUID()
  return {
    arn: `arn:aws:kms:${values.region ?? region}:${accountId}:key/${keyId}`,
    region,
    accountId,
    keyId,
    state: 'Enabled',
    spec: 'SYMMETRIC_DEFAULT',
    usage: 'ENCRYPT_DECRYPT',
    origin: 'AWS_KMS',
    customKeyStoreId: null,
    xksKeyId: null,
    description: '',
    multiRegion: false,
    primaryRegion: null,
    token: 'default',
    createdAt: clock.now(),
    deletionAt: null,
    deletionWindowDays: null,
    policy: '{}',
    tags: [],
    materialId: null,
    creator: null,
    rotationPeriodDays: null,
    nextRotationAt: null,
    managedBy: null,
    version: 1,
    ...values,
  }
}

export function sampleBackingKey(key: KeyRecord, values: Partial<BackingKeyRecord> = {}): BackingKeyRecord {
  const ordinal = values.ordinal ?? 1
  return {
    materialId: randomUUID().replaceAll('-', '').repeat(2),
    keyArn: key.arn,
    ckaId: randomUUID().replaceAll('-', ''),
    label: `kms/${key.keyId}/${ordinal}`,
    ordinal,
    state: 'creating',
    createdAt: clock.now(),
    encryptionsReserved: 0,
    validTo: null,
    description: null,
    rotationType: null,
    rotatedAt: null,
    rotationRecorded: false,
    creator: null,
    ...values,
  }
}

export function sampleImportObject(key: KeyRecord, values: Partial<ImportObject> = {}): ImportObject {
  return {
    ckaId: randomUUID().replaceAll('-', ''),
    label: 'import/x',
    keyArn: key.arn,
    accountId: key.accountId,
    token: 'default',
    kind: 'material',
    createdAt: clock.now(),
    dueAt: clock.now(),
    creator: null,
    ...values,
  }
}

export function sampleAlias(key: KeyRecord, name: string): AliasRecord {
  return {
    arn: `arn:aws:kms:${key.region}:${accountId}:alias/${name}`,
    region: key.region,
    accountId,
    name: `alias/${name}`,
    targetKeyArn: key.arn,
    createdAt: clock.now(),
    updatedAt: clock.now(),
  }
}

export function samplePrincipal(name: string, values: Partial<PrincipalRecord> = {}): PrincipalRecord {
  const { kind = 'user', path = '/' } = values
  return {
    arn: `arn:aws:iam::${accountId}:${kind}${path}${name}`,
    kind,
    accountId,
    name,
    path,
    uniqueId: `${kind === 'user' ? 'AIDA' : 'AROA'}${randomUUID().replaceAll('-', '').slice(0, 17).toUpperCase()}`,
    tags: [],
    policies: {},
    trustPolicy: kind === 'role' ? '{}' : null,
    maxSessionSeconds: kind === 'role' ? 3600 : null,
    createdAt: clock.now(),
    version: 1,
    ...values,
  }
}

export function sampleAccessKey(principalArn: string, accessKeyId = `AKIA${randomUUID().slice(0, 8).toUpperCase()}`): AccessKeyRecord {
  return { accessKeyId, accountId, principalArn, sealedSecret: Uint8Array.of(1, 2, 3), active: true, createdAt: clock.now() }
}
