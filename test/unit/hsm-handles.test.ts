import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { HandleCache, openJournal } from '../../src/hsm/handles.ts'
import { noObjects, type KeyObjects } from '../../src/hsm/session.ts'

const handle = (number: number): Buffer => {
  const buffer = Buffer.alloc(8)
  buffer.writeUInt32LE(number)
  return buffer
}
const aes = (number: number): KeyObjects => ({ ...noObjects, aes: handle(number) })

describe('handles', () => {
  test('found by one thread are known to all', () => {
    const journal = openJournal(0)
    const [one, two] = [new HandleCache(journal), new HandleCache(journal)]
    one.put('0a0b', { aes: handle(1), mac: handle(2), privateKey: undefined, publicKey: handle(3) })
    expect(two.find('0a0b')).toEqual({ aes: handle(1), mac: handle(2), privateKey: undefined, publicKey: handle(3) })
    expect(two.find('0a0c')).toBeUndefined()
  })

  test('of a pass at login are known to threads that start before and after it', () => {
    const journal = openJournal(2)
    const [agent, before] = [new HandleCache(journal), new HandleCache(journal)]
    agent.renew(
      new Map([
        ['01', aes(1)],
        ['02', aes(2)],
      ]),
    )
    const after = new HandleCache(journal)
    before.follow()
    for (const cache of [before, after]) {
      expect(cache.find('01')).toEqual(aes(1))
      expect(cache.find('02')).toEqual(aes(2))
    }
  })

  test('are all forgotten at a new login, and none found under the former one comes back', () => {
    const journal = openJournal(1)
    const [agent, worker] = [new HandleCache(journal), new HandleCache(journal)]
    worker.put('01', aes(1))
    agent.renew(new Map([['02', aes(2)]]))
    // Not yet aware of the new login: this must not reach the others.
    worker.put('03', aes(3))
    const epoch = worker.epoch
    worker.follow()
    expect(worker.epoch).not.toBe(epoch)
    agent.follow()
    for (const cache of [worker, agent, new HandleCache(journal)]) {
      expect([cache.find('01'), cache.find('02'), cache.find('03')]).toEqual([undefined, aes(2), undefined])
    }
  })

  test('that were replaced are so for everyone who has not read the former ones', () => {
    const journal = openJournal(1)
    const [one, two] = [new HandleCache(journal), new HandleCache(journal)]
    one.put('01', aes(1))
    const stale = two.find('01')
    one.put('01', aes(9))
    two.forget('01')
    expect(two.find('01')).toBeUndefined()
    expect(stale).toEqual(aes(1))
    expect(new HandleCache(journal).find('01')).toEqual(aes(9))
  })

  test('beyond the journal stay known to the thread that found them', () => {
    const journal = openJournal(0)
    const [one, two] = [new HandleCache(journal), new HandleCache(journal)]
    const id = (number: number): string => number.toString(16).padStart(8, '0')
    for (let number = 0; number < 20_000; number += 1) one.put(id(number), aes(number))
    expect(one.find(id(19_999))).toEqual(aes(19_999))
    expect(two.find(id(19_999))).toBeUndefined()
    expect(two.find(id(5))).toEqual(aes(5))
  })

  test('waiting for a login ends when there is one, or in time', () => {
    const journal = openJournal(0)
    const [agent, worker] = [new HandleCache(journal), new HandleCache(journal)]
    expect(worker.waitForLogin(worker.epoch, 10)).toBe(false)
    agent.renew(new Map())
    expect(worker.waitForLogin(worker.epoch, 10)).toBe(true)
  })

  test('any history read late gives what it gives read early', () => {
    const id = fc.uint8Array({ minLength: 1, maxLength: 32 }).map((bytes) => Buffer.from(bytes).toString('hex'))
    fc.assert(
      fc.property(fc.array(fc.tuple(id, fc.nat(0xffff)), { maxLength: 50 }), (history) => {
        const journal = openJournal(0)
        const writer = new HandleCache(journal)
        const early = new HandleCache(journal)
        for (const [ckaId, number] of history) {
          writer.put(ckaId, aes(number))
          early.forget(ckaId)
        }
        const late = new HandleCache(journal)
        const last = new Map(history)
        for (const [ckaId, number] of last) expect(late.find(ckaId)).toEqual(aes(number))
      }),
    )
  })
})
