/** The environment of what tests start; apart, since a process that is started by the hundred reads it too. */

/** Nothing of ours or of AWS from the shell that runs the tests decides how the service under test behaves. */
export function cleanEnvironment(): Record<string, string> {
  const kept = Object.entries(process.env).filter(([name]) => !/^(?:AWS_|HOLDFAST_|VITEST|NODE_ENV$|SOFTHSM2_CONF$)/.test(name))
  return Object.fromEntries(kept) as Record<string, string>
}
