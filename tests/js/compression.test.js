// Stock clients that offer permessage-deflate (in Node all do) beside one that does not: with `--compression` they edit one
// document of long words, lose their transport in the middle, and end equal; without it nobody's offer is accepted.
// In: COLLAB_GATEWAY_BIN. Out: pass or fail.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { io as io40 } from 'socket.io-client-4.0'
import { io as io48 } from 'socket.io-client'

import { Delta, textOf } from '../../gateway/client/core/index.js'
import { EditorSocket } from '../../gateway/client/socket/index.js'
import { startGateways } from './lib/gateways.mjs'
import { signToken } from './lib/tokens.mjs'

const EDITS = 20
/** Beyond the 1024 bytes from which these clients compress. */
const WORD = 'words that come again and again, '.repeat(60)
const DEADLINE_MS = 30_000
const KINDS = {
  v40: [io40, {}],
  v48: [io48, {}],
  always: [io48, { perMessageDeflate: { threshold: 0 } }],
  never: [io48, { perMessageDeflate: false }],
}

test('clients with and without compression end equal', async (context) => {
  const gateways = await startGateways({ flags: ['--compression'] })
  context.after(() => gateways.stop())
  const clients = await connect(context, gateways)
  for (const { name, editor } of clients) assert.equal(agreed(editor), name !== 'never', `${name} has what it offered`)
  for (let i = 0; i < EDITS; i++) {
    for (const { name, editor } of clients) editor.edit(new Delta().retain(editor.document.shown.length()).insert(`<${name}-${i}>${WORD}`))
    if (i === EDITS / 2) for (const { editor } of clients) editor.socket.io.engine.close()
  }
  const last = EDITS * clients.length
  await reached(clients, 'the last version', ({ editor }) => editor.document.version === last && editor.document.confirmedSeq === EDITS)
  const text = textOf(clients[0].editor.document.shown)
  assert.ok(text.length > last * WORD.length)
  for (const { name, editor, problems } of clients) {
    assert.equal(textOf(editor.document.shown), text, name)
    assert.deepEqual(problems, [], name)
  }
  const metrics = await (await fetch(`${gateways.adminUrls[0]}/metrics`)).text()
  const saved = Number(/^collab_gateway_compression_saved_bytes_total (\d+)$/m.exec(metrics)?.[1])
  context.diagnostic(`${saved} bytes spared`)
  assert.ok(saved > last * WORD.length, `${saved} bytes`)
})

test('without the flag nobody compresses', async (context) => {
  const gateways = await startGateways()
  context.after(() => gateways.stop())
  const clients = await connect(context, gateways)
  for (const { name, editor } of clients) assert.equal(agreed(editor), false, name)
})

async function connect(context, gateways) {
  const clients = Object.entries(KINDS).map(([name, [open, io]]) => {
    const token = signToken({ userId: name, name }, gateways.secret)
    const editor = new EditorSocket({ url: gateways.urls[0], documentId: 'd', token, open, io: { reconnectionDelay: 50, ...io } })
    const problems = []
    editor.on('problem', (problem) => problems.push(problem))
    editor.connect()
    return { name, editor, problems }
  })
  context.after(() => clients.forEach(({ editor }) => editor.close()))
  await reached(clients, 'join', ({ editor }) => editor.document.live)
  return clients
}

/** Whether the client's WebSocket compresses. */
function agreed(editor) {
  return editor.socket.io.engine.transport.ws.extensions.includes('permessage-deflate')
}

async function reached(clients, what, condition) {
  const deadline = Date.now() + DEADLINE_MS
  for (;;) {
    const behind = clients.filter((client) => !condition(client))
    if (behind.length === 0) return
    const told = behind.map(({ name, editor, problems }) => JSON.stringify({ name, version: editor.document.version, problems }))
    assert.ok(Date.now() < deadline, `${what} was not reached: ${told}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
