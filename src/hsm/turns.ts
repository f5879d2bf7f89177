/**
 * Turns among the sessions of one agent process, for products on which a search and the making of a token object spoil each other
 * (`ProviderProfile.searchesDuringCreation`): any number may search at once, or make objects at once, never both.
 *
 * Who waits is let in before those who came later and could have gone on with the others: neither side waits for ever.
 */

/** Above 0: so many make objects. Below 0: so many search. */
const INSIDE = 0

export type Turn = 'create' | 'search'

const sides: Readonly<Record<Turn, { readonly step: 1 | -1; readonly waiting: number; readonly othersWaiting: number }>> = {
  create: { step: 1, waiting: 1, othersWaiting: 2 },
  search: { step: -1, waiting: 2, othersWaiting: 1 },
}

/** What the threads share. */
export const openTurns = (): SharedArrayBuffer => new SharedArrayBuffer(3 * 4)

/** Runs `action` in a turn of its kind, which must not be asked for within another one. Blocks this thread until then. */
export type TakeTurn = <T>(turn: Turn, action: () => T) => T

/** Where nobody has to wait for anybody. */
export const noTurns: TakeTurn = (_turn, action) => action()

export function takeTurns(shared: SharedArrayBuffer): TakeTurn {
  const state = new Int32Array(shared)
  return (turn, action) => {
    enter(state, turn)
    try {
      return action()
    } finally {
      Atomics.sub(state, INSIDE, sides[turn].step)
      Atomics.notify(state, INSIDE)
    }
  }
}

function enter(state: Int32Array, turn: Turn): void {
  const { step, waiting, othersWaiting } = sides[turn]
  for (let waits = false; ;) {
    const inside = Atomics.load(state, INSIDE)
    if (inside === 0 || (inside * step > 0 && Atomics.load(state, othersWaiting) === 0)) {
      if (Atomics.compareExchange(state, INSIDE, inside, inside + step) !== inside) continue
      if (waits) Atomics.sub(state, waiting, 1)
      return
    }
    if (!waits) Atomics.add(state, waiting, 1)
    waits = true
    Atomics.wait(state, INSIDE, inside)
  }
}
