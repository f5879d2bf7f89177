/** The rooms behind the ports, each opened with what it needs: the tokens and the store, the audit trail, the service. Part of the wiring. */

import { openTrail } from './audit/open.ts'
import type { Trail } from './audit/trail.ts'
import { systemClock } from './base/clock.ts'
import type { Log } from './base/log.ts'
import { openCryptoPool } from './bulk/crypto-pool.ts'
import { saveProfile } from './cli/credentials-file.ts'
import type { Config } from './config/settings.ts'
import type { Ground } from './ground.ts'
import type { Token } from './hsm/token.ts'
import { standardBudget } from './kms/budget.ts'
import type { KeyStoreRooms } from './kms/connected-key-stores.ts'
import { bootstrapAccount } from './kms/identity.ts'
import { isKeyStoreId } from './kms/key-stores.ts'
import { standardRates } from './kms/quotas.ts'
import { openService, type Service, type ServiceConfig } from './kms/service.ts'
import { ensureSystemKey, type SystemKey } from './kms/system-keys.ts'
import { watchProxies } from './serve-metrics.ts'
import { openStore } from './store/open.ts'
import type { Store } from './store/store.ts'
import { keyStoreTokens, openTokens, type OpenTokens, type TokenPlans } from './tokens.ts'
import { openXksClient } from './xks/client.ts'

/** Where keys are, and where is what is known of them. */
export interface Memory {
  readonly tokens: OpenTokens
  readonly store: Store
}

/** Both together: with many keys each of the two takes its time, in processes and threads of its own. */
export async function openMemory({ places, clock, log, fittings, opened }: Ground, plans: TokenPlans): Promise<Memory> {
  const { membership } = fittings
  const [storing, reaching] = await Promise.allSettled([
    openStore({ file: places.database, clock, log, ...(membership && { onWritten: membership.tellWritten }) }),
    openTokens(plans, log),
  ])
  if (storing.status === 'fulfilled') opened.add('store', storing.value)
  if (reaching.status === 'fulfilled') opened.add('tokens', reaching.value)
  if (reaching.status === 'rejected') throw reaching.reason
  if (storing.status === 'rejected') throw storing.reason
  const store = storing.value
  membership?.onWritten(() => store.refresh())
  return { tokens: reaching.value, store }
}

export interface Audit {
  readonly trail: Trail
  readonly auditKey: SystemKey
}

/** The audit trail, sealed by a key in the home token. */
export async function openAudit({ config, places, clock, log, metrics, opened }: Ground, { tokens, store }: Memory): Promise<Audit> {
  const token = tokens.home
  const auditKey = await ensureSystemKey({ token, store }, 'audit', 'signing')
  const observeCommit = metrics.seconds('holdfast_audit_commit_seconds', 'How long audit records took to become durable.')
  const trail = await openTrail({
    file: places.auditTrail,
    clock,
    log,
    sign: (digest) => token.sign(auditKey.ckaId, digest),
    publicKey: () => token.publicKey(auditKey.ckaId),
    sealEveryMs: config.audit.sealIntervalMs,
    onCommit: (_records, seconds) => observeCommit(seconds),
  })
  opened.add('audit trail', trail)
  opened.add('retention', pruneDaily(trail, config.audit.retentionDays, log))
  return { trail, auditKey }
}

/** The service on its rooms, with its account. */
export async function openServiceRoom(
  ground: Ground,
  plans: TokenPlans,
  { tokens, store }: Memory,
  { trail, auditKey }: Audit,
): Promise<Service> {
  const { config, clock, log, metrics, fittings, opened } = ground
  const fitted = (token: Token): Token => fittings.token?.(token) ?? token
  const service = opened.add(
    'service',
    await openService({
      config: serviceConfig(config),
      token: fitted(tokens.home),
      tokens: new Map([...tokens.all].map(([name, token]) => [name, fitted(token)])),
      regionTokens: plans.regions,
      keyStoreRooms: keyStoreRooms(ground),
      store,
      trail: fittings.trail?.(trail) ?? trail,
      offload: opened.add('crypto threads', openCryptoPool()),
      ...(fittings.spans && { spans: fittings.spans }),
      auditKey,
      clock,
      log,
      metrics,
    }),
  )
  tellUnknownTokens(ground, plans, store)
  await makeFirstAccount(ground, service)
  return service
}

function serviceConfig({ regions, accountId, lifecycle, quotas, awsServices, usage }: Config): ServiceConfig {
  return {
    regions,
    accountId,
    lifecycleIntervalMs: lifecycle.intervalMs,
    budget: standardBudget,
    requestRates: quotas.requestRates === 'off' ? {} : { ...standardRates, ...quotas.requestRates },
    quotas,
    awsServices,
    usage: {
      ...usage,
      prices: {
        keyMonth: usage.pricePerKeyMonth,
        requests: {
          standard: usage.pricePerRequests,
          asymmetric: usage.pricePerAsymmetricRequests,
          eccKeyPair: usage.pricePerEccKeyPairs,
          rsaKeyPair: usage.pricePerRsaKeyPairs,
        },
      },
    },
  }
}

const keyStoreRooms = ({ config, log, clock, metrics }: Ground): KeyStoreRooms => ({
  keyStoreTokens: keyStoreTokens(config, log),
  xks: openXksClient({
    caFile: config.xks.caFile,
    connectTo: new Map(Object.entries(config.xks.connectTo)),
    deadlineMs: config.xks.deadlineMs,
    clock,
    onCall: watchProxies(metrics),
  }),
  healthIntervalMs: config.xks.healthIntervalMs,
})

function tellUnknownTokens({ log }: Ground, plans: TokenPlans, store: Store): void {
  const unknown = new Set([...store.view.allKeys()].map(({ token }) => token).filter((name) => !isKeyStoreId(name)))
  for (const { name } of plans.tokens) unknown.delete(name)
  for (const name of unknown) log.error({ token: name }, 'keys are in a token that is not configured: they are unavailable until it is')
}

async function makeFirstAccount({ config, places, log }: Ground, service: Service): Promise<void> {
  // The file comes before the row: a key that only the database knew could never be used.
  const isNew = await bootstrapAccount(service, (credential) => saveProfile(places.credentials, 'default', credential))
  if (isNew)
    log.info(
      { accountId: config.accountId, credentials: places.credentials },
      'the account was made; its root access key is in the credentials file',
    )
}

/** Once a day, and at the start, removes audit records older than the retention. Without one, never. */
function pruneDaily(
  trail: { prune(beforeMs: number): Promise<{ readonly records: number }> },
  retentionDays: number | undefined,
  log: Log,
): { close(): Promise<void> } {
  if (retentionDays === undefined) return { close: async () => undefined }
  const dayMs = 86_400_000
  let round = Promise.resolve()
  const removeOld = async (): Promise<void> => {
    try {
      const { records } = await trail.prune(systemClock.now() - retentionDays * dayMs)
      if (records > 0) log.info({ records, retentionDays }, 'audit records past their retention were removed')
    } catch (error) {
      log.error({ err: error }, 'audit records past their retention could not be removed; it is tried again tomorrow')
    }
  }
  const prune = (): void => {
    round = removeOld()
  }
  prune()
  const timer = setInterval(prune, dayMs)
  timer.unref()
  return {
    async close() {
      clearInterval(timer)
      await round
    },
  }
}
