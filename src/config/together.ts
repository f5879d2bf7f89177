/** What no single setting can see: rules on several of them, each with what to do about it. */

import { accessSync, constants, statSync } from 'node:fs'
import { didYouMean } from '../base/closest.ts'
import { isLoopback } from '../base/loopback.ts'
import type { Config } from './settings.ts'

/** The problems that a rule finds. `where` says of a setting where its value came from. */
type Rule = (config: Config, where: (name: string) => string) => readonly string[]

/** All that is wrong. */
export const problemsTogether: Rule = (config, where) => rules.flatMap((rule) => rule(config, where))

const halfSet: Rule = ({ tls, xksProxy }, where) => {
  const certificate = 'TLS needs a certificate file and a key file'
  const pairs = [
    { one: 'tls.certFile', other: 'tls.keyFile', values: [tls.certFile, tls.keyFile], why: certificate },
    { one: 'xksProxy.certFile', other: 'xksProxy.keyFile', values: [xksProxy.certFile, xksProxy.keyFile], why: certificate },
    {
      one: 'xksProxy.clientCaFile',
      other: 'xksProxy.clientNames',
      values: [xksProxy.clientCaFile, xksProxy.clientNames],
      why: 'client certificates are checked for their authority and for their name',
    },
  ]
  return pairs
    .filter(({ values: [one, other] }) => (one === undefined) !== (other === undefined))
    .map(({ one, other, values, why }) => `${where(values[0] === undefined ? one : other)} is missing: ${why}. Set both, or neither.`)
}

const xksHasTls = ({ tls, xksProxy }: Config): boolean => (xksProxy.certFile ?? tls.certFile) !== undefined

const clientsWithoutTls: Rule = (config, where) =>
  config.xksProxy.clientCaFile === undefined || xksHasTls(config)
    ? []
    : [
        `${where('xksProxy.clientCaFile')} is set, but the XKS proxy has no TLS: set HOLDFAST_XKS_PROXY_TLS_CERT and HOLDFAST_XKS_PROXY_TLS_KEY.`,
      ]

const unknownRegionsAndTokens: Rule = ({ regions, regionTokens, tokens }, where) => {
  const names = ['default', ...Object.keys(tokens)]
  const place = where('regionTokens')
  return Object.entries(regionTokens).flatMap(([region, token]) => [
    ...(regions.includes(region) ? [] : [`${place} names the region ${region}, which is not served.${didYouMean(region, regions)}`]),
    ...(names.includes(token) ? [] : [`${place} names the token ${token}, which is not in tokens.${didYouMean(token, names)}`]),
  ])
}

const files: Rule = ({ tls, pkcs11, xks, xksProxy, tokens, keyStoreTokens }, where) => {
  const named = [
    { name: 'tls.certFile', file: tls.certFile, secret: false },
    { name: 'tls.keyFile', file: tls.keyFile, secret: true },
    { name: 'pkcs11.pinFile', file: pkcs11.pinFile, secret: true },
    { name: 'pkcs11.library', file: pkcs11.library, secret: false },
    { name: 'xks.caFile', file: xks.caFile, secret: false },
    { name: 'xksProxy.certFile', file: xksProxy.certFile, secret: false },
    { name: 'xksProxy.keyFile', file: xksProxy.keyFile, secret: true },
    { name: 'xksProxy.clientCaFile', file: xksProxy.clientCaFile, secret: false },
    ...Object.values(keyStoreTokens).map(({ library }) => ({ name: 'keyStoreTokens', file: library, secret: false })),
    ...Object.values(tokens).flatMap(({ pinFile, library }) => [
      { name: 'tokens', file: pinFile, secret: true },
      { name: 'tokens', file: library, secret: false },
    ]),
  ]
  return named.flatMap(({ name, file, secret }) => {
    if (file === undefined) return []
    const mode = readableFileMode(file)
    if (mode === undefined) return [`${where(name)} names ${file}, which is not a file this process can read.`]
    return secret && (mode & 0o007) !== 0 ? [`${where(name)} names ${file}, which everybody on this machine may open: chmod 600 it.`] : []
  })
}

const openDataDir: Rule = ({ dataDir }, where) =>
  isOpenToAll(dataDir)
    ? [
        `${where('dataDir')} is ${dataDir}, where everybody on this machine may put files in the place of ours: chmod o-w it, or choose another.`,
      ]
    : []

const plainHttp: Rule = (config, where) => {
  const { host, opsHost, tls, xksProxy } = config
  const hasTls = tls.certFile !== undefined
  const listeners = [
    { name: 'host', address: host, hasTls },
    { name: 'opsHost', address: opsHost, hasTls },
    { name: 'xksProxy.host', address: xksProxy.port === undefined ? undefined : xksProxy.host, hasTls: xksHasTls(config) },
  ]
  return listeners
    .filter(({ address, hasTls }) => address !== undefined && !isLoopback(address) && !hasTls && !tls.allowPlainHttp)
    .map(
      ({ name, address }) =>
        `${where(name)} is ${address}: plain HTTP is for loopback only. Set HOLDFAST_TLS_CERT and HOLDFAST_TLS_KEY, ` +
        'or HOLDFAST_ALLOW_PLAIN_HTTP=true if something in front of it speaks TLS.',
    )
}

const samePort: Rule = ({ host, port, opsHost, opsPort, xksProxy }, where) => {
  const listeners = [
    { name: 'port', what: 'the main port', port, address: host },
    { name: 'opsPort', what: 'the operations port', port: opsPort, address: opsHost ?? host },
    { name: 'xksProxy.port', what: 'the port of the XKS proxy', port: xksProxy.port, address: xksProxy.host ?? host },
  ]
  return listeners.flatMap(({ name, port, address }, index) =>
    listeners
      .slice(0, index)
      // 0 takes a free one.
      .filter((earlier) => port !== 0 && earlier.port === port && earlier.address === address)
      .map(({ what }) => `${where(name)} is ${port}, which is ${what}: give it another one.`),
  )
}

const halfAToken: Rule = ({ pkcs11 }, where) => {
  if (pkcs11.library === undefined) {
    return (['tokenSerial', 'pinFile'] as const)
      .filter((member) => pkcs11[member] !== undefined)
      .map(
        (member) => `${where(`pkcs11.${member}`)} is set but no module is: set HOLDFAST_PKCS11_LIBRARY too, or remove it to use SoftHSM2.`,
      )
  }
  return [
    ...(pkcs11.pinFile === undefined
      ? [`${where('pkcs11.pinFile')} is missing: put the token's user PIN into a file of mode 0600 and name it here.`]
      : []),
    ...(pkcs11.tokenLabel === undefined ? [`${where('pkcs11.tokenLabel')} is missing: say which token, by its label.`] : []),
  ]
}

const rules: readonly Rule[] = [halfSet, clientsWithoutTls, unknownRegionsAndTokens, files, openDataDir, plainHttp, samePort, halfAToken]

/** The permission bits of a file this process may read; undefined when it is none. */
function readableFileMode(file: string): number | undefined {
  try {
    accessSync(file, constants.R_OK)
    const found = statSync(file)
    return found.isFile() ? found.mode & 0o777 : undefined
  } catch {
    return undefined
  }
}

/** A directory that is not there, or cannot be looked at, is somebody else's complaint. */
function isOpenToAll(directory: string): boolean {
  try {
    return (statSync(directory).mode & 0o002) !== 0
  } catch {
    return false
  }
}
