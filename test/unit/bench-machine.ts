/** A machine with a token, as a run of the bench records it; for tests that need one, whatever it is. */

import type { Machine } from '../../src/bench/run.ts'

export const someMachine: Machine = {
  cpu: 'a processor',
  cores: 2,
  memoryBytes: 2 ** 33,
  platform: 'linux x64 6.1',
  versions: { holdfast: '0.1.0', commit: null, node: '20.20.2', openssl: '3.0.19' },
  token: {
    library: 'lib.so',
    profile: 'generic',
    manufacturer: 'A',
    model: 'M',
    firmware: '1.0',
    sessions: 1,
    wrapScheme: 'cbc-hmac',
    wrapSchemes: ['cbc-hmac'],
  },
}
