// One writer as a process of its own: a stock socket.io-client and the client core replay one side of a plan.
// In (IPC): {start: options}, then {finish: version}, at any time {status: true}. Out (IPC): {event: 'progress' |
// 'disconnected' | 'joined' | 'typed' | 'end' | 'failed' | 'status', …}.
//
// Strict: entries are held back until the writer knows exactly what the transaction's author knew, and each
// transaction waits until all before it in file order are in the log. Otherwise the editor learns everything at once,
// and the person in front of it sees it as late as the author did.

import { Delta, textOf } from '../../../gateway/client/core/index.js'
import { EditorSocket } from '../../../gateway/client/socket/index.js'
import { Human } from './human.mjs'
import { planOfSamePlace, planOfTrace } from './plan.mjs'
import { signToken } from './tokens.mjs'

/** A writer pauses here: beyond the protocol's window of 256 edits would be composed and their tokens could cancel. */
const UNCONFIRMED_MAX = 200
const PROGRESS_EVERY = 50
const LOG_MAX = 40
/** Stands for a transaction whose letters the other has deleted already, so that each transaction is one entry. */
const NO_CHANGE = new Delta().retain(1, { void: null })
/** Ungated writers let the event loop breathe after so many edits. */
const BURST = 8

class Writer {
  #human = new Human()
  #held = [] // strict: events that wait, in order
  #allowed = 0 // strict: how many of the others' edits may be delivered
  #arrived = 0 // the highest version that came, delivered or not
  #caret = 0 // same-place: where the next letter goes
  #wake = () => {}
  #reconnects = 0
  #log = [] // what was said on the wire lately, for `status`

  constructor(options) {
    this.options = options
    this.random = randomFrom(options.seed + options.writer)
    this.editor = new EditorSocket({
      url: options.urls[options.writer % options.urls.length],
      documentId: options.document,
      token: async () => signToken({ userId: options.user, name: options.user }, options.secret),
      as: 'delta',
      deliver: (event, payload, now) => this.#deliver(event, payload, now),
      io: { reconnectionDelay: 100, reconnectionDelayMax: 500, timeout: 5000 },
    })
    this.#listen()
  }

  async run() {
    const { options } = this
    const plan = options.trace ? planOfTrace(options.trace, options.limit) : planOfSamePlace(options.limit)
    const steps = plan.writers[options.writer]
    this.editor.connect()
    await this.#until(() => this.editor.document.live)
    for (const [i, step] of steps.entries()) {
      await this.#ready(step, i)
      const change = step.patches ? this.#changeOf(step) : this.#letter(step, i)
      const edit = this.#human.make(change)
      this.editor.edit(edit.ops.length > 0 ? edit : NO_CHANGE)
      if ((i + 1) % PROGRESS_EVERY === 0 || i + 1 === steps.length) this.#progress(i + 1, steps.length)
      if (this.random(10_000) < options.reconnectPercent * 100) this.editor.dropTransport()
    }
    this.#allowed = Infinity
    this.#release()
    const { clientId } = this.editor.document
    await this.#until(() => this.editor.document.confirmedSeq === steps.length)
    say({ event: 'typed', clientId, edits: steps.length })
  }

