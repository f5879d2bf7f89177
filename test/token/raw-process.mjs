/** The process of `raw-module.ts`: loads the module named on its command line and calls what it is told. */
import process from 'node:process'
import pkcs11 from 'pkcs11js'

const module = new pkcs11.PKCS11()
module.load(process.argv[2])

const buffers = (value) => {
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  if (Array.isArray(value)) return value.map(buffers)
  if (typeof value === 'object' && value !== null)
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, buffers(item)]))
  return value
}

// The binding hands the module pointers into the Buffers of an …Init call, and some modules write there later.
let held = []

process.on('message', ({ method, args }) => {
  const given = buffers(args)
  if (method.endsWith('Init')) held = given
  try {
    const result = module[method](...given)
    process.send({ result, args: given, held })
  } catch (error) {
    // Some calls of the binding have the code only in their text.
    const code = error.code ?? Number(/:(\d+)/.exec(error.message)?.[1] ?? -1)
    process.send({ problem: { message: String(error.message), code }, args: given, held })
  }
})
process.on('disconnect', () => process.exit())
