/** An authority of a test's own, and the certificates that it issues. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface Issued {
  readonly certFile: string
  readonly keyFile: string
  /** PEM. */
  readonly cert: string
  readonly key: string
}

export interface Authority {
  /** PEM. */
  readonly caFile: string
  readonly ca: string
  /** A certificate for a common name and, as DNS names of the subjectAltName, `names`; without any there is no subjectAltName. */
  issue(commonName: string, names?: readonly string[], days?: number): Issued
  remove(): void
}

export function makeAuthority(name = 'Test Authority'): Authority {
  const dir = mkdtempSync(join(tmpdir(), 'holdfast-ca-'))
  const at = (file: string): string => join(dir, file)
  const openssl = (...args: readonly string[]): void => void execFileSync('openssl', args, { stdio: 'pipe' })
  const newKey = (file: string): void => {
    openssl('ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', at(file))
  }
  newKey('ca.key')
  openssl('req', '-x509', '-new', '-key', at('ca.key'), '-subj', `/CN=${name}`, '-days', '2', '-out', at('ca.pem'))
  let count = 0
  return {
    caFile: at('ca.pem'),
    ca: readFileSync(at('ca.pem'), 'utf8'),
    issue(commonName, names = [], days = 2) {
      const own = `leaf-${++count}`
      newKey(`${own}.key`)
      openssl('req', '-new', '-key', at(`${own}.key`), '-subj', `/CN=${commonName}`, '-out', at(`${own}.csr`))
      writeFileSync(at('ext'), names.length === 0 ? '' : `subjectAltName=${names.map((each) => `DNS:${each}`).join(',')}\n`)
      const ca = ['-CA', at('ca.pem'), '-CAkey', at('ca.key'), '-CAcreateserial', '-days', String(days), '-extfile', at('ext')]
      openssl('x509', '-req', '-in', at(`${own}.csr`), ...ca, '-out', at(`${own}.pem`))
      const [certFile, keyFile] = [at(`${own}.pem`), at(`${own}.key`)]
      return { certFile, keyFile, cert: readFileSync(certFile, 'utf8'), key: readFileSync(keyFile, 'utf8') }
    },
    remove: () => rmSync(dir, { recursive: true, force: true, maxRetries: 5 }),
  }
}
