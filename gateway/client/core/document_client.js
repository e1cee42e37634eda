// One client's copy of one document, without socket or timer. In: local edits and the gateway's events. Out: what to
// send, and an Outcome that says what to change in the document that is shown.
//
// shown = confirmed ∘ unconfirmed[0] ∘ unconfirmed[1] ∘ … ∘ buffer

import Delta from 'quill-delta'

import { digestOf, textOf } from './digest.js'
import { actionFor } from './errors.js'
import { through } from './rebase.js'
import { RemoteCursors } from './remote_cursors.js'

/** The protocol's window of unconfirmed edits; what is typed beyond it is composed and kept. */
const UNCONFIRMED_MAX = 256
const UNCONFIRMED_MAX_BYTES = 256 * 1024
/** How long to wait after a "try later" error that does not say. */
const RETRY_DEFAULT_MS = 1000

/**
 * @typedef {object} Outcome
 * @property {Delta | null} change what to apply to the shown document
 * @property {{seq: number, version: number}[]} committed own edits that turned out to be in the log
 * @property {{userId: string, clientId: string, seq: number, version: number, ops: Delta}[]} learned others' entries
 * @property {boolean} cursors whether a remote cursor moved, came or went
 * @property {boolean} rejoin whether to send `joinRequest()` now (or after `retryAfterMs`)
 * @property {number} retryAfterMs
 * @property {boolean} newClientId whether to connect under a new client id first: see `renameTo`
 * @property {{code: string, message: string} | null} tell what the user has to know
 */

export class DocumentClient {
  /** The document at `version`, without this client's unconfirmed edits. */
  confirmed = new Delta()
  /** `null` until the first join. */
  version = null
  hash = null
  session = null
  role = null
  cursors = new RemoteCursors()

  #unconfirmed = [] // {seq, ops, bytes, sent, dropped}, in order
  #buffer = null // {ops}: unsent and unnumbered, beyond the window
  #nextSeq = 1
  #live = false // joined, and the session takes edits
  #afresh = false // the pod cannot go on from `version`: join by content
  #shown = null // cache

  /** @param {{documentId: string, clientId: string, as?: 'text' | 'delta' | 'quill'}} options */
  constructor({ documentId, clientId, as = 'delta' }) {
    this.documentId = documentId
    this.clientId = clientId
    this.as = as
  }

  /** The document as its user sees it. */
  get shown() {
    this.#shown ??= this.#ahead().reduce((document, edit) => document.compose(edit.ops), this.confirmed)
    return this.#shown
  }

  /** Whether edits may be sent: joined, and no error or `rejoin` has ended the session. */
  get live() {
    return this.#live
  }

