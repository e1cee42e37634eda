// How far one's edits have come: editing → sent → in the log → saved. In: what happened to which number, and when.
// Out: counters, and the milliseconds from sending to each stage.

/** Send times of more edits than this are not kept; the protocol's window is smaller. */
const TIMES_MAX = 1024

export class Progress {
  #inLog = 0 // highest number known to be in the log
  #saved = 0 // highest number acknowledged; an acknowledgement covers all before it
  #sentAt = new Map()

  sent(seq, now) {
    if (this.#sentAt.size >= TIMES_MAX) this.#sentAt.delete(this.#sentAt.keys().next().value)
    if (!this.#sentAt.has(seq)) this.#sentAt.set(seq, now)
  }

  /** @returns {number | null} milliseconds since it was first sent */
  committed(seq, now) {
    this.#inLog = Math.max(this.#inLog, seq)
    return this.#since(seq, now)
  }

  /** @returns {number | null} milliseconds since it was first sent */
  acknowledged(seq, now) {
    this.#saved = Math.max(this.#saved, seq)
    const ms = this.#since(seq, now)
    for (const known of this.#sentAt.keys()) if (known <= seq) this.#sentAt.delete(known)
    return ms
  }

  /** Numbers start again from 1. */
  restart() {
    this.#inLog = 0
    this.#saved = 0
    this.#sentAt.clear()
  }

  /** @returns {{inLog: number, saved: number}} edits in the log but not acknowledged, and edits acknowledged */
  get counts() {
    return { inLog: Math.max(0, this.#inLog - this.#saved), saved: this.#saved }
  }

  #since(seq, now) {
    const at = this.#sentAt.get(seq)
    return at === undefined ? null : now - at
  }
}
