// Random schedules: several clients type without waiting, on pods that crash, lose connections, refuse edits and commit
// stale copies. At rest every client shows what the log folds to, and every edit is in the log exactly once.
// SEED=<n> plays one schedule again; SCHEDULES=<n> sets how many.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Delta, DocumentClient } from '../core/index.js'
import { Log, Pod } from './model_server.js'

const SCHEDULES = Number(process.env.SCHEDULES ?? 300)
const FIRST_SEED = Number(process.env.SEED ?? (Date.now() % 1_000_000) * 1000)

function randomFrom(seed) {
  let state = (Math.imul(seed, 2654435761) | 1) >>> 0
  const random = (below) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % below
  }
  for (let i = 0; i < 5; i++) random(2)
  return random
}

/** A typist: the client core, a connection that can be cut, and the document on the screen. */
class Typist {
  connection = null
  refused = 0

  constructor(clientId, random) {
    this.client = new DocumentClient({ documentId: 'd', clientId })
    this.random = random
    this.screen = new Delta()
    this.edits = 0
  }

  connect(pods) {
    this.connection = pods[this.random(pods.length)].connect(this.client.clientId)
    this.send('join-document', this.client.joinRequest())
  }

  cut() {
    if (!this.connection) return
    const { in: messages } = this.connection
    messages.length = this.random(messages.length + 1) // the rest never arrives
    this.connection = null
    this.client.disconnected()
  }

  type() {
    const length = this.screen.length()
    const at = this.random(length + 1)
    const change = new Delta().retain(at)
    const kind = this.random(4)
    if (kind === 0 && at < length) change.delete(1 + this.random(Math.min(3, length - at)))
    else if (kind === 1 && at < length) change.retain(1, { bold: this.random(2) ? true : null })
    else change.insert(String.fromCharCode(97 + this.random(26)))
    this.screen = this.screen.compose(change)
    this.client.local(change)
    this.edits++
  }

  flush() {
    if (this.connection) for (const edit of this.client.takeSendable()) this.send('edit', edit)
  }

  receive() {
    const message = this.connection?.out.shift()
    if (!message) return false
    const [event, payload] = message
    const outcome = this.#dispatch(event, payload)
    if (outcome.change) this.screen = this.screen.compose(outcome.change)
    assert.ok(!outcome.newClientId, 'numbers never run ahead of the log here')
    if (outcome.rejoin) this.send('join-document', this.client.joinRequest())
    return true
  }

  send(event, payload) {
    this.connection.in.push([event, JSON.parse(JSON.stringify(payload))])
  }

  #dispatch(event, payload) {
    if (event === 'document-joined') return this.client.receiveJoined(payload)
    if (event === 'edit') return this.client.receiveEdit(payload)
    if (event === 'edit-committed') return this.client.receiveCommitted(payload)
    if (event === 'rejoin') return this.client.receiveRejoin()
    return this.client.receiveRefusal(payload.error, payload.session)
  }
}

function play(seed) {
  const random = randomFrom(seed)
  const log = new Log('abc')
  const pods = [new Pod(log, random), new Pod(log, random), new Pod(log, random)]
  const typists = ['c0', 'c1', 'c2'].map((id) => new Typist(id, random))
  const any = (list) => list[random(list.length)]
  for (const typist of typists) typist.connect(pods)
  for (let step = 150 + random(250); step > 0; step--) {
    const [typist, pod, dice] = [any(typists), any(pods), random(100)]
    if (dice < 22) typist.edits < 20 && typist.client.version !== null && typist.type()
    else if (dice < 32) typist.flush()
    else if (dice < 52) pod.connections.length > 0 && pod.read(any(pod.connections), { mayRefuse: true })
    else if (dice < 60) pod.take()
    else if (dice < 70) pod.land()
    else if (dice < 92) typist.receive()
    else if (dice < 94) pod.learn(pod.head + 1 + random(2))
    else if (dice < 97) typist.cut()
    else if (dice < 99) typist.connection || typist.connect(pods)
    else crash(pods, random(3), typists, log, random)
  }
  settle(pods, typists)
  check(log, typists)
}

function crash(pods, which, typists, log, random) {
  for (const typist of typists) if (typist.connection?.pod === pods[which]) typist.cut()
  pods[which] = new Pod(log, random)
}

function settle(pods, typists) {
  for (let round = 0; round < 2000; round++) {
    let busy = false
    const did = (something) => (busy ||= something)
    for (const typist of typists) typist.connection || typist.connect(pods)
    for (const pod of pods) {
      for (const connection of pod.connections) while (pod.read(connection)) did(true)
      while (pod.take() || pod.land()) did(true)
      pod.learn(pod.log.entries.length)
    }
    for (const typist of typists) {
      while (typist.receive()) did(true)
      const before = typist.connection.in.length
      typist.flush()
      did(typist.connection.in.length > before)
    }
    if (!busy) return
  }
  assert.fail('never at rest')
}

function check(log, typists) {
  const folded = log.fold()
  const numbers = new Map(typists.map(({ client }) => [client.clientId, []]))
  for (const { clientId, seq } of log.entries) numbers.get(clientId).push(seq)
  for (const { client, screen, edits } of typists) {
    assert.deepEqual(screen.ops, folded.ops, 'the screen shows what the log folds to')
    assert.deepEqual(client.shown.ops, folded.ops)
    assert.deepEqual(client.confirmed.ops, folded.ops)
    assert.deepEqual(client.counts, { editing: 0, sent: 0 })
    const every = Array.from({ length: edits }, (_, i) => i + 1)
    assert.deepEqual(numbers.get(client.clientId), every, 'each edit is in the log once, in order')
  }
}

test(`clients converge and lose nothing on random schedules from seed ${FIRST_SEED}`, () => {
  const last = process.env.SEED ? FIRST_SEED : FIRST_SEED + SCHEDULES - 1
  for (let seed = FIRST_SEED; seed <= last; seed++) {
    try {
      play(seed)
    } catch (error) {
      error.message = `SEED=${seed}: ${error.message}`
      throw error
    }
  }
})
