/**
 * What the XKS proxy has the devices do, each call with the deadline of its request. A call that is given up goes on in its device, and only so many
 * may: a device that hangs gets no more.
 */

import { within } from '../../base/within.ts'
import type { KeyRecord } from '../../store/store.ts'
import type { Service } from '../service.ts'
import { ofDevice, tooLate, XksRefusal } from './refusal.ts'
import type { Asked } from './request.ts'

/** Calls that were given up and are still in a device: beyond so many, no further call goes there until it answers. */
const maxAbandoned = 64
/** With less time left than this a call is not begun. */
const leastForDeviceMs = 10

export interface XksDevices {
  /** Work in the key's device, waited for until the request's deadline. @throws XksRefusal when that comes, or nobody has time */
  use<T>(asked: Asked, key: KeyRecord, work: () => Promise<T>): Promise<T>
  /** Resolves when no device is at work any more, for those either who have given up. */
  close(): Promise<void>
}

export function openXksDevices(service: Service): XksDevices {
  /** By token. */
  const abandoned = new Map<string, number>()
  const underWay = new Set<Promise<void>>()

  const deviceError = (key: KeyRecord, error: unknown): unknown => {
    try {
      return ofDevice(error, service.tokenOf(key))
    } catch {
      // There is no such token, which is what the error says.
      return error
    }
  }

  return {
    async use(asked, key, work) {
      const { token: name } = key
      const leftMs = asked.request.deadline - service.clock.now()
      if (leftMs < leastForDeviceMs) throw new XksRefusal('ThrottlingException', 'The proxy has too much to do to answer in time.')
      if ((abandoned.get(name) ?? 0) >= maxAbandoned)
        throw new XksRefusal('DependencyTimeoutException', 'The key manager has not been answering for a while.')
      const begin = async () => {
        await service.keyStores.ready(key)
        return work()
      }
      const working = begin()
      let late = false
      const settled = (): void => {
        if (late) abandoned.set(name, (abandoned.get(name) ?? 1) - 1)
      }
      const inDevice = working.then(settled, settled)
      asked.inDevice = inDevice
      underWay.add(inDevice)
      void inDevice.then(() => underWay.delete(inDevice))
      try {
        return await within(leftMs, working, () => {
          late = true
          abandoned.set(name, (abandoned.get(name) ?? 0) + 1)
          return tooLate()
        })
      } catch (error) {
        throw deviceError(key, error)
      }
    },
    async close() {
      while (underWay.size > 0) await Promise.all(underWay)
    },
  }
}
