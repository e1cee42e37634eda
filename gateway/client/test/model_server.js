// A gateway in 200 lines for the client's tests: pods over one append-only log, with sessions, dedupe, rebasing over a
// chain of own edits, refusals and joins by entries or content. Nothing happens by itself: the test decides when a
// message is read, an edit is taken, and an append lands, so that every order can be produced.
// In: messages in `connection.in` as [event, payload]. Out: messages in `connection.out`.

import { Delta } from '../core/index.js'

let sessions = 0

/** The one sequencer: appends, drops duplicates, detects gaps. */
export class Log {
  entries = []
  lastSeq = new Map()

  constructor(text) {
    this.start = new Delta().insert(text)
  }

  append(entry) {
    const last = this.lastSeq.get(entry.clientId) ?? 0
    if (entry.seq !== last + 1) return
    this.lastSeq.set(entry.clientId, entry.seq)
    this.entries.push({ ...entry, version: this.entries.length + 1 })
  }

  /** The documents of all versions, by folding each entry over what was committed after its base. */
  fold() {
    const canonical = [null]
    let document = this.start
    for (const entry of this.entries) {
      canonical.push(canonicalOf(entry, (version) => canonical[version]))
      document = document.compose(canonical.at(-1))
    }
    return document
  }
}

function canonicalOf(entry, at) {
  let ops = entry.ops
  for (let version = entry.base + 1; version < entry.version; version++) ops = at(version).transform(ops, false)
  return ops
}

export class Pod {
  head = 0
  connections = []
  queue = []
  inFlight = null
  #canonical = [null]

  constructor(log, random) {
    this.log = log
    this.random = random
    this.document = log.start
  }

  connect(clientId) {
    const connection = { pod: this, clientId, in: [], out: [], joined: false, session: null, sent: 0 }
    this.connections.push(connection)
    return connection
  }

  /** Reads one message of a connection. */
  read(connection, { mayRefuse = false } = {}) {
    const message = connection.in.shift()
    if (!message) return false
    const [event, payload] = message
    if (event === 'join-document') this.#join(connection, payload)
    else this.#edit(connection, payload, mayRefuse)
    return true
  }

  /** Rebases the next queued edit to this pod's head; it is on its way to the log then. */
  take() {
    if (this.inFlight) return false
    for (let next = this.queue.shift(); next; next = this.queue.shift()) {
      const { connection, session, seq, version, ops } = next
      if (connection.session !== session || !connection.joined) continue
      this.#advance(connection.chain, connection.clientId, connection.known ?? version, version)
      connection.known = version
      connection.chain.push({ seq, ops })
      const ahead = connection.chain.map((edit) => ({ ...edit }))
      this.#advance(ahead, connection.clientId, version, this.head)
      if (ahead.length !== 1) continue // in the log already
      this.inFlight = { clientId: connection.clientId, session, seq, base: this.head, ops: ahead[0].ops }
      return true
    }
    return false
  }

  /** The append lands, and the pod learns all it had missed. */
  land() {
    if (!this.inFlight) return false
    this.log.append(this.inFlight)
    this.inFlight = null
    this.learn(this.log.entries.length)
    return true
  }

  learn(upTo) {
    for (const entry of this.log.entries.slice(this.head, upTo)) {
      const ops = canonicalOf(entry, (version) => this.#canonical[version].ops)
      this.#canonical.push({ ...entry, ops, transform: (other, first) => ops.transform(other, first) })
      this.document = this.document.compose(ops)
      this.head = entry.version
      for (const connection of this.connections) this.#deliver(connection, entry, ops)
    }
  }

  #deliver(connection, { version, clientId, seq, session }, ops) {
    if (!connection.joined || connection.sent !== version - 1) return
    const hash = `h${version}`
    if (clientId !== connection.clientId) {
      connection.out.push(['edit', { version, hash, clientId, userId: clientId, seq, ops: ops.ops }])
    } else if (session === connection.session) {
      connection.out.push(['edit-committed', { version, hash, clientId, seq }])
    } else {
      connection.joined = false
      connection.out.push(['rejoin', {}])
      return
    }
    connection.sent = version
  }

  #join(connection, { version, hash, session, seq }) {
    this.learn(this.log.entries.length)
    const entries = version === undefined ? [] : this.#canonical.slice(version + 1)
    const isOwnSession = entries.every((e) => e.clientId !== connection.clientId || e.session === session)
    const byEntries = version !== undefined && hash === `h${version}` && isOwnSession && this.random(3) > 0
    Object.assign(connection, { joined: true, session: `s${++sessions}`, sent: this.head })
    Object.assign(connection, { chain: [], known: null, highest: seq - 1, ended: false })
    const lastSeq = this.log.lastSeq.get(connection.clientId) ?? 0
    const joined = { version: this.head, hash: `h${this.head}`, session: connection.session, lastSeq }
    Object.assign(joined, { clientId: connection.clientId, role: 'write' })
    if (byEntries) joined.edits = entries.map((e) => ({ ...e, hash: `h${e.version}`, ops: e.ops.ops }))
    else joined.ops = this.document.ops
    connection.out.push(['document-joined', joined])
  }

  #edit(connection, { version, session, seq, ops }, mayRefuse) {
    if (!connection.joined || session !== connection.session) return
    if (version > this.head) this.learn(this.log.entries.length)
    if (seq <= connection.highest && !connection.ended) return
    const refuse = (code) => {
      connection.ended = true
      connection.out.push(['refused', { session, error: { code, seq } }])
    }
    if (connection.ended || seq > connection.highest + 1) return refuse('SEQ_GAP')
    if (mayRefuse && ops.length > 0 && this.random(6) === 0) return refuse('OP_INVALID')
    connection.highest = seq
    this.queue.push({ connection, session, seq, version, ops: new Delta(ops) })
  }

  /** Carries a chain of own edits from version `from` to `to`: others' entries move it, own ones leave it. */
  #advance(chain, clientId, from, to) {
    for (let version = from + 1; version <= to; version++) {
      const entry = this.#canonical[version]
      if (entry.clientId === clientId && chain[0]?.seq === entry.seq) {
        chain.shift()
        continue
      }
      let { ops } = entry
      for (const edit of chain) {
        const moved = ops.transform(edit.ops, false)
        ops = edit.ops.transform(ops, true)
        edit.ops = moved
      }
    }
  }
}
