import { describe, expect, test } from 'vitest'
import { CKR } from '../../src/hsm/constants.ts'
import { classify, DeviceError, errorClasses, findDeviceError } from '../../src/hsm/errors.ts'

const plain = { authFailed: [], gone: [] }

describe('a device error is found in what the binding throws', () => {
  test('by its numeric code', () => {
    const thrown = Object.assign(new Error('CKR_DEVICE_ERROR'), { code: 0x30, method: 'C_Encrypt' })
    expect(findDeviceError(thrown)).toMatchObject({ code: 0x30, codeName: 'CKR_DEVICE_ERROR', call: 'C_Encrypt' })
  })

  test('by its text, where the binding gives no code', () => {
    expect(findDeviceError(new Error('CKR_SESSION_HANDLE_INVALID:179'))?.code).toBe(179)
    expect(findDeviceError(new Error('x\nCKR_VENDOR_DEFINED:2147484548\n at C_FindObjects'))).toMatchObject({ codeName: 'CKR_0x80000384' })
  })

  test('and not in what is no answer of the device', () => {
    for (const thrown of [new TypeError('Argument 1 is not a buffer'), new Error('CKR_OK'), { code: 5 }, 'CKR_X:5', undefined]) {
      expect(findDeviceError(thrown)).toBeUndefined()
    }
    expect(findDeviceError(Object.assign(new Error('ENOENT'), { code: 'ENOENT' }))).toBeUndefined()
  })

  test('once normalised it stays itself', () => {
    const error = new DeviceError(0x30, 'C_Sign')
    expect(findDeviceError(error)).toBe(error)
    expect(error.message).toBe('C_Sign answered CKR_DEVICE_ERROR')
  })
})

describe('classes', () => {
  test('no code is in two of them', () => {
    const codes = Object.values(errorClasses).flat()
    expect(new Set(codes).size).toBe(codes.length)
  })

  test('each code has the class of its row', () => {
    for (const [name, codes] of Object.entries(errorClasses)) {
      for (const code of codes) expect(classify(code, false, plain)).toEqual({ class: name, confirm: false })
    }
  })

  test('what is in no row, vendor codes among it, means that the device may be gone', () => {
    for (const code of [CKR.CKR_DEVICE_ERROR, CKR.CKR_TOKEN_NOT_PRESENT, CKR.CKR_GENERAL_ERROR, 0x8000_0384, 0x777]) {
      expect(classify(code, false, plain).class).toBe('gone')
    }
  })

  test('a code that means a bad ciphertext here means it only where a ciphertext was checked', () => {
    const dialect = { authFailed: [CKR.CKR_GENERAL_ERROR, CKR.CKR_ENCRYPTED_DATA_INVALID], gone: [] }
    expect(classify(CKR.CKR_GENERAL_ERROR, true, dialect)).toEqual({ class: 'caller', confirm: true })
    expect(classify(CKR.CKR_GENERAL_ERROR, false, dialect).class).toBe('gone')
    expect(classify(CKR.CKR_ENCRYPTED_DATA_INVALID, true, dialect)).toEqual({ class: 'caller', confirm: false })
  })

  test('a code that means gone here does so whatever the table says, and is confirmed', () => {
    const dialect = { authFailed: [], gone: [CKR.CKR_SESSION_CLOSED] }
    expect(classify(CKR.CKR_SESSION_CLOSED, false, dialect)).toEqual({ class: 'gone', confirm: true })
  })

  test('a code that is both is a bad input only after the canary worked', () => {
    const dialect = { authFailed: [CKR.CKR_DEVICE_ERROR], gone: [CKR.CKR_DEVICE_ERROR] }
    expect(classify(CKR.CKR_DEVICE_ERROR, true, dialect)).toEqual({ class: 'caller', confirm: true })
    expect(classify(CKR.CKR_DEVICE_ERROR, false, dialect).class).toBe('gone')
  })
})
