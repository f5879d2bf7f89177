/**
 * Pages of a listing: AWS's Limit, Marker, Truncated, NextMarker. A marker is opaque to the caller and good for the listing that gave
 * it: base64 of 8 bytes that tie it to that listing, then the last name of the page. It opens nothing that the caller may not list
 * anyway, so the tie is a checksum and no signature.
 */

import { createHash } from 'node:crypto'
import type { Page } from '../store/store.ts'
import { kmsError } from './errors.ts'
import type { Call } from './operation.ts'

const tieBytes = 8

const tie = (call: Call, after: Buffer): Buffer =>
  createHash('sha256')
    .update([call.operation.name, call.principal.accountId, call.region, ''].join('\n'))
    .update(after)
    .digest()
    .subarray(0, tieBytes)

function encodeMarker(call: Call, name: string): string {
  const after = Buffer.from(name)
  return Buffer.concat([tie(call, after), after]).toString('base64')
}

function readMarker(call: Call, marker: unknown): string | undefined {
  if (typeof marker !== 'string') return undefined
  const bytes = Buffer.from(marker, 'base64')
  const after = bytes.subarray(tieBytes)
  // Node skips what is no base64, so only what encodes back to the same text is a marker of ours.
  if (bytes.toString('base64') !== marker || !tie(call, after).equals(bytes.subarray(0, tieBytes))) {
    throw kmsError('InvalidMarkerException', 'Could not deserialize marker')
  }
  return after.toString()
}

/** What a caller asks for of a listing. */
export const pageAsked = (call: Call, defaultLimit: number): { readonly after: string | undefined; readonly limit: number } => ({
  after: readMarker(call, call.input['Marker']),
  limit: (call.input['Limit'] as number | undefined) ?? defaultLimit,
})

/** The answer's items and paging members, made of one page. */
export const pageShown = <T, R>(
  call: Call,
  { items, next }: Page<T>,
  show: (item: T) => R,
): { readonly items: readonly R[]; readonly rest: { readonly Truncated: boolean; readonly NextMarker?: string } } => ({
  items: items.map(show),
  rest: next === undefined ? { Truncated: false } : { Truncated: true, NextMarker: encodeMarker(call, next) },
})

/**
 * Reads one page and shapes the answer's paging members.
 * @param defaultLimit AWS's own where the caller gives none.
 */
export function page<T, R>(
  call: Call,
  defaultLimit: number,
  read: (after: string | undefined, limit: number) => Page<T>,
  show: (item: T) => R,
): ReturnType<typeof pageShown<T, R>> {
  const { after, limit } = pageAsked(call, defaultLimit)
  return pageShown(call, read(after, limit), show)
}

/** A page of a short list that is already at hand, in the order of `keyOf`. */
export function pageOf<T>(all: readonly T[], keyOf: (item: T) => string, after: string | undefined, limit: number): Page<T> {
  const rest = after === undefined ? all : all.filter((item) => keyOf(item) > after)
  const items = rest.slice(0, limit)
  const last = items.at(-1)
  return { items, next: rest.length > items.length && last !== undefined ? keyOf(last) : undefined }
}
