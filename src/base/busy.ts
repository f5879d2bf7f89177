/** Too much waits for something already. Nothing was done; trying again later can help. */
export class Busy extends Error {
  override readonly name = 'Busy'
}
