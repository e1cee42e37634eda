// Checks what the Rust side computed against npm `quill-delta`. Started by the Rust test `quill_delta_generated`.
// In (stdin): one JSON object a line: {case, base, a, b, c, position} and, under the names of CHECKS, what Rust made of
// them. Out (stdout): one JSON object a line: {case, differs, rust, quill} for the first few differences, {case, diff}
// with quill-delta's own difference of two documents now and then, at the end {cases, differences}.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const require = createRequire(new URL('../../client/package.json', import.meta.url))
const Delta = require('quill-delta')

const TOLD_MAX = 5
/** Every so many cases quill-delta's own difference goes back to be checked by law. */
const DIFF_EVERY = 16

const CHECKS = {
  after: ({ base, a }) => base.compose(a).ops,
  composed: ({ a, c }) => a.compose(c).ops,
  thisFirst: ({ a, b }) => a.transform(b, true).ops,
  otherFirst: ({ a, b }) => a.transform(b, false).ops,
  inverse: ({ a, base }) => a.invert(base).ops,
  before: ({ a, position }) => a.transformPosition(position, true),
  behind: ({ a, position }) => a.transformPosition(position),
  // Two differences need not be equal; the one made in Rust must lead to the same document here.
  led: ({ base, difference }) => base.compose(difference).ops,
}
const checks = Object.entries(CHECKS)

/** Equal but for the order of keys. */
function equal(x, y) {
  if (x === y) return true
  if (typeof x !== 'object' || typeof y !== 'object' || x === null || y === null) return false
  if (Array.isArray(x) !== Array.isArray(y)) return false
  const keys = Object.keys(x)
  if (keys.length !== Object.keys(y).length) return false
  for (const key of keys) if (!(key in y) || !equal(x[key], y[key])) return false
  return true
}

let cases = 0
let differences = 0
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)

for await (const line of createInterface({ input: process.stdin })) {
  const told = JSON.parse(line)
  const input = { position: told.position }
  for (const name of ['base', 'a', 'b', 'c', 'difference']) input[name] = new Delta(told[name])
  for (const [name, compute] of checks) {
    const quill = compute(input)
    if (equal(told[name], quill)) continue
    if (differences++ < TOLD_MAX) say({ case: told.case, differs: name, rust: told[name], quill })
  }
  if (cases++ % DIFF_EVERY === 0) say({ case: told.case, diff: input.base.diff(new Delta(told.led)).ops })
}
say({ cases, differences })
