// The simulation's clients are a twin of this client core; both must do the same. In: tests/vectors/client, written by
// tests/sim (its test client_core plays many more runs). Out: pass or fail.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'

import { play } from './twin_player.js'

const text = readFileSync(new URL('../../../tests/vectors/client/runs.jsonl', import.meta.url), 'utf8')

test('the client core does what its twin in the simulation did', () => {
  assert.ok(play(text) > 100)
})

test('a step that differs is noticed', () => {
  const lines = text.split('\n')
  const last = lines.findLastIndex((line) => line.includes('"local"'))
  const changed = JSON.parse(lines[last])
  changed.shown = [...changed.shown, { insert: '?' }]
  lines[last] = JSON.stringify(changed)
  assert.throws(() => play(lines.join('\n')), /line \d+/)
})
