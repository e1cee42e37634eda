// Leads the client core through what the simulation's clients went through, and compares its state after each step.
// In: lines of JSON that tests/sim wrote: what a client did or heard, and its state after it. Out: how many steps were
// compared; throws at the first difference. `node twin_player.js <file>` plays a file, a run after each empty line.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { argv } from 'node:process'
import { fileURLToPath } from 'node:url'

import { Delta, DocumentClient } from '../core/index.js'

const RECEIVE = {
  edit: 'receiveEdit',
  'edit-committed': 'receiveCommitted',
  rejoin: 'receiveRejoin',
  'document-joined': 'receiveJoined',
}

/** One client of a run, and what it shows. */
class Twin {
  afresh = false

  constructor(clientId) {
    this.client = new DocumentClient({ documentId: 'd', clientId })
    this.screen = new Delta()
  }

  step(line) {
    const { client } = this
    if (line.local) {
      this.screen = this.screen.compose(new Delta(line.local))
      client.local(line.local)
    } else if (line.disconnected) client.disconnected()
    else if (line.refused) this.take(client.receiveRefusal({ ...line.refused, message: 'refused' }), line)
    else this.hear(line)
    this.compare(line)
  }

  hear(line) {
    // 42["name",{…}]: a Socket.IO event as the gateway encodes it
    const [name, payload] = JSON.parse(line.event.slice(line.event.indexOf('[')))
    if (name === 'rejoin') this.afresh = true
    if (name === 'document-joined' && !payload.edits) this.afresh = false
    const outcome = withDifference(line.difference, () => this.client[RECEIVE[name]](payload))
    this.take(outcome, line)
  }

  take(outcome, line) {
    if (outcome.change) this.screen = this.screen.compose(outcome.change)
    assert.equal(outcome.newClientId, line.clientId !== this.client.clientId, 'whether it needs a new name')
    if (outcome.newClientId) this.client.renameTo(line.clientId)
  }

  compare(line) {
    const { client } = this
    const sent = client.takeSendable()
    const version = line.version
    const state = {
      shown: client.shown.ops,
      screen: this.screen.ops,
      confirmed: client.confirmed.ops,
      version: client.version,
      session: client.session,
      live: client.live,
      pending: client.unconfirmed.map(({ seq, ops }) => [seq, ops.ops]),
      sent: sent.map((edit) => [edit.seq, edit.ops]),
      join: client.joinRequest(),
    }
    const join = { documentId: 'd', as: 'delta', seq: line.seq }
    if (line.session) join.session = line.session
    if (version !== null && !this.afresh) Object.assign(join, { version, hash: line.hash })
    assert.deepEqual(state, {
      shown: line.shown,
      screen: line.shown,
      confirmed: line.confirmed,
      version,
      session: line.session,
      live: line.live,
      pending: line.pending,
      sent: line.sent,
      join,
    })
    for (const edit of sent) assert.deepEqual([edit.version, edit.session], [version, line.session])
  }
}

/**
 * Runs `act` while documents differ as the simulation said: of several changes that lead to the new document either may
 * be taken, so the vectors name the one that the twin took.
 */
function withDifference(ops, act) {
  if (!ops) return act()
  const diff = Delta.prototype.diff
  Delta.prototype.diff = function (target) {
    assert.deepEqual(this.compose(new Delta(ops)).ops, target.ops, 'the difference leads to the document')
    return new Delta(ops)
  }
  try {
    return act()
  } finally {
    Delta.prototype.diff = diff
  }
}

/** @param {string} text lines of several runs @returns {number} steps compared */
export function play(text) {
  let twins = new Map()
  let steps = 0
  text.split('\n').forEach((line, index) => {
    if (line === '') {
      twins = new Map()
      return
    }
    const step = JSON.parse(line)
    if (!twins.has(step.editor)) twins.set(step.editor, new Twin(step.clientId))
    try {
      twins.get(step.editor).step(step)
    } catch (error) {
      error.message = `line ${index + 1}: ${error.message}`
      throw error
    }
    steps += 1
  })
  return steps
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  console.log(`${play(readFileSync(argv[2], 'utf8'))} steps are equal`)
}
