/** A certificate for servers on this machine that are there for a measurement or a test. */

import { createSign, generateKeyPairSync, randomBytes } from 'node:crypto'

/** A self-signed certificate for `name`, made here so that no tool is needed: RFC 5280, ECDSA P-256. It is for the address 127.0.0.1 too. */
export function selfSigned(name: string): { readonly cert: string; readonly key: string } {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const der = (type: number, ...parts: readonly Buffer[]): Buffer => {
    const content = Buffer.concat(parts)
    const length = content.length < 0x80 ? Buffer.from([content.length]) : Buffer.from([0x82, content.length >> 8, content.length & 0xff])
    return Buffer.concat([Buffer.from([type]), length, content])
  }
  const ecdsaWithSha256 = der(0x30, Buffer.from('06082a8648ce3d040302', 'hex'))
  const subject = der(0x30, der(0x31, der(0x30, Buffer.from('0603550403', 'hex'), der(0x0c, Buffer.from(name)))))
  const validity = der(0x30, der(0x17, Buffer.from('250101000000Z')), der(0x17, Buffer.from('490101000000Z')))
  // subjectAltName: the IP address 127.0.0.1, which is what its clients connect to.
  const altName = der(0x30, Buffer.from('0603551d11', 'hex'), der(0x04, der(0x30, der(0x87, Buffer.from([127, 0, 0, 1])))))
  const serial = der(0x02, Buffer.concat([Buffer.from([1]), randomBytes(8)]))
  const version3 = der(0xa0, der(0x02, Buffer.from([2])))
  const spki = publicKey.export({ type: 'spki', format: 'der' })
  const body = der(0x30, version3, serial, ecdsaWithSha256, subject, validity, subject, spki, der(0xa3, der(0x30, altName)))
  const signature = createSign('sha256').update(body).sign(privateKey)
  const certificate = der(0x30, body, ecdsaWithSha256, der(0x03, Buffer.from([0]), signature))
  const lines = certificate.toString('base64').replace(/.{64}/g, '$&\n')
  return {
    cert: `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`,
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
  }
}