  async finish(version) {
    await this.#until(() => this.editor.document.version >= version && this.editor.document.live)
    const { document } = this.editor
    say({ event: 'end', version: document.version, hash: document.hash, ops: document.shown.ops, reconnects: this.#reconnects })
    this.editor.close()
  }

  /** Where it stands, for whoever wonders why it does not end. */
  status() {
    const { document, state } = this.editor
    const { version, session, confirmedSeq } = document
    say({ event: 'status', ...state, version, session, confirmedSeq, unconfirmed: document.unconfirmed.length, log: this.#log })
  }

  get others() {
    return this.editor.document.version - this.editor.document.confirmedSeq
  }

  #listen() {
    const { editor } = this
    editor.socket.onAny((event, payload) => this.#note('<', event, payload))
    editor.socket.onAnyOutgoing((event, payload) => this.#note('>', event, payload))
    editor.on('change', (change) => {
      this.#human.shown(change, this.others)
      this.#caret = change.transformPosition(this.#caret, true) // editors keep the caret behind one's own letters
    })
    editor.on('state', () => this.#wake())
    editor.on('problem', (problem) => fail(`${problem.code}: ${problem.message}`))
    editor.socket.on('connect', () => say({ event: 'joined', reconnects: this.#reconnects }))
    editor.socket.on('disconnect', (reason) => {
      this.#held.length = 0
      this.#reconnects++
      say({ event: 'disconnected', reason, reconnects: this.#reconnects })
    })
    let attempts = this.options.writer
    editor.socket.io.on('reconnect_attempt', () => {
      const { urls } = this.options
      editor.socket.io.uri = urls[++attempts % urls.length] // the next pod
    })
  }

  /** Strict: an entry of the other waits until the author of the next transaction knew it; all behind it waits too. */
  #deliver(event, payload, now) {
    this.#arrived = Math.max(this.#arrived, payload.version ?? 0)
    const isEntry = event === 'edit' || event === 'edit-committed'
    if (this.options.strict && isEntry) {
      this.#held.push({ isOther: event === 'edit', now })
      this.#release()
    } else {
      now()
    }
    this.#wake()
  }

  #release() {
    while (this.#held.length > 0) {
      if (this.#held[0].isOther && this.others >= this.#allowed) return
      this.#held.shift().now()
    }
  }

  async #ready({ index, needsOthers = 0 }, i) {
    const { document } = this.editor
    if (this.options.strict) {
      this.#allowed = needsOthers
      await this.#until(() => this.#arrived >= index)
      this.#release()
    } else if (i % BURST === 0) {
      await new Promise((resolve) => setTimeout(resolve, (BURST * 1000) / this.options.rate))
    }
    await this.#until(() => document.version !== null && this.others >= needsOthers)
    await this.#until(() => document.counts.editing + document.counts.sent < UNCONFIRMED_MAX)
    if (this.options.trace) this.#human.see(needsOthers)
    else this.#human.seeAll()
  }

  /** The transaction in the document its author saw, positions in code points, clamped where a failure moved things. */
  #changeOf({ index, patches }) {
    const text = textOf(this.#human.document)
    return patches.reduce((change, [at, deleted, inserted]) => {
      const from = unitsOf(text, at)
      const to = unitsOf(text, at + deleted)
      const patch = new Delta().retain(from).insert(inserted, this.#token(index)).delete(to - from)
      return change.compose(patch)
    }, new Delta())
  }

  #letter({ letter, isStart }, i) {
    if (isStart) this.#caret = 0
    const change = new Delta().retain(this.#caret).insert(letter, this.#token(i))
    this.#caret++
    return change
  }

  #token(number) {
    return this.options.tokens ? { token: `${this.options.writer}-${number}` } : undefined
  }

  #note(direction, event, { version, session, seq, lastSeq, code } = {}) {
    this.#log.push(`${direction}${event} ${JSON.stringify({ version, session, seq, lastSeq, code })}`)
    if (this.#log.length > LOG_MAX) this.#log.shift()
  }

  #progress(done, of) {
    say({ event: 'progress', done, of, version: this.editor.document.version, unconfirmed: this.editor.document.unconfirmed.length })
  }

  async #until(condition) {
    while (!condition()) await new Promise((resolve) => (this.#wake = resolve))
  }
}

function unitsOf(text, codePoints) {
  if (!/[\ud800-\udfff]/.test(text)) return Math.min(codePoints, text.length)
  return [...text].slice(0, codePoints).join('').length
}

function randomFrom(seed) {
  let state = (Math.imul(seed + 1, 2654435761) | 1) >>> 0
  return (below) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % below
  }
}

function say(message) {
  process.send(message)
}

function fail(reason) {
  say({ event: 'failed', reason })
}

let writer
process.on('message', (message) => {
  if (message.status) return writer?.status()
  const done = message.start ? (writer = new Writer(message.start)).run() : writer.finish(message.finish)
  done.catch((error) => fail(error.stack))
})
process.on('disconnect', () => process.exit(1))
