#!/usr/bin/env node
/**
 * Answers `aws kms OPERATION --member value … --query Q --output text` by the SDK, as far as the documents use it: so their commands run where
 * the AWS CLI is not installed. Endpoint, region and credentials come from the environment, as the CLI takes them.
 */
import { readFileSync } from 'node:fs'
import { argv, stdout } from 'node:process'
import * as sdk from '@aws-sdk/client-kms'

const pascal = (kebab) => kebab.replace(/(?:^|-)([a-z])/g, (_all, letter) => letter.toUpperCase())

const [service, operation, ...rest] = argv.slice(2)
const Command = sdk[`${pascal(operation)}Command`]
if (service !== 'kms' || !Command) throw new Error(`not in this stand-in: aws ${service} ${operation}`)

const input = {}
const options = { query: undefined, output: undefined }
for (let at = 0; at < rest.length; at += 2) {
  const [option, value] = [rest[at].replace(/^--/, ''), rest[at + 1]]
  if (option in options) options[option] = value
  else input[pascal(option)] = value.startsWith('fileb://') ? readFileSync(value.slice('fileb://'.length)) : value
}

/** JMESPath as the documents use it: a path, or a list of paths in brackets. */
const at = (answer, path) => path.split('.').reduce((value, name) => value?.[name], answer)
const text = (value) => (value instanceof Uint8Array ? Buffer.from(value).toString('base64') : value === undefined ? 'None' : String(value))

const client = new sdk.KMSClient({ maxAttempts: 1 })
const { $metadata: _metadata, ...answer } = await client.send(new Command(input))
const { query } = options
if (query === undefined) stdout.write(`${JSON.stringify(answer, undefined, 4)}\n`)
else if (query.startsWith('['))
  stdout.write(
    `${query
      .slice(1, -1)
      .split(',')
      .map((path) => text(at(answer, path)))
      .join('\t')}\n`,
  )
else stdout.write(`${text(at(answer, query))}\n`)
