/**
 * The tokens that the configuration names: which there are, how each is reached, which region has which. Part of the wiring.
 *
 * The token `default` is home: the service's own keys are in it, and without it nothing starts. The others may come and go; meanwhile the keys
 * in them are unavailable and everything else works.
 *
 * Without a configured module every region has a SoftHSM2 token of its own below the data directory, and the tokens trust each
 * other's transport keys. On a real HSM that is its security officers' ceremony.
 */

import { existsSync, readFileSync } from 'node:fs'
import { rename, writeFile } from 'node:fs/promises'
import { findSoftHsm } from '../softhsm/find.mjs'
import { provisionSoftHsm, ProvisionError, trustTransportKeys, type ProvisionedToken } from '../softhsm/provision.mjs'
import type { Log } from './base/log.ts'
import type { TokenSettings } from './config/kinds.ts'
import { placesIn } from './config/places.ts'
import { childEnvironment } from './config/read.ts'
import type { Config } from './config/settings.ts'
import { openToken, type TokenConfig } from './hsm/client.ts'
import type { Token } from './hsm/token.ts'

export const homeToken = 'default'

/** One token as the configuration describes it. */
export interface TokenPlan {
  readonly name: string
  readonly config: Omit<TokenConfig, 'provision' | 'pin'> & { readonly pinFile: string }
  /** The SoftHSM2 token that this program made. */
  readonly made?: ProvisionedToken
}

export interface TokenPlans {
  /** By name, home first. Only those that keys may be in: the home token and the regions'. */
  readonly tokens: readonly TokenPlan[]
  /** Every region's token, by name. */
  readonly regions: ReadonlyMap<string, string>
}

/** Which tokens there are. SoftHSM2 tokens are made if need be, unless `make` is false; then those that are not there are left out. */
export async function planTokens(config: Config, make = true): Promise<TokenPlans> {
  const regions = new Map(
    config.regions.map((region, index) => {
      const own = config.pkcs11.library === undefined && index > 0 ? region : homeToken
      return [region, config.regionTokens[region] ?? own] as const
    }),
  )
  const home = planHome(config, make)
  const names = new Set([...regions.values()].filter((name) => name !== homeToken))
  if (config.pkcs11.library === undefined) {
    // A region that has become home since has keys in the token that it had before.
    for (const region of config.regions) if (existsSync(placesIn(config.dataDir).softhsmOf(region))) names.add(region)
  }
  const others = [...names].map((name): Promise<TokenPlan> | TokenPlan | undefined => {
    const settings = Object.hasOwn(config.tokens, name) ? config.tokens[name] : undefined
    if (settings) return { name, config: configured(config, settings) }
    if (!make && !existsSync(placesIn(config.dataDir).softhsmOf(name))) return undefined
    return planSoftHsm(config, name, placesIn(config.dataDir).softhsmOf(name), `holdfast-${name}`.slice(0, 32), make)
  })
  const tokens = (await Promise.all([home, ...others])).filter((plan) => plan !== undefined)
  if (make)
    await introduce(
      config,
      tokens.flatMap(({ made }) => made ?? []),
    )
  return { tokens, regions }
}

async function planHome(config: Config, make: boolean): Promise<TokenPlan> {
  const { library, tokenLabel = 'holdfast', pinFile } = config.pkcs11
  if (library !== undefined && pinFile !== undefined) {
    return { name: homeToken, config: configured(config, { ...config.pkcs11, library, tokenLabel, pinFile }) }
  }
  return planSoftHsm(config, homeToken, placesIn(config.dataDir).softhsm, tokenLabel, make)
}

/** What opens each token that a custom key store may be, with the PIN that its owner gave. */
export function keyStoreTokens(config: Config, log: Log): ReadonlyMap<string, (pin: string) => Promise<Token>> {
  return new Map(
    Object.entries(config.keyStoreTokens).map(([clusterId, settings]) => {
      const { library, tokenLabel, tokenSerial } = settings
      const reached = {
        ...common(settings, config.pkcs11),
        library,
        tokenLabel,
        env: childEnvironment(),
        startTimeoutMs: keyStoreStartTimeoutMs,
        ...(tokenSerial !== undefined && { tokenSerial }),
      }
      return [clusterId, (pin: string) => openToken({ ...reached, pin, provision: true }, { log })] as const
    }),
  )
}

/** Somebody looks at DescribeCustomKeyStores meanwhile. */
const keyStoreStartTimeoutMs = 20_000

function configured({ pkcs11 }: Config, settings: TokenSettings): TokenPlan['config'] {
  const { library, tokenLabel, tokenSerial, pinFile } = settings
  return {
    ...common(settings, pkcs11),
    library,
    tokenLabel,
    pinFile,
    env: childEnvironment(),
    ...(tokenSerial !== undefined && { tokenSerial }),
  }
}

const common = (
  { profile, sessions, queueLength, deadlineMs }: Pick<TokenSettings, 'profile' | 'sessions' | 'queueLength' | 'deadlineMs'>,
  pkcs11: Config['pkcs11'],
) => ({
  queueLimit: queueLength ?? pkcs11.queueLength,
  deadlineMs: deadlineMs ?? pkcs11.deadlineMs,
  ...(profile !== undefined && { profile }),
  ...(sessions !== undefined && { sessions }),
})

async function planSoftHsm(config: Config, name: string, dir: string, label: string, make: boolean): Promise<TokenPlan> {
  const library = findSoftHsm()
  if (library === undefined) {
    throw new ProvisionError(
      'No PKCS#11 module is configured and SoftHSM2 is not installed: set HOLDFAST_PKCS11_LIBRARY, or run: apt-get install softhsm2',
    )
  }
  const made = await provisionSoftHsm({ dir, label, library, make })
  return {
    name,
    made,
    config: {
      ...common(config.pkcs11, config.pkcs11),
      library: made.library,
      tokenLabel: made.label,
      pinFile: made.pinFile,
      env: { ...childEnvironment(), ...made.env },
    },
  }
}

/** Once for each set of tokens: it takes some processes, which a start need not wait for again. */
async function introduce(config: Config, made: readonly ProvisionedToken[]): Promise<void> {
  if (made.length < 2) return
  const file = placesIn(config.dataDir).softhsmTrust
  const whole = JSON.stringify(made.map(({ pinFile }) => pinFile).sort())
  if (existsSync(file) && readFileSync(file, 'utf8') === whole) return
  await trustTransportKeys(made)
  const beside = `${file}.${process.pid}`
  await writeFile(beside, whole)
  await rename(beside, file)
}

export interface OpenTokens {
  readonly home: Token
  /** By name, home among them. */
  readonly all: ReadonlyMap<string, Token>
  close(): Promise<void>
}

/** Opens all at once. @throws TokenError when home cannot be reached; the others are waited for no longer than their first attempt takes. */
export async function openTokens({ tokens }: TokenPlans, log: Log): Promise<OpenTokens> {
  const opening = tokens.map(async ({ name, config }) => {
    const token = await openToken({ ...config, provision: true, ...(name !== homeToken && { mayBeDown: true }) }, { log })
    return [name, token] as const
  })
  const outcomes = await Promise.allSettled(opening)
  const all = new Map(outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : [])))
  const close = async (): Promise<void> => void (await Promise.all([...all.values()].map((token) => token.close())))
  const failure = outcomes.find((outcome) => outcome.status === 'rejected')
  const home = all.get(homeToken)
  if (failure || !home) {
    await close()
    throw failure?.reason ?? new Error('no home token is planned')
  }
  return { home, all, close }
}
