/**
 * The service that `measure.ts` measures, a process of its own as it is in earnest: what measures must not share its event loop or its heap.
 *
 * Started by fork; takes a configuration, answers where it listens, closes everything when its parent disconnects.
 */

import { once } from 'node:events'
import { openLog } from './base/log.ts'
import type { Config } from './config.ts'
import { openHouse } from './serve.ts'

export interface ServiceAddress {
  readonly url: string
  readonly opsUrl: string
}

process.once('message', (config: Config) => {
  // Lines are made and written as in earnest, to where nobody reads them.
  const log = openLog({ level: 'info', destination: '/dev/null' })
  const serveUntilDisconnected = async (): Promise<void> => {
    const house = await openHouse(config, log)
    process.send?.({ url: house.url, opsUrl: house.opsUrl } satisfies ServiceAddress)
    await once(process, 'disconnect')
    await house.close()
    log.flush()
  }
  serveUntilDisconnected().catch((error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
    process.exit(1)
  })
})
