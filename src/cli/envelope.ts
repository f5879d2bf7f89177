/**
 * `holdfast encrypt`, `decrypt`, `inspect`, `rewrap`: what they take. What they do is in `messages.ts`, which is loaded by whoever wants it: the
 * threads and the client of KMS would slow every other command down.
 */

import { plainHttpFlag } from './client.ts'
import type { Command, Flag, Positional } from './command.ts'

const file: Positional = { name: 'FILE', optional: true }

const kmsFlags: Readonly<Record<string, Flag>> = {
  endpoint: {
    value: 'URL',
    about:
      "The KMS to call; {region} in it stands for a key's region, and aws for AWS KMS itself. The service on this machine unless given.",
  },
  ...plainHttpFlag,
  region: { value: 'REGION', about: 'Of keys that are named by id or alias. AWS_REGION, or the home region, unless given.' },
  profile: { value: 'NAME', about: 'Of the credentials file.' },
  'grant-token': { value: 'TOKEN', repeated: true, about: 'A grant token for the KMS.' },
}

const outputFlags: Readonly<Record<string, Flag>> = {
  output: { value: 'FILE', about: 'Where to write; - or nothing is standard output. The file is there whole or not at all.' },
  force: { about: 'Replaces a file that is there.' },
  quiet: { about: 'Shows no progress on a terminal.' },
}

const newKey: Flag = {
  value: 'KEY',
  repeated: true,
  required: true,
  about: 'Key id, ARN, alias or alias ARN. Any one of several, in any regions and accounts, will open the message.',
}

const discoveryFlags: Readonly<Record<string, Flag>> = {
  account: { value: 'ACCOUNT-ID', repeated: true, about: 'Without a named key: only keys of this account are asked.' },
  partition: { value: 'NAME', about: 'Without a named key: only keys of this partition are asked, such as aws.' },
}

const frameLengthFlag: Flag = { value: 'BYTES', about: 'Of plaintext, in each frame: 1 to 4294967295; 65536 unless given.' }

const commitmentPolicyFlag: Flag = {
  value: 'POLICY',
  about: 'require-encrypt-require-decrypt unless given; require-encrypt-allow-decrypt also reads the older suites.',
}

const maxFrameLengthFlag: Flag = {
  value: 'BYTES',
  about: 'The longest frames, or body without frames, to read, each of which is held in memory; 67108864 unless given.',
}

const encrypt: Command = {
  name: 'encrypt',
  summary: 'Encrypts a file or standard input under KMS keys, as a message that every AWS Encryption SDK reads.',
  detail:
    'The key service makes the data key; the bytes are encrypted here, by all processors. Memory stays the same however long the file is.\n' +
    'An encryption context is bound to the message and readable in it; the same pairs can be asked for when it is decrypted.',
  positionals: [file],
  flags: {
    key: newKey,
    context: { value: 'NAME=VALUE', repeated: true, about: 'A pair of the encryption context.' },
    'keep-out': {
      value: 'NAME',
      repeated: true,
      about: 'A pair of the context that is not written into the message: who decrypts must give it.',
    },
    sign: { about: 'Signs the message (suite 0x0578): slower, and readers can tell that whoever may only decrypt did not make it.' },
    suite: { value: 'ID', about: '0x0478 or 0x0578.' },
    'frame-length': frameLengthFlag,
    ...outputFlags,
    ...kmsFlags,
  },
  run: async (args, wiring) => (await import('./messages.ts')).encrypt(args, wiring),
}

const decrypt: Command = {
  name: 'decrypt',
  summary: 'Decrypts a message of any AWS Encryption SDK, from a file or standard input.',
  detail:
    'With --key only those keys are asked; without, whichever the message names and the caller may use. Name the key where it matters who made the\n' +
    'message. What is written to standard output is authentic piece by piece; whether it was all of it, the exit code says.',
  positionals: [file],
  flags: {
    key: { ...newKey, required: false, about: 'Only this key is asked, by any name or ARN, or by a replica in another region.' },
    ...discoveryFlags,
    context: { value: 'NAME=VALUE', repeated: true, about: 'The message must have been encrypted with this pair.' },
    buffer: { about: 'A signed message: writes nothing before the signature is verified. Needs the memory for all of it.' },
    'buffer-limit': { value: 'BYTES', about: 'How much --buffer may hold; 1073741824 unless given.' },
    'commitment-policy': commitmentPolicyFlag,
    'max-frame-length': maxFrameLengthFlag,
    ...outputFlags,
    ...kmsFlags,
  },
  run: async (args, wiring) => (await import('./messages.ts')).decrypt(args, wiring),
}

const inspect: Command = {
  name: 'inspect',
  summary: 'Shows what a message says of itself, without decrypting it: suite, keys, encryption context.',
  detail: 'Nothing of it is verified: anybody can write a header. Only decrypting shows that it is authentic.',
  positionals: [file],
  flags: { json: { about: 'Prints JSON.' } },
  run: async (args, wiring) => (await import('./messages.ts')).inspect(args, wiring),
}

const rewrap: Command = {
  name: 'rewrap',
  summary: 'Moves a message to other KMS keys without touching its body.',
  detail:
    'The data key is opened by a key that the message is under and wrapped by the new ones; frames are copied as they are. This takes the right to\n' +
    'kms:Decrypt, not kms:ReEncrypt: the header is authenticated under the data key. Signed messages cannot be moved.\n' +
    'Whoever has the header of before AND the one of after can change the body unnoticed (docs/bulk.md says why). Destroy the old one, or use\n' +
    '--encrypt-again, which makes a new message under a new data key.',
  positionals: [file],
  flags: {
    key: newKey,
    from: { value: 'KEY', repeated: true, about: 'Only this key is asked to open the data key; whichever the message names unless given.' },
    ...discoveryFlags,
    add: { about: 'The message stays under the keys that it is under, too.' },
    'commitment-policy': commitmentPolicyFlag,
    'encrypt-again': { about: 'Decrypts and encrypts the body under a new data key.' },
    'max-frame-length': maxFrameLengthFlag,
    context: { value: 'NAME=VALUE', repeated: true, about: 'The message must have been encrypted with this pair.' },
    ...outputFlags,
    ...kmsFlags,
  },
  run: async (args, wiring) => (await import('./messages.ts')).rewrap(args, wiring),
}

export const envelopeCommands: readonly Command[] = [encrypt, decrypt, inspect, rewrap]
