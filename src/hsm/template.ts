/**
 * Builds the attribute templates that are handed to the device.
 *
 * The binding aborts the process on an attribute whose type is not a number, and passes 32 bits of a larger value; so
 * everything is checked here and a mistake is an ordinary error.
 */
import type { Attribute } from 'pkcs11js'
import { CKA } from './constants.ts'

export type AttributeName = keyof typeof CKA
export type AttributeValue = boolean | number | string | Buffer

/** A template that a programmer got wrong. Never caused by input. */
export class TemplateError extends Error {
  override readonly name = 'TemplateError'
}

/**
 * @param omit CKA_ numbers this product refuses even at their default value; left out without a word
 * @throws TemplateError for a value that is undefined or cannot be passed as it is
 */
export function template(
  values: Readonly<Partial<Record<AttributeName, AttributeValue | undefined>>>,
  omit: readonly number[] = [],
): Attribute[] {
  const attributes: Attribute[] = []
  for (const [name, value] of Object.entries(values)) {
    const type = (CKA as Readonly<Record<string, number>>)[name]
    if (type === undefined) throw new TemplateError(`${name} has no number`)
    if (typeof value === 'number' ? !Number.isInteger(value) || value < 0 || value > 0xffff_ffff : !passable(value)) {
      throw new TemplateError(`${name} cannot be ${String(value)}`)
    }
    if (!omit.includes(type)) attributes.push({ type, value: value as AttributeValue })
  }
  return attributes
}

function passable(value: unknown): boolean {
  return typeof value === 'boolean' || typeof value === 'string' || Buffer.isBuffer(value)
}
