/**
 * What the layers of a call take. A service has no such record unless the bench started it with one, and without one nothing is timed: all it
 * costs is a look at a field.
 */

/** `total` is from the request's head to its answer; the others are parts of it. `device` is the work in the token with its queue. */
export const layers = ['total', 'sigv4', 'authorization', 'device', 'audit'] as const
export type Layer = (typeof layers)[number]

export class Spans {
  readonly #sums = new Map<Layer, { count: number; ms: number }>()

  add(layer: Layer, ms: number): void {
    let sum = this.#sums.get(layer)
    if (!sum) this.#sums.set(layer, (sum = { count: 0, ms: 0 }))
    sum.count++
    sum.ms += ms
  }

  /** Mean ms of a call in each layer since this was asked last. A layer that a call enters twice counts twice in it. */
  take(): Partial<Record<Layer, number>> {
    const calls = this.#sums.get('total')?.count ?? 0
    const means: Partial<Record<Layer, number>> = {}
    if (calls > 0) for (const [layer, { ms }] of this.#sums) means[layer] = ms / calls
    this.#sums.clear()
    return means
  }
}

/** The same object, but that what these methods take, until their promise ends, goes to a layer. */
export function timed<T extends object>(room: T, methods: readonly (keyof T)[], spans: Spans, layer: Layer): T {
  const names = new Set<string | symbol | number>(methods)
  return new Proxy(room, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target)
      if (typeof value !== 'function') return value
      if (!names.has(name)) return (...given: unknown[]): unknown => Reflect.apply(value, target, given)
      return (...given: unknown[]): unknown => {
        const startedAt = performance.now()
        const answer: unknown = Reflect.apply(value, target, given)
        const note = (): void => spans.add(layer, performance.now() - startedAt)
        if (!(answer instanceof Promise)) note()
        else answer.then(note, note)
        return answer
      }
    },
  })
}
