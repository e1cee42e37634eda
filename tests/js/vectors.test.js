// Plays every vector of tests/vectors/protocol against running gateways, with a stock socket.io-client.
// In: GATEWAY_URLS (comma-separated; some vectors need two pods of one cluster), GATEWAY_JWT_SECRET, and where they are
// known GATEWAY_REDIS_URL (keys of users and access) and GATEWAY_PIDS. with-gateway.mjs sets all of them.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'

import { playVector } from './lib/vector_player.mjs'

const folder = new URL('../vectors/protocol/', import.meta.url)
const list = (name) => (process.env[name] ?? '').split(',').filter(Boolean)
const gateways = {
  urls: list('GATEWAY_URLS'),
  secret: process.env.GATEWAY_JWT_SECRET,
  redisUrl: process.env.GATEWAY_REDIS_URL,
  pids: list('GATEWAY_PIDS').map(Number),
}

test('gateways are given', () => {
  assert.ok(gateways.urls.length > 0, 'set GATEWAY_URLS, or run: node with-gateway.mjs --pods 2 -- node --test vectors.test.js')
  assert.ok(gateways.secret, 'set GATEWAY_JWT_SECRET to the HS256 secret of these gateways')
})

const run = Date.now().toString(36)
const files = gateways.urls.length > 0 ? readdirSync(folder).filter((name) => name.endsWith('.json')).sort() : []
for (const file of files) {
  const vector = JSON.parse(readFileSync(new URL(file, folder)))
  const { pods = 1 } = vector
  const lacksPods = gateways.urls.length < pods && `needs ${pods} pods`
  const lacksPids = vector.pauses && gateways.pids.length < pods && 'needs GATEWAY_PIDS to pause a pod'
  test(vector.name, { skip: lacksPods || lacksPids }, async () => {
    await playVector(vector, gateways, `v-${run}-${file.replace('.json', '')}`)
  })
}
