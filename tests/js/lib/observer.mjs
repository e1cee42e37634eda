// Independent witnesses of the log: raw stock socket.io-clients, one per gateway, that only listen. In: URLs, a
// document. Out: every entry by version, checked to be the same on all gateways.

import { isDeepStrictEqual } from 'node:util'

import Delta from 'quill-delta'
import { io } from 'socket.io-client'

import { signToken } from './tokens.mjs'

export class Witnesses {
  /** version → {clientId, seq, ops}; 1-based */
  entries = []
  /** Differences between gateways, in words. */
  differences = []
  #sockets = []
  #wake = () => {}

  constructor({ urls, document, secret, user }) {
    this.#sockets = urls.map((url) => this.#listen(url, document, signToken({ userId: user, name: user }, secret)))
  }

  /** Resolves when all are in the document. */
  async ready() {
    await this.#until(() => this.#sockets.every(({ at }) => at !== null))
  }

  /** Resolves when every entry up to this version has been seen. */
  async have(version) {
    await this.#until(() => Array.from({ length: version }, (_, i) => i + 1).every((v) => this.entries[v]))
  }

  /** The document that npm quill-delta makes of the entries up to this version. */
  fold(version) {
    let document = new Delta()
    for (let v = 1; v <= version; v++) document = document.compose(new Delta(this.entries[v].ops))
    return document
  }

  close() {
    for (const { socket } of this.#sockets) socket.disconnect()
  }

  #listen(url, documentId, token) {
    const options = { reconnectionDelay: 100, reconnectionDelayMax: 500, timeout: 5000 }
    const socket = io(url, { transports: ['websocket'], forceNew: true, auth: { token }, ...options })
    const witness = { socket, at: null }
    socket.on('connect', () => socket.emit('join-document', { documentId, as: 'delta', ...witness.at }))
    socket.on('document-joined', ({ version, hash, edits = [] }) => {
      for (const entry of edits) this.#see(entry)
      witness.at = { version, hash }
      this.#wake()
    })
    socket.on('edit', (entry) => {
      this.#see(entry)
      witness.at = { version: entry.version, hash: entry.hash }
      this.#wake()
    })
    return witness
  }

  #see({ version, clientId, seq, ops }) {
    const entry = { clientId, seq, ops }
    const known = this.entries[version]
    if (known && !isDeepStrictEqual(known, entry)) {
      this.differences.push(`version ${version}: ${JSON.stringify(known)} and ${JSON.stringify(entry)}`)
    }
    this.entries[version] = entry
  }

  async #until(condition) {
    while (!condition()) await new Promise((resolve) => (this.#wake = resolve))
  }
}
