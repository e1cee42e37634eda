// Runs a command against fresh gateways: node with-gateway.mjs [--pods N] [--demo] -- command…
// In: COLLAB_GATEWAY_BIN. Out: the command's exit code; it gets GATEWAY_URLS, GATEWAY_JWT_SECRET, GATEWAY_PIDS,
// GATEWAY_REDIS_URL (two pods or more) and DEMO_URL (with --demo).

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { parseArgs } from 'node:util'

import { startGateways } from './lib/gateways.mjs'

const separator = process.argv.indexOf('--')
if (separator < 0) throw new Error('usage: node with-gateway.mjs [--pods N] [--demo] -- command…')
const { values } = parseArgs({
  args: process.argv.slice(2, separator),
  options: { pods: { type: 'string', default: '1' }, demo: { type: 'boolean', default: false } },
})
const command = process.argv.slice(separator + 1)

const gateways = await startGateways({ pods: Number(values.pods), demo: values.demo })
const env = {
  ...process.env,
  GATEWAY_URLS: gateways.urls.join(','),
  GATEWAY_JWT_SECRET: gateways.secret,
  GATEWAY_PIDS: gateways.pids.join(','),
  ...(gateways.redisUrl && { GATEWAY_REDIS_URL: gateways.redisUrl }),
  ...(values.demo && { DEMO_URL: gateways.urls[0] }),
}
const child = spawn(command[0], command.slice(1), { stdio: 'inherit', env })
const stopChild = (signal) => child.kill(signal)
process.on('SIGINT', stopChild).on('SIGTERM', stopChild)
const [code] = await once(child, 'exit')
await gateways.stop()
process.exitCode = code ?? 1
