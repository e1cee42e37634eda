// One editor instance on a stock socket.io-client: connects, joins, sends, joins again after every loss, and tells
// its user interface what to change and how far the user's edits have come.
//
// In: `edit`, `cursor`, `typing`. Out: events
//   change    (Delta)                         apply it to what is shown; the user's own edits are not repeated
//   learned   ({version, userId, clientId, seq, ops})  an entry of somebody else, as it stands in the log
//   committed ({seq, version, ms}), saved ({seq, version, ms})  one's own edit; ms since it was sent, or null
//   state     ({connection, role, edits: {editing, sent, inLog, saved}})
//   people    (People), cursors (Map)
//   pod       (name)                          of a gateway with --demo
//   problem   ({code, message, fatal})        words for the user; after a fatal one nothing more is tried
//
// connection: connecting → joining → joined; offline while socket.io-client reconnects; closed at the end.

import { io } from 'socket.io-client'

import { actionFor, DocumentClient } from '../core/index.js'
import { newClientId } from './client_id.js'
import { People } from './people.js'
import { Progress } from './progress.js'

/** Cursors are sent at most this often; the latest wins. */
const CURSOR_EVERY_MS = 60
/** A typing signal is repeated while typing goes on; the gateway ends it after 5 s. */
const TYPING_REPEAT_MS = 3000
/** Before trying again when an answer does not say when, and when a token cannot be had. */
const RETRY_DEFAULT_MS = 1000

export class EditorSocket {
  people = new People()

  #listeners = new Map()
  #progress = new Progress()
  #connection = 'connecting'
  #retry = null
  #cursor = { timer: null, position: null, sent: undefined }
  #typingSince = 0
  #renewing = false

  /**
   * @param {object} options
   * @param {string} options.url
   * @param {string} options.documentId
   * @param {string | ((renew: boolean) => Promise<string>)} options.token asked again before every connection;
   *   `renew` after the gateway has refused the last one
   * @param {'text' | 'delta' | 'quill'} [options.as]
   * @param {string} [options.clientId] only for tests: an editor instance has a new one
   * @param {(event: string, payload: object, now: () => void) => void} [options.deliver] decides when an event of the
   *   document gets to the client core; for tests that hold events back
   * @param {object} [options.io] further options of socket.io-client
   * @param {typeof io} [options.open] `io` of the socket.io-client to use, where it is not the one installed here
   */
  constructor({ url, documentId, token, as = 'delta', clientId = newClientId(), deliver, io: options = {}, open = io }) {
    this.document = new DocumentClient({ documentId, clientId, as })
    this.token = token
    this.deliver = deliver ?? ((_event, _payload, now) => now())
    this.socket = open(url, {
      transports: ['websocket'],
      forceNew: true,
      autoConnect: false,
      ...options,
      auth: (give) => this.#authenticate(give),
    })
    this.#listen()
  }

  on(event, listener) {
    const listeners = this.#listeners.get(event) ?? []
    this.#listeners.set(event, [...listeners, listener])
    return this
  }

  connect() {
    this.socket.connect()
    return this
  }

  /** Cuts the transport as a lost network would; socket.io-client reconnects by itself. */
  dropTransport() {
    const socket = this.socket.io.engine?.transport?.ws
    if (socket?.terminate) socket.terminate()
    else socket?.close()
  }

  /** Leaves this connection and takes a new one, which may end on another pod. */
  reconnect() {
    this.socket.disconnect().connect()
  }

  close() {
    this.#stopTimers()
    this.socket.disconnect()
    this.#become('closed')
  }

  /** The user's own change of what is shown. @param {import('quill-delta')} change */
  edit(change) {
    this.document.local(change)
    this.#flush()
    if (this.document.cursors.shown.size > 0) this.#tell('cursors', this.document.cursors.shown)
  }

  /** @param {{index: number, length: number} | null} position in what is shown */
  cursor(position) {
    this.#cursor.position = position
    this.#cursor.timer ??= setTimeout(() => this.#sendCursor(), CURSOR_EVERY_MS)
  }

