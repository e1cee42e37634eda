// Operations a second of npm quill-delta on one core, on a real trace. In: the trace's file. Out: one JSON line {apply,
// transform}, counted in CPU time of this process.

import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'

import Delta from 'quill-delta'

const { startContent = '', endContent, txns } = JSON.parse(gunzipSync(readFileSync(process.argv[2])))
const edits = txns.flatMap(({ patches }) =>
  patches.map(([at, deleted, inserted]) => new Delta().retain(at).insert(inserted).delete(deleted).chop()),
)

const apply = perSecond(edits.length, () => {
  const end = edits.reduce((document, edit) => document.compose(edit), new Delta().insert(startContent))
  const text = end.ops.map(({ insert }) => insert).join('')
  if (text !== endContent) throw new Error('the benchmark must do the work')
})
let kept = 0
const transforming = () => {
  for (let i = 1; i < edits.length; i++) kept += edits[i - 1].transform(edits[i], false).ops.length
}
transforming() // as hot as in a server that has run for a while
const transform = perSecond(edits.length - 1, transforming)
console.log(JSON.stringify({ apply, transform, kept }))

function perSecond(operations, work) {
  const before = process.cpuUsage()
  work()
  const { user, system } = process.cpuUsage(before)
  return operations / ((user + system) / 1e6)
}
