// Stock clients old and new in one document: socket.io-client 4.0, 4.5, 4.6 and 4.8 and python-socketio connect, type
// without waiting, lose their pod in the middle, join again on the other one and end in one document with every word in
// it once; the same with compression, for which they all ask. In: COLLAB_GATEWAY_BIN; COLLAB_CACHE with python-socketio (make setup).

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { io as io40 } from 'socket.io-client-4.0'
import { io as io45 } from 'socket.io-client-4.5'
import { io as io46 } from 'socket.io-client-4.6'
import { io as io48 } from 'socket.io-client'

import { Delta, textOf } from '../../gateway/client/core/index.js'
import { EditorSocket } from '../../gateway/client/socket/index.js'
import { allow, startGateways } from './lib/gateways.mjs'
import { startService } from './lib/service.mjs'
import { signToken } from './lib/tokens.mjs'

const WORDS = 60
/** The pod dies when every client has this many words in the log. */
const WORDS_BEFORE = 20
const DEADLINE_MS = 60_000
const DOCUMENT = 'clients-of-all-ages'
const python = `${process.env.COLLAB_CACHE ?? `${process.env.HOME}/.cache/collabcluster`}/python-socketio/bin/python`
const hasPython = existsSync(python)

/** Beyond the 1024 bytes from which Node's clients compress; every tenth word carries it where there is compression. */
const LONG = 'said again and again '.repeat(60)

for (const compression of [false, true]) {
  const how = compression ? ', compressed' : ''
  test(`stock clients of every age lose their pod and end equal${how}`, (context) => loseThePod(context, compression))
}

async function loseThePod(context, compression) {
  assert.ok(hasPython || process.env.CI !== 'true', 'no python-socketio: run make setup')
  if (!hasPython) context.diagnostic('SKIPPED: python-socketio is absent; run make setup')
  const gateways = await startGateways({ pods: 2, flags: compression ? ['--compression'] : [] })
  context.after(() => gateways.stop())
  const service = await startService(gateways.urls)
  context.after(() => service.stop())
  const names = ['v40', 'v45', 'v46', 'v48', ...(hasPython ? ['python'] : [])]
  await allow(gateways.redisUrl, DOCUMENT, Object.fromEntries([...names, 'witness'].map((name) => [name, 'write'])))

  const tokenOf = (name) => signToken({ userId: name, name }, gateways.secret)
  const versions = { v40: io40, v45: io45, v46: io46, v48: io48 }
  const clients = names.map((name) =>
    name === 'python' ? new PythonClient(name, service.url, tokenOf(name)) : new NodeClient(name, service.url, tokenOf(name), versions[name]),
  )
  const witness = new NodeClient('witness', gateways.urls[1], tokenOf('witness'), io48)
  context.after(() => Promise.all([...clients, witness].map((client) => client.close())))

  const word = (name, i) => `<${name}-${i}>${compression && i % 10 === 0 ? LONG : ''}`
  await reached([...clients, witness], 'join', (client) => client.isJoined)
  for (const client of clients) assert.equal(client.isCompressed, compression, `${client.name} has what it offered`)
  for (let i = 0; i < WORDS / 2; i++) for (const client of clients) client.type(word(client.name, i))
  await reached(clients, `${WORDS_BEFORE} words`, (client) => client.confirmed >= WORDS_BEFORE)
  gateways.processes[0].kill('SIGKILL')
  for (let i = WORDS / 2; i < WORDS; i++) for (const client of clients) client.type(word(client.name, i))

  await reached(clients, 'all words', (client) => client.confirmed === WORDS)
  await reached([...clients, witness], 'the last version', (client) => client.version === WORDS * clients.length)
  for (const { name, losses } of clients) assert.ok(losses > 0, `${name} was to lose its pod`)
  for (const { name, problems } of clients) assert.deepEqual(problems, [], `${name} was told of problems`)
  for (const { name, text } of clients) assert.equal(text, witness.text, `${name} and the witness`)
  for (const { name } of clients) {
    for (let i = 0; i < WORDS; i++) assert.equal(witness.text.split(`<${name}-${i}>`).length, 2, `${name}'s word ${i} is there once`)
  }
  for (const client of clients) assert.equal(client.isCompressed, compression, `${client.name} on the other pod`)
  const saved = (await metrics(gateways.adminUrls[1])).match(/compression_saved_bytes_total (\d+)/)[1]
  context.diagnostic(`${saved} bytes spared by the pod that stayed`)
  assert.equal(Number(saved) > 0, compression)
}

async function metrics(adminUrl) {
  return (await fetch(`${adminUrl}/metrics`)).text()
}

class NodeClient {
  losses = 0
  problems = []

  constructor(name, url, token, open) {
    this.name = name
    this.editor = new EditorSocket({ url, documentId: DOCUMENT, token, open, io: { reconnectionDelay: 100, reconnectionDelayMax: 500 } })
    this.editor.on('problem', (problem) => this.problems.push(problem))
    this.editor.socket.on('disconnect', () => this.losses++)
    this.editor.connect()
  }

  get isJoined() {
    return this.editor.document.live
  }
  get isCompressed() {
    return this.editor.socket.io.engine.transport.ws.extensions.includes('permessage-deflate')
  }
  get version() {
    return this.editor.document.version
  }
  get confirmed() {
    return this.editor.document.confirmedSeq
  }
  get text() {
    return textOf(this.editor.document.shown)
  }

  type(word) {
    this.editor.edit(new Delta().retain(this.editor.document.shown.length()).insert(word))
  }

  close() {
    this.editor.close()
  }
}

class PythonClient {
  losses = 0
  problems = []
  isJoined = false
  isCompressed = null
  version = null
  confirmed = 0
  text = ''

  constructor(name, url, token) {
    this.name = name
    const script = fileURLToPath(new URL('../python/editor.py', import.meta.url))
    this.process = spawn(python, [script, url, token, DOCUMENT, name], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.process.stdin.on('error', (error) => this.problems.push(error.message))
    createInterface(this.process.stdout).on('line', (line) => {
      const { event, error, version, confirmed, text, compressed } = JSON.parse(line)
      Object.assign(this, { version, confirmed, text })
      if (event === 'joined') Object.assign(this, { isJoined: true, isCompressed: compressed })
      if (event === 'disconnected') this.losses++
      if (event === 'error') this.problems.push(error)
    })
  }

  type(word) {
    this.process.stdin.write(`${JSON.stringify({ type: word })}\n`)
  }

  async close() {
    if (this.process.exitCode !== null) return
    this.process.kill('SIGKILL')
    await once(this.process, 'exit')
  }
}

/** Waits until the condition holds for all; says who lags, and why, when it does not in time. */
async function reached(clients, what, condition) {
  const deadline = Date.now() + DEADLINE_MS
  for (;;) {
    const behind = clients.filter((client) => !condition(client))
    if (behind.length === 0) return
    if (Date.now() > deadline) {
      const told = behind.map(({ name, version, confirmed, problems }) => JSON.stringify({ name, version, confirmed, problems }))
      throw new Error(`${what} not reached by ${told.join(', ')}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