  /** @param {boolean} isTyping */
  typing(isTyping) {
    const due = isTyping ? Date.now() - this.#typingSince > TYPING_REPEAT_MS : this.#typingSince > 0
    if (!due || !this.document.live || this.document.role === 'read') return
    this.#typingSince = isTyping ? Date.now() : 0
    this.socket.emit('typing', { documentId: this.document.documentId, isTyping })
  }

  get state() {
    const edits = { ...this.document.counts, ...this.#progress.counts }
    return { connection: this.#connection, role: this.document.role, edits }
  }

  #listen() {
    const { socket, document } = this
    const here = (event, handle) =>
      socket.on(event, (payload) => {
        if (payload?.documentId === document.documentId) this.deliver(event, payload, () => handle(payload))
      })
    socket.on('connect', () => this.#join())
    socket.on('disconnect', (reason) => this.#disconnected(reason))
    socket.on('connect_error', (error) => this.#refused(error))
    here('document-joined', (joined) => this.#joined(joined))
    here('rejoin', () => this.#settle(document.receiveRejoin()))
    here('edit', (entry) => this.#settle(document.receiveEdit(entry)))
    here('edit-committed', (entry) => this.#settle(document.receiveCommitted(entry)))
    here('cursor-update', (update) => this.#settle(document.receiveCursor(update)))
    here('user-joined', (user) => this.#people(() => this.people.userJoined(user)))
    here('user-left', (user) => this.#left(user))
    here('presence', (presence) => this.#people(() => this.people.counted(presence)))
    here('typing-update', (update) => this.#people(() => this.people.typing(update)))
    here('access-changed', ({ role }) => this.#accessChanged(role))
    socket.on('token-expiring', () => this.#renewToken())
    socket.on('demo-pod', ({ name }) => this.#tell('pod', name))
    socket.on('error', (error) => this.#error(error))
  }

  async #authenticate(give) {
    const renew = this.#renewing
    for (;;) {
      try {
        const token = typeof this.token === 'function' ? await this.token(renew) : this.token
        return give({ token, clientId: this.document.clientId })
      } catch {
        if (this.#connection === 'closed') return
        await new Promise((resolve) => setTimeout(resolve, RETRY_DEFAULT_MS))
      }
    }
  }

  #join() {
    clearTimeout(this.#retry)
    this.#become('joining')
    this.socket.emit('join-document', this.document.joinRequest(), ({ error }) => error && this.#joinFailed(error))
  }

  #joinFailed(error) {
    const action = actionFor(error.code)
    if (action === 'tell' || action === 'drop') return this.#giveUp(error)
    this.#joinAfter(error.retryAfterMs ?? RETRY_DEFAULT_MS)
  }

  #joinAfter(ms) {
    clearTimeout(this.#retry)
    this.#retry = setTimeout(() => this.socket.connected && this.#join(), ms)
  }

  #joined(joined) {
    this.#renewing = false
    if (joined.resume) this.socket.io.opts.query = { ...this.socket.io.opts.query, resume: joined.resume }
    const outcome = this.document.receiveJoined(joined)
    if (outcome.newClientId) {
      this.document.renameTo(newClientId())
      this.#progress.restart()
      this.#settle(outcome)
      this.socket.disconnect().connect()
      return
    }
    this.people.joined(joined)
    this.#become(outcome.rejoin ? 'joining' : 'joined')
    this.#settle(outcome)
    this.#tell('people', this.people)
    this.#cursor.sent = undefined
    if (this.#cursor.position) this.cursor(this.#cursor.position)
  }

  #settle(outcome) {
    for (const entry of outcome.learned) this.#tell('learned', entry)
    for (const { seq, version } of outcome.committed) {
      this.#tell('committed', { seq, version, ms: this.#progress.committed(seq, Date.now()) })
    }
    if (outcome.change) this.#tell('change', outcome.change)
    if (outcome.cursors) this.#tell('cursors', this.document.cursors.shown)
    if (outcome.tell) this.#tell('problem', { ...outcome.tell, fatal: !outcome.rejoin })
    if (outcome.rejoin) this.#rejoin(outcome.retryAfterMs)
    this.#flush()
  }

  #rejoin(afterMs) {
    if (!this.socket.connected) return
    this.#become('joining')
    if (afterMs > 0) this.#joinAfter(afterMs)
    else this.#join()
  }

  #flush() {
    for (const edit of this.document.takeSendable()) {
      this.#progress.sent(edit.seq, Date.now())
      this.socket.emit('edit', edit, (answer) => this.#answered(edit, answer))
    }
    this.#tell('state', this.state)
  }

  #answered({ seq, session }, { error, version }) {
    if (error) return this.#settle(this.document.receiveRefusal({ seq, ...error }, session))
    this.#tell('saved', { seq, version, ms: this.#progress.acknowledged(seq, Date.now()) })
    this.#tell('state', this.state)
  }

  #disconnected(reason) {
    this.#stopTimers()
    this.document.disconnected()
    if (this.#connection === 'closed') return
    if (reason === 'io server disconnect') this.#giveUp({ code: 'DISCONNECTED', message: 'The gateway ended the connection.' })
    else this.#become('offline')
  }

  /** Transport trouble is retried by socket.io-client; a refusal says something about the token or the user. */
  #refused(error) {
    if (this.socket.active) return this.#become('offline')
    const code = error.data?.code
    const isOld = code === 'TOKEN_EXPIRED' || code === 'TOKEN_INVALID'
    if (isOld && typeof this.token === 'function' && !this.#renewing) {
      this.#renewing = true
      this.socket.connect()
      return
    }
    this.#giveUp({ code: code ?? 'REFUSED', message: error.message })
  }

  #error({ code, message, documentId }) {
    if (actionFor(code) === 'nothing' || (documentId && documentId !== this.document.documentId)) return
    if (code === 'CLIENT_REPLACED') this.#giveUp({ code, message: 'This editor was opened elsewhere.' })
    else this.#tell('problem', { code, message, fatal: false })
  }

  #giveUp({ code, message }) {
    if (this.#connection === 'closed') return
    this.close()
    this.#tell('problem', { code, message, fatal: true })
  }

  async #renewToken() {
    if (typeof this.token !== 'function') return
    const token = await this.token(true).catch(() => null)
    if (token) this.socket.emit('token-refresh', { token })
  }

  #accessChanged(role) {
    this.document.role = role
    if (role === null) this.#giveUp({ code: 'ACCESS_DENIED', message: 'You were removed from this document.' })
    else this.#tell('state', this.state)
  }

  #people(change) {
    change()
    this.#tell('people', this.people)
  }

  #left(user) {
    this.document.cursors.clear(user.userId)
    this.#people(() => this.people.userLeft(user))
    this.#tell('cursors', this.document.cursors.shown)
  }

  #sendCursor() {
    this.#cursor.timer = null
    const { document } = this
    const { position } = this.#cursor
    // A position beside text that is not sent yet means nothing to others; the next change sends it again.
    if (!document.live || document.counts.editing > 0) return
    const said = JSON.stringify([document.version, position])
    const isNothing = position === null && this.#cursor.sent === undefined
    if (isNothing || said === this.#cursor.sent) return
    this.#cursor.sent = said
    this.socket.emit('cursor-position', { documentId: document.documentId, version: document.version, position })
  }

  #stopTimers() {
    clearTimeout(this.#retry)
    clearTimeout(this.#cursor.timer)
    this.#cursor.timer = null
    this.#typingSince = 0
  }

  #become(connection) {
    if (this.#connection === 'closed') return
    this.#connection = connection
    this.#tell('state', this.state)
  }

  #tell(event, payload) {
    for (const listener of this.#listeners.get(event) ?? []) listener(payload)
  }
}
