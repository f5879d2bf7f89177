/**
 * Writes to a store from a process of its own and prints each thing when it is durable.
 * Arguments: file, what: `keys` inserts keys with backing keys until killed; `follow ARN` waits for that key and adds an alias to it.
 */

import { systemClock } from '../../src/base/clock.ts'
import { openStore } from '../../src/store/open.ts'
import { sampleAlias, sampleBackingKey, sampleKey } from './store-suite.ts'

const [file = '', task = '', arn = ''] = process.argv.slice(2)
const store = await openStore({ file, clock: systemClock, pollMs: 20 })

if (task === 'keys') {
  const client = async (): Promise<never> => {
    for (;;) {
      const key = sampleKey({ state: 'Creating' })
      const backing = sampleBackingKey(key)
      await store.insertKey(key, backing)
      process.stdout.write(`inserted ${key.arn}\n`)
      await store.promoteBackingKey(backing, null, () => ({ state: 'Enabled' }))
      process.stdout.write(`promoted ${key.arn}\n`)
    }
  }
  await Promise.all([client(), client(), client()])
} else {
  process.stdout.write('open\n')
  let key = store.view.key(arn)
  for (; !key; key = store.view.key(arn)) await new Promise((resolve) => setTimeout(resolve, 5))
  await store.insertAlias(sampleAlias(key, 'from-the-other-process'))
  await store.close()
}
