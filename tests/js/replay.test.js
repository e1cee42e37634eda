// Replays against running gateways, as tests: a part of a real trace strictly, the same with forced reconnects, and two
// writers at one place. In: GATEWAY_URLS and GATEWAY_JWT_SECRET (with-gateway.mjs sets them); EDITING_TRACES, the
// folder of the traces, where it is not ../shared/data/editing-traces beside the checkout.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const here = (path) => fileURLToPath(new URL(path, import.meta.url))
const folder = process.env.EDITING_TRACES ?? here('../../../shared/data/editing-traces')
const trace = `${folder}/friendsforever.json.gz`
const skip = !existsSync(trace) && `no ${trace}: set EDITING_TRACES`

test('two writers replay a real trace, each knowing what its author knew', { skip }, () =>
  replay('--trace', trace, '--limit', '1500'),
)

test('with forced reconnects everything is in the log once', { skip }, () =>
  replay('--trace', trace, '--limit', '1000', '--reconnect-percent', '5'),
)

test('two writers at one place tear no word', () => replay('--mode', 'same-place', '--limit', '300'))

async function replay(...flags) {
  const child = spawn(process.execPath, [here('replay.mjs'), ...flags, '--timeout-seconds', '120'], { stdio: ['ignore', 'pipe', 'inherit'] })
  let lines = ''
  child.stdout.on('data', (data) => (lines += data))
  await once(child, 'close')
  const told = lines.trim().split('\n').map((line) => JSON.parse(line))
  const verdict = told.at(-1)
  const where = told.filter(({ event }) => event === 'status' || event === 'started')
  assert.ok(verdict.ok, `${JSON.stringify(verdict)}\n${where.map((status) => JSON.stringify(status)).join('\n')}`)
}
