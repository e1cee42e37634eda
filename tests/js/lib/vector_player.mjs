// Plays one protocol vector with stock socket.io-clients. In: a vector (tests/vectors/protocol/README.md has the
// format), gateways. Out: nothing, or an error that names the step.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'

import { io } from 'socket.io-client'

import { allow } from './gateways.mjs'
import { signToken } from './tokens.mjs'

const WAIT_MS = 30_000
/** Events that a client must get in exactly the order that the vector says; presence comes when it comes. */
const ORDERED = ['document-joined', 'rejoin', 'edit', 'edit-committed', 'error']

/**
 * @param {object} vector
 * @param {{urls: string[], secret: string, redisUrl?: string, pids: number[]}} gateways
 * @param {string} documentId a fresh one
 */
export async function playVector(vector, gateways, documentId) {
  const player = new Player(gateways, documentId)
  await allow(gateways.redisUrl, documentId, { seed: 'write', observer: 'read', ...vector.users })
  try {
    if (vector.content) await player.seed(vector.content)
    await player.play(vector.steps)
  } finally {
    player.end()
  }
}

class Player {
  #clients = new Map() // name → {socket, queue, wake}
  #answers = new Map() // label → {answer: value or undefined, promise}
  #saved = {}
  #paused = new Set()

  constructor(gateways, documentId) {
    this.gateways = gateways
    this.documentId = documentId
  }

