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

/**
 * Lets keys be replicated between these tokens, for every ordered pair of them: each gets a transport key pair where it has none, and
 * its security officer marks the public keys of all the others CKA_TRUSTED. Each token is in a directory of its own (`dir` of
 * `provisionSoftHsm`). What is there is found and left; a call that was stopped anywhere is finished by the next one.
 */
export function trustTransportKeys(tokens: readonly ProvisionedToken[]): Promise<void>
