// Stock socket.io-client over wss, against the gateway's own TLS listener: clients check the certificate, a new one is
// taken without a restart while they are connected, and whoever comes later sees the new one.
// In: COLLAB_GATEWAY_BIN, openssl. Out: pass or fail.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { copyFile, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { io as io40 } from 'socket.io-client-4.0'
import { io as io48 } from 'socket.io-client'

import { Delta, textOf } from '../../gateway/client/core/index.js'
import { EditorSocket } from '../../gateway/client/socket/index.js'
import { startGateways } from './lib/gateways.mjs'
import { signToken } from './lib/tokens.mjs'

const DEADLINE_MS = 30_000
/** Several TLS records. */
const LONG = 'one line of a long text\n'.repeat(4000)

test('stock clients edit over wss while the certificate changes', async (context) => {
  const certificates = await makeCertificates(context)
  const [cert, key] = ['tls.crt', 'tls.key'].map((file) => join(certificates.folder, file))
  await certificates.use('old', cert, key)
  const flags = ['--tls-cert-file', cert, '--tls-key-file', key, '--compression']
  const gateways = await startGateways({ flags })
  context.after(() => gateways.stop())
  const url = gateways.urls[0].replace('http:', 'https:')
  const open = (name, io, ca, more = {}) => connect(context, { name, url, io, ca, secret: gateways.secret, ...more })

  const before = [open('v40', io40, certificates.old), open('v48', io48, certificates.old), open('plain', io48, certificates.old, { perMessageDeflate: false })]
  await reached(before, 'join', ({ editor }) => editor.document.live)
  for (const { name, editor } of before) type(editor, `<${name}>${LONG}`)
  await reached(before, 'all words', ({ editor }) => editor.document.version === before.length)
  const stranger = open('stranger', io48, certificates.new)
  await reached([stranger], 'a refusal', ({ errors }) => errors > 0)
  assert.ok(!stranger.editor.document.live, 'it trusts another certificate')

  await certificates.use('new', cert, key)
  // Stock clients try again by themselves: once the gateway has the new certificate this one is let in.
  await reached([stranger], 'the new certificate', ({ editor }) => editor.document.live)
  for (const { name, editor } of before) type(editor, `<${name} again>`)
  const all = [...before, stranger]
  const last = 2 * before.length
  await reached(all, 'the words after it', ({ editor }) => editor.document.version === last)
  assert.deepEqual(before.map(({ losses }) => losses), before.map(() => 0), 'nobody was disconnected for it')
  const text = textOf(stranger.editor.document.shown)
  for (const { name, editor, problems } of all) {
    assert.equal(textOf(editor.document.shown), text, name)
    assert.deepEqual(problems, [], name)
  }

  // A client that must come back meets the new certificate, which it does not trust.
  before[0].editor.socket.io.engine.close()
  await reached([before[0]], 'the end of its trust', ({ errors }) => errors > 0)
})

function connect(context, { name, url, io, ca, secret, ...more }) {
  const token = signToken({ userId: name, name }, secret)
  const options = { reconnectionDelay: 100, reconnectionDelayMax: 300, ca, ...more }
  const editor = new EditorSocket({ url, documentId: 'd', token, open: io, io: options })
  const client = { name, editor, problems: [], losses: 0, errors: 0 }
  editor.on('problem', (problem) => client.problems.push(problem))
  editor.socket.on('disconnect', () => client.losses++)
  editor.socket.io.on('reconnect_error', () => client.errors++)
  editor.socket.io.on('error', () => client.errors++)
  editor.connect()
  context.after(() => editor.close())
  return client
}

function type(editor, word) {
  editor.edit(new Delta().retain(editor.document.shown.length()).insert(word))
}

/** Two certificates for the loopback address, each its own root, and a way to put one in place. */
async function makeCertificates(context) {
  const folder = await mkdtemp(join(tmpdir(), 'collab-tls-'))
  context.after(() => rm(folder, { recursive: true, force: true }))
  const file = (name, end) => join(folder, `${name}.${end}`)
  const made = {}
  for (const name of ['old', 'new']) {
    const what = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '1']
    const whose = ['-subj', `/CN=${name}`, '-addext', 'subjectAltName=IP:127.0.0.1', '-addext', 'basicConstraints=critical,CA:FALSE']
    execFileSync('openssl', [...what, ...whose, '-keyout', file(name, 'key'), '-out', file(name, 'crt')], { stdio: 'pipe' })
    made[name] = await readFile(file(name, 'crt'), 'utf8')
  }
  const use = async (name, cert, key) => {
    await copyFile(file(name, 'key'), key)
    await copyFile(file(name, 'crt'), cert)
  }
  return { folder, ...made, use }
}

async function reached(clients, what, condition) {
  const deadline = Date.now() + DEADLINE_MS
  for (;;) {
    const behind = clients.filter((client) => !condition(client))
    if (behind.length === 0) return
    const told = behind.map(({ name, editor, problems, errors }) => JSON.stringify({ name, version: editor.document.version, problems, errors }))
    assert.ok(Date.now() < deadline, `${what} was not reached: ${told}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
