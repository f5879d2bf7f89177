/** Pages of a listing: AWS's Limit, Marker, Truncated, NextMarker. A marker is opaque to the caller and good for the listing that gave it. */

import type { Page } from '../store/store.ts'
import { kmsError } from './errors.ts'
import type { Call } from './operation.ts'

const encodeMarker = (call: Call, after: string): string => Buffer.from(JSON.stringify([call.operation.name, after])).toString('base64')

function readMarker(call: Call, marker: unknown): string | undefined {
  if (typeof marker !== 'string') return undefined
  try {
    const [operation, after] = JSON.parse(Buffer.from(marker, 'base64').toString()) as unknown[]
    if (operation === call.operation.name && typeof after === 'string') return after
  } catch {
    // Falls through: whatever it was, it was not ours.
  }
  throw kmsError('InvalidMarkerException', 'Could not deserialize marker')
}

/**
 * Reads one page and shapes the answer's paging members.
 * @param defaultLimit AWS's own where the caller gives none.
 */
export function page<T, R>(
  call: Call,
  defaultLimit: number,
  read: (after: string | undefined, limit: number) => Page<T>,
  show: (item: T) => R,
): { readonly items: readonly R[]; readonly rest: { readonly Truncated: boolean; readonly NextMarker?: string } } {
  const limit = (call.input['Limit'] as number | undefined) ?? defaultLimit
  const { items, next } = read(readMarker(call, call.input['Marker']), limit)
  return {
    items: items.map(show),
    rest: next === undefined ? { Truncated: false } : { Truncated: true, NextMarker: encodeMarker(call, next) },
  }
}

/** A page of a short list that is already at hand, in the order of `keyOf`. */
export function pageOf<T>(all: readonly T[], keyOf: (item: T) => string, after: string | undefined, limit: number): Page<T> {
  const rest = after === undefined ? all : all.filter((item) => keyOf(item) > after)
  const items = rest.slice(0, limit)
  const last = items.at(-1)
  return { items, next: rest.length > items.length && last !== undefined ? keyOf(last) : undefined }
}
