// The golden vectors of the OT core, which the Rust side reads too, against the quill-delta that clients use.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'

import Delta from 'quill-delta'

const { cases } = JSON.parse(readFileSync(new URL('../../../tests/vectors/ot/quill-delta.json', import.meta.url)))

test('quill-delta gives what the golden vectors say', () => {
  assert.ok(cases.length >= 500, `${cases.length} cases`)
  for (const [index, told] of cases.entries()) {
    const [base, a, b, c] = ['base', 'a', 'b', 'c'].map((name) => new Delta(told[name]))
    const { position } = told
    const found = {
      after: base.compose(a).ops,
      composed: a.compose(c).ops,
      thisFirst: a.transform(b, true).ops,
      otherFirst: a.transform(b, false).ops,
      inverse: a.invert(base).ops,
      before: a.transformPosition(position, true),
      behind: a.transformPosition(position),
    }
    for (const [name, value] of Object.entries(found)) assert.deepEqual(value, told[name], `case ${index}: ${name}`)
  }
})
