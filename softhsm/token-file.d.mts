/** The label that `token.object` gives a token on which a user can log in; undefined when it does not say so, or not understandably. */
export function usableLabelIn(bytes: Buffer): string | undefined
