// Writes tests/vectors/ot/quill-delta.json: what npm `quill-delta` makes of random documents and changes.
// In: a number of cases and a seed. Out: one case a line; the Rust test `quill_delta` reads them.
// Usage, after `npm ci` in gateway/client: node gateway/ot/tests/generate.mjs [cases] [seed]
// With a third argument the file is written there instead, for larger runs that are not kept.
import { createRequire } from 'node:module'
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const require = createRequire(new URL('../../client/package.json', import.meta.url))
const Delta = require('quill-delta')
const version = require('quill-delta/package.json').version

const cases = Number(process.argv[2] ?? 600)
let state = BigInt(process.argv[3] ?? 20260901) * 2654435761n | 1n
const target = process.argv[4] ?? fileURLToPath(new URL('../../../tests/vectors/ot/quill-delta.json', import.meta.url))

/** A number below n. */
function below(n) {
  const mask = (1n << 64n) - 1n
  state ^= (state << 13n) & mask
  state ^= state >> 7n
  state ^= (state << 17n) & mask
  return Number((state >> 20n) % BigInt(n))
}
const pick = (values) => values[below(values.length)]

function attributes() {
  if (below(2)) return undefined
  const map = {}
  for (const name of ['bold', 'color', 'list']) {
    const value = pick([undefined, undefined, true, 'red', null, { nested: [1, 2] }])
    if (value !== undefined) map[name] = value
  }
  return map
}

function insert(delta) {
  if (below(5) === 0) return delta.insert({ image: below(3) }, attributes())
  let text = ''
  for (let length = 1 + below(4); length > 0; length--) text += pick(['a', 'b', 'é', '用', '😀', '\n'])
  return delta.insert(text, attributes())
}

function document(most) {
  const delta = new Delta()
  for (let length = below(most + 1); length > 0; length--) insert(delta)
  return delta
}

/** Places between whole characters: half a pair is refused on the Rust side. */
function places(document) {
  const out = [0]
  let at = 0
  for (const op of document.ops) {
    const units = typeof op.insert === 'string' ? [...op.insert].map((character) => character.length) : [1]
    for (const length of units) out.push((at += length))
  }
  return out
}

function change(document) {
  const spots = places(document)
  const delta = new Delta()
  for (let at = 0; ; ) {
    if (below(5) < 2) insert(delta)
    if (at + 1 >= spots.length || below(5) === 0) return delta.chop()
    const to = Math.min(at + 1 + below(4), spots.length - 1)
    const length = spots[to] - spots[at]
    at = to
    const kind = below(4)
    if (kind === 0) delta.delete(length)
    else delta.retain(length, kind === 1 ? attributes() : undefined)
  }
}

const lines = []
for (let index = 0; index < cases; index++) {
  const base = document(4)
  const a = change(base)
  const b = change(base)
  const after = base.compose(a)
  const c = change(after)
  const position = below(base.length() + 2)
  lines.push(
    JSON.stringify({
      base: base.ops,
      a: a.ops,
      b: b.ops,
      c: c.ops,
      after: after.ops,
      composed: a.compose(c).ops,
      thisFirst: a.transform(b, true).ops,
      otherFirst: a.transform(b, false).ops,
      inverse: a.invert(base).ops,
      position,
      before: a.transformPosition(position, true),
      behind: a.transformPosition(position),
    }),
  )
}
writeFileSync(target, `{"quillDelta":"${version}","cases":[\n${lines.join(',\n')}\n]}\n`)
