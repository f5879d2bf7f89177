/** Whether an address is this very machine's, by its spelling: 127.0.0.0/8, ::1 and the name localhost. What a resolver would say is not asked. */
export function isLoopback(address: string): boolean {
  return address === '::1' || address.toLowerCase() === 'localhost' || /^127\.\d+\.\d+\.\d+$/.test(address)
}
