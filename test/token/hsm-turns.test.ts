/** Searching and making objects at once, which a SoftHSM token cannot (native-config/softhsm2.json, `searchesDuringCreation`). */
import { afterEach, describe, expect, test } from 'vitest'
import { CKR } from '../../src/hsm/constants.ts'
import type { TokenConfig } from '../../src/hsm/client.ts'
import type { Token } from '../../src/hsm/token.ts'
import { freshId, open } from './hsm-fixture.ts'
import { makeSoftHsmToken } from './lab.ts'
import { writeProfile } from './open.ts'
import { buildShim, FaultFile, shimEnv } from './shim.ts'

const library = buildShim()

const ends: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end()
})

describe.skipIf(library === undefined)('with a device that takes its time to make a key', () => {
  async function opened(searchesDuringCreation: boolean): Promise<{ readonly token: Token; readonly faults: FaultFile }> {
    const lab = await makeSoftHsmToken({ label: 'turns' })
    ends.push(() => lab.remove())
    const faults = new FaultFile(lab.dir)
    const overrides: Partial<TokenConfig> = {
      library: library ?? '',
      env: { ...lab.env, ...shimEnv({ module: lab.library, faults }) },
      profile: writeProfile(lab, 'softhsm2', { searchesDuringCreation }),
      sessions: 2,
    }
    const { token } = await open(lab, overrides)
    ends.push(() => token.close())
    return { token, faults }
  }

  /** Makes keys and searches at once; answers whether a search began while a key was made. */
  async function round({ token, faults }: { readonly token: Token; readonly faults: FaultFile }): Promise<boolean> {
    faults.set(
      { function: 'C_GenerateKey', delayMs: 200, count: 'always' },
      { function: 'C_FindObjectsInit', rv: CKR.CKR_GENERAL_ERROR, whileMaking: true },
    )
    const ids = [freshId(), freshId(), freshId()]
    const left = { keys: ids.length }
    const make = async (ckaId: string): Promise<void> => {
      await token.generateKey({ kind: 'wrapping', ckaId, label: 'turns' })
      left.keys -= 1
    }
    const search = async (): Promise<void> => {
      while (left.keys > 0) await token.transportKey()
    }
    await Promise.all([...ids.map(make), search(), search(), search(), search()])
    const [, stumbles] = faults.left()
    faults.set()
    // What has made a key or is done with searching has let the others in again.
    for (const ckaId of ids) expect(await token.destroyKey(ckaId, 'turns')).toBe(1)
    expect(token.health().respawns).toBe(0)
    return stumbles === 0
  }

  test('no thread searches while another one makes a key', async () => {
    const device = await opened(false)
    expect(await round(device)).toBe(false)
    expect(await round(device)).toBe(false)
  })

  test('one does where the profile allows it, so the test before can fail', async () => {
    const device = await opened(true)
    await expect.poll(() => round(device), { timeout: 60_000 }).toBe(true)
  })
})
