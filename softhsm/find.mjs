/** Where SoftHSM2's module is on this machine, if it is installed. */
import { existsSync, readFileSync } from 'node:fs'

/**
 * The first of the places where distributions install it, as listed in the product's profile.
 * @returns {string | undefined}
 */
export function findSoftHsm() {
  const profile = JSON.parse(readFileSync(new URL('../native-config/softhsm2.json', import.meta.url), 'utf8'))
  return profile.libraryPaths.value.find((path) => existsSync(path))
}
