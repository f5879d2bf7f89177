/** Bodies that come in pieces. */

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { addChunk } from '../../src/http/chunks.ts'

test('however a body is cut, its pieces are few, are the body, and what was joined is wiped', () => {
  const pieces = fc.array(fc.oneof({ weight: 5, arbitrary: fc.constant(1) }, fc.integer({ min: 0, max: 3000 })), { maxLength: 2000 })
  fc.assert(
    fc.property(pieces, (lengths) => {
      const chunks: Buffer[] = []
      const given = lengths.map((length, at) => Buffer.alloc(length, 1 + (at % 255)))
      const whole = Buffer.concat(given)
      for (const chunk of given) addChunk(chunks, chunk)
      expect(Buffer.concat(chunks).equals(whole)).toBe(true)
      expect(chunks.length).toBeLessThan(40)
      expect(given.every((chunk) => chunks.includes(chunk) || chunk.every((byte) => byte === 0))).toBe(true)
    }),
    { numRuns: 50 },
  )
})
