import { join } from 'node:path'

/** Where things are in the data directory. */
export function placesIn(dataDir: string) {
  return {
    database: join(dataDir, 'holdfast.db'),
    auditTrail: join(dataDir, 'audit.db'),
    credentials: join(dataDir, 'credentials'),
    softhsm: join(dataDir, 'softhsm'),
    /** The SoftHSM2 token of a region other than home. */
    softhsmOf: (region: string) => join(dataDir, `softhsm-${region}`),
    /** Which SoftHSM2 tokens have been introduced to each other. */
    softhsmTrust: join(dataDir, 'softhsm-trust.json'),
    /** Where the running service listens: `{ url, opsUrl, xksUrl, pid }`. */
    endpoint: join(dataDir, 'endpoint.json'),
  }
}

export type Places = ReturnType<typeof placesIn>
