// Other people's cursors in the document that is shown. In: `cursor-update` payloads, and every change of the shown
// document. Out: positions that stay beside the words they were put at.

/** A receiver keeps at most this many cursors that are ahead of its version; the pod delivers 50 at most. */
const WAITING_MAX = 256

/**
 * @param {any} position `{index, length}` is moved, everything else is returned as it is
 * @param {import('quill-delta')} change
 */
export function moveRange(position, change) {
  if (typeof position?.index !== 'number') return position
  const index = change.transformPosition(position.index)
  const end = change.transformPosition(position.index + (position.length ?? 0))
  return { ...position, index, length: Math.max(0, end - index) }
}

export class RemoteCursors {
  /** clientId → `{userId, clientId, position}`, positions in the shown document. */
  shown = new Map()
  #waiting = new Map()

  /**
   * @param {{userId: string, clientId: string, version: number, position: any}} update
   * @param {number} version what the receiver has applied
   * @param {{ops: import('quill-delta')}[]} unconfirmed the receiver's own edits beyond it
   * @returns {boolean} whether `shown` changed
   */
  receive(update, version, unconfirmed) {
    this.#waiting.delete(update.clientId)
    if (update.version > version) {
      if (this.#waiting.size < WAITING_MAX) this.#waiting.set(update.clientId, update)
      return false
    }
    if (update.position === null) return this.shown.delete(update.clientId)
    const position = unconfirmed.reduce((at, edit) => moveRange(at, edit.ops), update.position)
    this.shown.set(update.clientId, { userId: update.userId, clientId: update.clientId, position })
    return true
  }

  /** Moves all cursors along a change of the shown document. */
  move(change) {
    for (const cursor of this.shown.values()) cursor.position = moveRange(cursor.position, change)
  }

  /** Shows the cursors that waited for this version. @returns {boolean} whether `shown` changed */
  reached(version, unconfirmed) {
    let changed = false
    for (const update of [...this.#waiting.values()]) {
      if (update.version <= version) changed = this.receive(update, version, unconfirmed) || changed
    }
    return changed
  }

  /** Forgets a user's cursors, or everybody's. */
  clear(userId) {
    for (const [clientId, cursor] of this.shown) {
      if (userId === undefined || cursor.userId === userId) this.shown.delete(clientId)
    }
    if (userId === undefined) this.#waiting.clear()
  }
}