  /** How many edits are not sent yet and how many are sent but not known to be in the log. */
  get counts() {
    const sent = this.#unconfirmed.filter((edit) => edit.sent).length
    return { editing: this.#unconfirmed.length - sent + (this.#buffer ? 1 : 0), sent }
  }

  /** The unconfirmed edits in order, for tests and displays. */
  get unconfirmed() {
    return this.#unconfirmed.map(({ seq, ops, sent }) => ({ seq, ops, sent }))
  }

  /** The highest number of this client's edits that is known to be in the log. */
  get confirmedSeq() {
    return (this.#unconfirmed[0]?.seq ?? this.#nextSeq) - 1
  }

  /** The user's own edit of the shown document. @param {Delta | object[]} change */
  local(change) {
    const ops = normal(change)
    if (ops.ops.length === 0) return
    if (this.#shown) this.#shown = this.#shown.compose(ops)
    this.cursors.move(ops)
    if (this.#buffer) this.#buffer.ops = this.#buffer.ops.compose(ops)
    else this.#buffer = { ops }
    this.#fillWindow()
  }

  /** What `join-document` should say now. */
  joinRequest() {
    const request = { documentId: this.documentId, as: this.as, seq: this.#unconfirmed[0]?.seq ?? this.#nextSeq }
    if (this.session) request.session = this.session
    if (this.version !== null && !this.#afresh) Object.assign(request, { version: this.version, hash: this.hash })
    return request
  }

  /** Payloads of `edit` that may be sent now, in order; each is given out once per session. */
  takeSendable() {
    if (!this.#live) return []
    this.#fillWindow()
    const { documentId, version, session } = this
    const unsent = this.#unconfirmed.filter((edit) => !edit.sent)
    return unsent.map((edit) => {
      edit.sent = true
      return { documentId, version, session, seq: edit.seq, ops: edit.ops.ops }
    })
  }

  /** The transport is gone: whatever was sent may or may not arrive. */
  disconnected() {
    this.#live = false
    for (const edit of this.#unconfirmed) edit.sent = false
  }

  /** `document-joined` @returns {Outcome} */
  receiveJoined(joined) {
    const outcome = nothing()
    // It answers a join that was sent before `rejoin` came, perhaps on another history: the next one has the content.
    if (this.#afresh && joined.edits) return outcome
    const firstJoin = this.session === null
    if (joined.clientId !== undefined && joined.clientId !== this.clientId) this.renameTo(joined.clientId)
    this.#afresh = false
    this.session = joined.session
    this.role = joined.role ?? null
    if (joined.edits) for (const entry of joined.edits) this.#entry(entry, outcome)
    else this.#replace(firstJoin ? { ...joined, lastSeq: 0 } : joined, outcome)
    // What this client took as that version is something else now: entries of a lost history crossed its join.
    if (joined.edits && !outcome.rejoin && this.hash !== joined.hash) this.#joinAfresh(outcome)
    if (outcome.rejoin) return outcome
    this.hash = joined.hash
    for (const edit of this.#unconfirmed) edit.sent = false
    const next = this.#unconfirmed[0]?.seq ?? this.#nextSeq
    // Numbers that an earlier life used, or that history has lost: another edit might hide behind ours.
    outcome.newClientId = next !== joined.lastSeq + 1 && (firstJoin || next > joined.lastSeq + 1)
    this.#live = !outcome.newClientId
    this.#adoptCursors(joined, outcome)
    return outcome
  }

  /** `edit`: somebody else's @returns {Outcome} */
  receiveEdit(entry) {
    const outcome = nothing()
    if (!this.#afresh) this.#entry(entry, outcome)
    return outcome
  }

  /** `edit-committed`: this client's own @returns {Outcome} */
  receiveCommitted(entry) {
    return this.receiveEdit({ ...entry, clientId: entry.clientId ?? this.clientId })
  }

  /** `rejoin` @returns {Outcome} */
  receiveRejoin() {
    const outcome = nothing()
    this.#joinAfresh(outcome)
    return outcome
  }

  /**
   * An error that answers an edit.
   * @param {{code: string, message?: string, seq?: number, retryAfterMs?: number}} error
   * @param {string} session the session that the edit was sent in; errors of an older one are history
   * @returns {Outcome}
   */
  receiveRefusal(error, session = this.session) {
    const outcome = nothing()
    if (session !== this.session || !this.#live) return outcome
    const action = actionFor(error.code)
    if (action === 'nothing') return outcome
    this.#live = false
    outcome.rejoin = action !== 'tell'
    if (action === 'tell' || action === 'drop') outcome.tell = { code: error.code, message: error.message ?? error.code }
    if (action === 'wait') outcome.retryAfterMs = error.retryAfterMs ?? RETRY_DEFAULT_MS
    // An empty edit that is refused cannot be made any smaller: joining again would not end.
    if (action === 'drop' && !this.#drop(error.seq, outcome)) outcome.rejoin = false
    return outcome
  }

  /** `cursor-update` @returns {Outcome} */
  receiveCursor(update) {
    const outcome = nothing()
    outcome.cursors = this.cursors.receive(update, this.version ?? -1, this.#ahead())
    return outcome
  }

  /** Goes on as another client: unconfirmed edits are numbered from 1. Only for edits that cannot be in the log. */
  renameTo(clientId) {
    this.clientId = clientId
    this.session = null
    this.#live = false
    this.#unconfirmed.forEach((edit, i) => Object.assign(edit, { seq: i + 1, sent: false }))
    this.#nextSeq = this.#unconfirmed.length + 1
  }

  #ahead() {
    return this.#buffer ? [...this.#unconfirmed, this.#buffer] : this.#unconfirmed
  }

  #fillWindow() {
    if (!this.#buffer) return
    const bytes = bytesOf(this.#buffer.ops)
    const used = this.#unconfirmed.reduce((sum, edit) => sum + edit.bytes, 0)
    const fits = this.#unconfirmed.length < UNCONFIRMED_MAX && used + bytes <= UNCONFIRMED_MAX_BYTES
    if (!fits && this.#unconfirmed.length > 0) return
    const { ops } = this.#buffer
    this.#buffer = null
    if (ops.ops.length > 0) this.#unconfirmed.push({ seq: this.#nextSeq++, ops, bytes, sent: false, dropped: false })
  }

  #entry(entry, outcome) {
    if (this.version === null || entry.version <= this.version || outcome.rejoin) return
    if (entry.version !== this.version + 1) return this.#joinAgain(outcome)
    if (entry.clientId !== this.clientId) this.#remote(entry, outcome)
    else if (this.#unconfirmed[0]?.seq === entry.seq) this.#own(entry, outcome)
    else return this.#joinAfresh(outcome)
    this.version = entry.version
    this.hash = entry.hash
    if (this.cursors.reached(this.version, this.#ahead())) outcome.cursors = true
    if (entry.digest && entry.digest !== digestOf(textOf(this.confirmed))) this.#joinAfresh(outcome)
  }

  #own(entry, outcome) {
    const edit = this.#unconfirmed.shift()
    this.confirmed = this.confirmed.compose(edit.ops)
    outcome.committed.push({ seq: entry.seq, version: entry.version })
    this.#fillWindow()
  }

  #remote(entry, outcome) {
    const ops = new Delta(entry.ops)
    this.confirmed = this.confirmed.compose(ops)
    outcome.learned.push({ ...entry, ops })
    this.#apply(through(this.#ahead(), ops), outcome)
  }

  /** The document as the pod has it, instead of entries: the difference is one remote edit. */
  #replace({ content, ops, version, lastSeq }, outcome) {
    const document = ops ? new Delta(ops) : new Delta().insert(content ?? '')
    let known = this.confirmed
    while (this.#unconfirmed.length > 0 && this.#unconfirmed[0].seq <= lastSeq) {
      const { seq, ops: own } = this.#unconfirmed.shift()
      known = known.compose(own)
      outcome.committed.push({ seq, version })
    }
    const difference = known.diff(document)
    this.confirmed = document
    this.version = version
    this.#apply(through(this.#ahead(), difference), outcome)
  }

  /** Takes edit `seq` back; the empty edit goes out under its number. @returns whether there was anything to take back */
  #drop(seq, outcome) {
    const at = this.#unconfirmed.findIndex((edit) => edit.seq === seq)
    if (at < 0 || this.#unconfirmed[at].dropped) return false
    const edit = this.#unconfirmed[at]
    const before = this.#unconfirmed.slice(0, at).reduce((document, { ops }) => document.compose(ops), this.confirmed)
    const undo = edit.ops.invert(before)
    Object.assign(edit, { ops: new Delta(), bytes: 0, dropped: true })
    this.#apply(through(this.#ahead().slice(at + 1), undo), outcome)
    return true
  }

  #apply(change, outcome) {
    if (change.ops.length === 0) return
    this.#shown = this.#shown && this.#shown.compose(change)
    this.cursors.move(change)
    outcome.change = outcome.change ? outcome.change.compose(change) : change
    outcome.cursors ||= this.cursors.shown.size > 0
  }

  #adoptCursors({ activeUsers }, outcome) {
    this.cursors.clear()
    for (const user of activeUsers ?? []) {
      for (const cursor of user.cursors ?? []) {
        this.cursors.receive({ userId: user.id, ...cursor }, this.version, this.#ahead())
      }
    }
    outcome.cursors = true
  }

  #joinAgain(outcome) {
    this.#live = false
    outcome.rejoin = true
  }

  #joinAfresh(outcome) {
    this.#afresh = true
    this.#joinAgain(outcome)
  }
}

function nothing() {
  return {
    change: null,
    committed: [],
    learned: [],
    cursors: false,
    rejoin: false,
    retryAfterMs: 0,
    newClientId: false,
    tell: null,
  }
}

/** The form that `Delta.push` makes: neighbours merged, insert before delete, no trailing plain retain. */
function normal(change) {
  const ops = Array.isArray(change) ? change : change.ops
  const made = new Delta()
  for (const op of ops) {
    const isEmpty = op.insert === '' || op.retain === 0 || op.delete === 0
    if (!isEmpty) made.push(op)
  }
  return made.chop()
}

function bytesOf(ops) {
  return new TextEncoder().encode(JSON.stringify(ops.ops)).length
}
