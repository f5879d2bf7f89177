/** What is kept of a connection, and who goes when there is no place. */

import { Socket } from 'node:net'
import { expect, test } from 'vitest'
import { Connections } from '../../src/http/connections.ts'

const open = (max: number): Connections => new Connections({ max, takesLong: undefined, onLimit: () => undefined })

test('a connection that works and idles by turns is waited for once, not once for each turn', () => {
  const connections = open(100)
  const socket = new Socket()
  const before = socket.listenerCount('close')
  for (let n = 0; n < 50; n++) {
    connections.works(socket)
    connections.idles(socket)
  }
  expect(socket.listenerCount('close')).toBe(before + 1)
  socket.destroy()
})

test('when one found no place because other processes have taken it, those that have been idle longest go', () => {
  const connections = open(100)
  const sockets = Array.from({ length: 20 }, () => new Socket())
  for (const socket of sockets) {
    connections.opened(socket)
    connections.idles(socket)
  }
  connections.works(sockets[0] ?? new Socket())
  connections.elsewhere(200)
  connections.dropped()
  const destroyed = sockets.map((socket) => socket.destroyed)
  expect(destroyed[0]).toBe(false)
  expect(destroyed.slice(1, 9)).toEqual(Array.from({ length: 8 }, () => true))
  expect(destroyed.slice(9)).toEqual(Array.from({ length: 11 }, () => false))
  for (const socket of sockets) socket.destroy()
})

test('those who find no place while others are leaving for them drive out nobody else', () => {
  const connections = open(100)
  const sockets = Array.from({ length: 100 }, () => new Socket())
  for (const socket of sockets) {
    connections.opened(socket)
    connections.idles(socket)
  }
  const staying = (): number => sockets.filter(({ destroyed }) => !destroyed).length
  // Six places are kept free.
  expect(staying()).toBe(94)
  for (let n = 0; n < 50; n++) connections.dropped()
  expect(staying()).toBe(93)
  for (const socket of sockets) socket.destroy()
})

test('where there are hardly any places, who has one keeps it', () => {
  const connections = open(2)
  const socket = new Socket()
  connections.opened(socket)
  connections.idles(socket)
  connections.dropped()
  expect(socket.destroyed).toBe(false)
  socket.destroy()
})
