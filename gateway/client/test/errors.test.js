// The error codes that gateways know, in the list that the Rust side reads too, and what this client does about each.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'

import { actionFor } from '../core/index.js'

const { connect, events } = JSON.parse(readFileSync(new URL('../../../tests/vectors/errors.json', import.meta.url)))

test('each error code is answered as the list says', () => {
  const answered = Object.keys(events).map((code) => [code, actionFor(code)])
  assert.deepEqual(Object.fromEntries(answered), events)
  for (const code of [...Object.keys(connect), 'NEW_ONE']) assert.equal(actionFor(code), 'tell')
})
