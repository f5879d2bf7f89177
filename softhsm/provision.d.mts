export interface ProvisionedToken {
  readonly library: string
  readonly label: string
  /** The user PIN, alone in a file of mode 0600. */
  readonly pinFile: string
  readonly soPinFile: string
  /** What a process that loads the library must find in its environment. */
  readonly env: { readonly SOFTHSM2_CONF: string }
}

/** A token that cannot be made or used. The message says what to do. */
export class ProvisionError extends Error {}

/**
 * Makes a SoftHSM2 token with random PINs in `dir`, or finds the one that is there. An existing token is never touched.
 */
export function provisionSoftHsm(options: {
  readonly dir: string
  readonly label: string
  readonly library: string
  /** False: a token that is not there is an error, and nothing is written. */
  readonly make?: boolean
}): Promise<ProvisionedToken>
