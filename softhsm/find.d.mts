/** The path of SoftHSM2's module on this machine, or undefined when it is not installed. */
export function findSoftHsm(): string | undefined