  async play(steps) {
    for (const [i, step] of steps.entries()) {
      const kind = Object.keys(step)[0]
      const run = STEPS[kind]
      assert.ok(run, `step ${i + 1}: unknown kind ${kind}`)
      try {
        await run(this, this.#filled(step))
      } catch (error) {
        error.message = `step ${i + 1} ${JSON.stringify(step)}: ${error.message}`
        throw error
      }
    }
  }

  async seed(content) {
    await this.play([
      { connect: '#seed', user: 'seed', clientId: 'seed' },
      { join: '#seed' },
      { expect: '#seed', event: 'document-joined', save: { seedSession: 'session' } },
      { edit: '#seed', version: 0, seq: 1, session: '$seedSession', ops: [{ insert: content }], label: '#seed' },
      { answer: '#seed', with: { version: 1 } },
      { close: '#seed' },
    ])
  }

  end() {
    for (const { socket } of this.#clients.values()) socket.disconnect()
    for (const pod of this.#paused) process.kill(this.gateways.pids[pod], 'SIGCONT')
  }

  connect(name, { user, clientId, pod = 0 }) {
    const { urls, secret } = this.gateways
    const auth = { token: signToken({ userId: user, name: user }, secret), ...(clientId && { clientId }) }
    const socket = io(urls[pod], { transports: ['websocket'], reconnection: false, forceNew: true, auth })
    const client = { socket, queue: [], wake: () => {} }
    socket.onAny((event, payload) => {
      if (!ORDERED.includes(event)) return
      client.queue.push({ event, payload })
      client.wake()
    })
    this.#clients.set(name, client)
    return within(
      new Promise((resolve, reject) => {
        socket.on('connect', resolve)
        socket.on('connect_error', reject)
      }),
      'the connection',
    )
  }

  client(name) {
    const client = this.#clients.get(name)
    assert.ok(client, `no connection is called ${name}`)
    return client
  }

  emit(name, event, payload, label) {
    let resolve
    const entry = { promise: new Promise((r) => (resolve = r)), answer: undefined }
    if (label) this.#answers.set(label, entry)
    this.client(name).socket.emit(event, payload, (answer) => {
      entry.answer = answer
      resolve(answer)
    })
    return entry.promise
  }

  answer(label) {
    const entry = this.#answers.get(label)
    assert.ok(entry, `nothing is labelled ${label}`)
    return entry
  }

  async next(name) {
    const client = this.client(name)
    const deadline = Date.now() + WAIT_MS
    while (client.queue.length === 0) {
      const left = deadline - Date.now()
      assert.ok(left > 0, `nothing came within ${WAIT_MS} ms`)
      await within(new Promise((resolve) => (client.wake = resolve)), 'an event', left)
    }
    return client.queue.shift()
  }

  save(fields, payload) {
    for (const [as, field] of Object.entries(fields ?? {})) this.#saved[as] = payload[field]
  }

  async pause(pod, isPaused) {
    const pid = this.gateways.pids[pod]
    process.kill(pid, isPaused ? 'SIGSTOP' : 'SIGCONT')
    if (isPaused) this.#paused.add(pod)
    else this.#paused.delete(pod)
    while (isPaused && !isStopped(pid)) await new Promise((resolve) => setTimeout(resolve, 1))
  }

  #filled(value) {
    if (typeof value === 'string' && value.startsWith('$')) {
      assert.ok(value.slice(1) in this.#saved, `${value} is not saved yet`)
      return this.#saved[value.slice(1)]
    }
    if (Array.isArray(value)) return value.map((item) => this.#filled(item))
    if (value === null || typeof value !== 'object') return value
    // Steps of a branch are filled when they are played: they may use what the branch saves.
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, k === 'then' ? v : this.#filled(v)]))
  }
}

const STEPS = {
  connect: (player, { connect, ...options }) => player.connect(connect, options),

  join: (player, { join, label, ...fields }) => {
    player.emit(join, 'join-document', { documentId: player.documentId, ...fields }, label)
  },

  edit: (player, { edit, label, ...fields }) => {
    player.emit(edit, 'edit', { documentId: player.documentId, ...fields }, label)
  },

  /** The next ordered event of a connection; a list of names with `then` branches. */
  expect: async (player, { expect, event, with: fields = {}, without = [], save, then = {} }) => {
    const got = await player.next(expect)
    const names = [event].flat()
    assert.ok(names.includes(got.event), `expected ${names}, got ${got.event} ${JSON.stringify(got.payload)}`)
    assertHas(got.payload, fields)
    for (const field of without) assert.ok(!(field in got.payload), `${field} is there: ${JSON.stringify(got.payload)}`)
    player.save(save, got.payload)
    await player.play(then[got.event] ?? [])
  },

  answer: async (player, { answer, with: fields = {}, error }) => {
    const got = await within(player.answer(answer).promise, `the answer to ${answer}`)
    if (error) assertHas(got.error, error)
    else assert.equal(got.error, undefined, JSON.stringify(got.error))
    assertHas(got, fields)
  },

  /** After a round trip nothing is in the queue, and none of these is answered. */
  quiet: async (player, { quiet, unanswered = [] }) => {
    await roundTrip(player, quiet)
    assert.deepEqual(player.client(quiet).queue, [])
    for (const label of unanswered) assert.equal(player.answer(label).answer, undefined, `${label} is answered`)
  },

  /** Forget what has come so far, after a round trip. */
  skip: async (player, { skip }) => {
    await roundTrip(player, skip)
    player.client(skip).queue.length = 0
  },

  /** The transport is lost: no goodbye. What is written is still on its way. */
  drop: (player, { drop }) => {
    player.client(drop).socket.io.engine.transport.ws.terminate()
  },

  close: (player, { close }) => {
    player.client(close).socket.disconnect()
  },

  disconnected: async (player, { disconnected }) => {
    const { socket } = player.client(disconnected)
    if (socket.connected) await within(new Promise((resolve) => socket.once('disconnect', resolve)), 'the disconnect')
  },

  'pause-pod': (player, step) => player.pause(step['pause-pod'], true),
  'resume-pod': (player, step) => player.pause(step['resume-pod'], false),

  /** Newcomers on every pod find this. */
  final: async (player, { final }) => {
    for (const pod of player.gateways.urls.keys()) {
      const name = `#observer${pod}`
      await player.play([
        { connect: name, user: 'observer', pod },
        { join: name },
        { expect: name, event: 'document-joined', with: final },
        { close: name },
      ])
    }
  },
}

/** Everything that was sent before it has been read when this is answered. */
async function roundTrip(player, name) {
  const cursor = { documentId: player.documentId, position: null }
  await within(player.emit(name, 'cursor-position', cursor), 'a round trip')
}

/** A signal is on its way for a while: every thread has to stop. */
function isStopped(pid) {
  const threads = readdirSync(`/proc/${pid}/task`)
  return threads.every((id) => readFileSync(`/proc/${pid}/task/${id}/stat`, 'utf8').split(') ')[1].startsWith('T'))
}

function assertHas(actual, expected, path = '') {
  for (const [key, value] of Object.entries(expected)) {
    const found = actual?.[key]
    if (Array.isArray(value) && key !== 'ops') {
      assert.equal(found?.length, value.length, `${path}${key}: ${JSON.stringify(found)}`)
      for (const [i, item] of value.entries()) assertHas(found[i], item, `${path}${key}[${i}].`)
    } else {
      assert.deepEqual(found, value, `${path}${key} of ${JSON.stringify(actual)}`)
    }
  }
}

function within(promise, what, ms = WAIT_MS) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come within ${ms} ms`)), ms)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}
