/**
 * SoftHSM2's own file about a token, `token.object` in the token's folder: its label, and whether a user can log in.
 *
 * Asking the library takes a process and a look at every object of the token; this takes a read. The format is SoftHSM's (lib/object_store, File.cpp and
 * ObjectFile.cpp of 2.6.1): an unsigned number of 8 bytes, most significant first, that counts changes; then attributes, each its type, its kind and
 * its value. So it is only believed when it says yes and was understood to its last byte: everything else is the library's to say.
 */

/** CKA_OS_TOKENLABEL and what comes with it in every token that was made to its end: serial number, flags, the keys behind both PINs. */
const [label, serial, flags, soPin, userPin] = [1n, 2n, 3n, 4n, 5n].map((number) => 0x8000_5348n + number)

const tokenInitialized = 0x400n
const userPinInitialized = 0x8n

/**
 * @param {Buffer} bytes the whole file
 * @returns the label of a token on which a user can log in; undefined when there is no saying so
 */
export function usableLabelIn(bytes) {
  const attributes = readAttributes(bytes)
  if (![label, serial, soPin, userPin].every((type) => Buffer.isBuffer(attributes?.get(type)))) return undefined
  const said = attributes.get(flags)
  if (typeof said !== 'bigint' || (said & tokenInitialized) === 0n || (said & userPinInitialized) === 0n) return undefined
  return attributes.get(label).toString().replaceAll('\0', '').trimEnd()
}

/** Numbers and byte strings by type; undefined when anything is not as it should be. */
function readAttributes(bytes) {
  const attributes = new Map()
  let at = 8
  const take = (length) => {
    if (length > bytes.length - at) throw new RangeError('cut off')
    at += length
    return bytes.subarray(at - length, at)
  }
  const number = () => take(8).readBigUInt64BE()
  try {
    do {
      const type = number()
      const kind = number()
      if (kind === 1n) attributes.set(type, take(1)[0] !== 0)
      else if (kind === 2n) attributes.set(type, number())
      else if (kind === 3n) attributes.set(type, take(Number(number())))
      else return undefined
    } while (at < bytes.length)
    return attributes
  } catch (error) {
    if (error instanceof RangeError) return undefined
    throw error
  }
}
