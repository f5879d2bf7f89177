/**
 * The child process of `doctor.ts`: loads one PKCS#11 library, reads what it says of itself without logging in, sends
 * that as one message and ends. A library that crashes or hangs takes only this process with it.
 */
import { Module, SlotFlag, TokenFlag, type Mechanism, type Slot, type Token } from 'graphene-pk11'
import { CKF, nameOf, statesNoLimit } from './constants.ts'
import type { MechanismReport, ModuleReport, SlotReport, TokenReport } from './doctor.ts'

/** Text in PKCS#11 structures is padded with blanks to a fixed width, by some libraries with zeros. */
const plain = (text: string): string => text.replaceAll('\0', '').trim()

const version = ({ major, minor }: { readonly major: number; readonly minor: number }): string => `${major}.${minor}`

/** CK_MECHANISM_INFO.flags by word (PKCS#11 v3.0, section 5.5), without the elliptic curve details. */
const mechanismFlags: readonly (readonly [number, string])[] = [
  [0x0_0001, 'hw'],
  [0x0_0100, 'encrypt'],
  [0x0_0200, 'decrypt'],
  [0x0_0400, 'digest'],
  [0x0_0800, 'sign'],
  [0x0_1000, 'sign-recover'],
  [0x0_2000, 'verify'],
  [0x0_4000, 'verify-recover'],
  [0x0_8000, 'generate'],
  [0x1_0000, 'generate-pair'],
  [0x2_0000, 'wrap'],
  [0x4_0000, 'unwrap'],
  [0x8_0000, 'derive'],
]

function describeMechanism(mechanism: Mechanism): MechanismReport {
  const type: number = mechanism.type
  const ours = nameOf('CKM', type)
  return {
    number: type,
    // graphene knows more names than this program uses, and writes them without their prefix.
    name: ours.startsWith('CKM_0x') && mechanism.name !== 'unknown' ? `CKM_${mechanism.name}` : ours,
    minKeySize: mechanism.minKeySize,
    maxKeySize: mechanism.maxKeySize,
    flags: mechanismFlags.filter(([flag]) => (mechanism.flags & flag) !== 0).map(([, word]) => word),
  }
}

function describeToken(token: Token): TokenReport {
  const has = (flag: number): boolean => (token.flags & flag) !== 0
  const limit = (count: number): number | null => (statesNoLimit(count) ? null : count)
  return {
    label: plain(token.label),
    manufacturer: plain(token.manufacturerID),
    model: plain(token.model),
    serial: plain(token.serialNumber),
    firmware: version(token.firmwareVersion),
    initialized: has(TokenFlag.TOKEN_INITIALIZED),
    userPinSet: has(CKF.CKF_USER_PIN_INITIALIZED),
    userPinLocked: has(CKF.CKF_USER_PIN_LOCKED),
    userPinLastTry: has(CKF.CKF_USER_PIN_FINAL_TRY),
    userPinToBeChanged: has(CKF.CKF_USER_PIN_TO_BE_CHANGED),
    maxSessions: limit(token.maxSessionCount),
    pinLength: [token.minPinLen, token.maxPinLen],
  }
}

function describeSlot(slot: Slot): SlotReport {
  const present = (slot.flags & SlotFlag.TOKEN_PRESENT) !== 0
  const id = slot.handle.readBigUInt64LE(0)
  const base = { id: `0x${id.toString(16)}`, description: plain(slot.slotDescription), hardware: (slot.flags & SlotFlag.HW_SLOT) !== 0 }
  if (!present) return { ...base, token: undefined, mechanisms: [], problem: undefined }
  try {
    const list = slot.getMechanisms()
    const mechanisms = Array.from({ length: list.length }, (_, index) => describeMechanism(list.items(index)))
    return { ...base, token: describeToken(slot.getToken()), mechanisms, problem: undefined }
  } catch (error) {
    // One broken slot must not hide the others.
    return { ...base, token: undefined, mechanisms: [], problem: error instanceof Error ? error.message : String(error) }
  }
}

function describeModule(library: string): ModuleReport {
  const module = Module.load(library)
  module.initialize({ flags: CKF.CKF_OS_LOCKING_OK })
  try {
    const slots = module.getSlots(false)
    return {
      library,
      description: plain(module.libraryDescription),
      manufacturer: plain(module.manufacturerID),
      version: version(module.libraryVersion),
      cryptoki: version(module.cryptokiVersion),
      slots: Array.from({ length: slots.length }, (_, index) => describeSlot(slots.items(index))),
    }
  } finally {
    module.finalize()
  }
}

process.once('message', (request: { readonly library: string }) => {
  let answer: { readonly report: ModuleReport } | { readonly problem: string }
  try {
    answer = { report: describeModule(request.library) }
  } catch (error) {
    answer = { problem: error instanceof Error ? error.message : String(error) }
  }
  process.send?.(answer, () => process.disconnect())
})
