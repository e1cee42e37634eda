// Coming back before others: a stock client sends back the ticket of its join and is admitted as one that was here.
// In: COLLAB_GATEWAY_BIN. Out: what the pods counted. Two pods on one Redis share a key file; a client goes from one to
// the other, and one that was started by `EditorSocket` does it by itself.

import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'

import { io } from 'socket.io-client'

import { EditorSocket } from '../../gateway/client/index.js'
import { allow, startGateways } from './lib/gateways.mjs'
import { signToken } from './lib/tokens.mjs'

const PATIENCE_MS = 20_000

let folder
let pods

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'collab-'))
  const key = join(folder, 'key')
  await writeFile(key, 'a key that all pods have\n')
  pods = await startGateways({ pods: 2, flags: ['--resume-key-file', key] })
  await allow(pods.redisUrl, 'd', { ann: 'write' })
})

after(async () => {
  await pods?.stop()
  await rm(folder, { recursive: true, force: true })
})

test('a stock client goes first on another pod with the ticket in its query', async () => {
  const auth = { token: signToken({ userId: 'ann' }, pods.secret) }
  const first = io(pods.urls[0], { transports: ['websocket'], forceNew: true, auth })
  const joined = await joinedOf(first)
  assert.match(joined.resume, /^[A-Za-z0-9_-]{44}$/)
  const before = await resumed(1)
  const query = { resume: joined.resume }
  const second = io(pods.urls[1], { transports: ['websocket'], forceNew: true, auth, query })
  await joinedOf(second)
  assert.equal(await resumed(1), before + 1)
  first.close()
  second.close()
})

test('the editor sends its last ticket back when it reconnects', async () => {
  const token = signToken({ userId: 'ann' }, pods.secret)
  const editor = new EditorSocket({ url: pods.urls[0], documentId: 'd', token })
  const before = await resumed(0)
  for (const again of [0, 1, 2]) {
    const joined = stateOf(editor, 'joined')
    if (again) editor.dropTransport()
    else editor.connect()
    await joined
    assert.equal(await resumed(0), before + again)
  }
  editor.close()
})

function joinedOf(socket) {
  socket.on('connect', () => socket.emit('join-document', 'd'))
  return soon('document-joined', (resolve) => socket.once('document-joined', resolve))
}

/** The next time the connection becomes this; not what it is now. */
function stateOf(editor, wanted) {
  let last = wanted
  return soon(wanted, (resolve) =>
    editor.on('state', ({ connection }) => {
      if (connection === wanted && last !== wanted) resolve()
      last = connection
    }),
  )
}

async function resumed(pod) {
  const text = await (await fetch(`${pods.adminUrls[pod]}/metrics`)).text()
  return Number(/^collab_gateway_connections_resumed_total (\d+)$/m.exec(text)[1])
}

function soon(what, start) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${what} did not come`)), PATIENCE_MS)
    start((value) => {
      clearTimeout(timer)
      resolve(value)
    })
  })
}
