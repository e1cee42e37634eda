// The person in front of an editor, who sees others' edits later than the editor learns them. In: what the editor
// showed, and operations made in the document that the person has seen. Out: those operations, moved over what the
// person has not seen yet, by the client's rule.

import { Delta, through } from '../../../gateway/client/core/index.js'

export class Human {
  /** The document as the person has it in mind. */
  document = new Delta()
  #unseen = [] // {change, others}

  /** The editor's document changed. @param {Delta} change @param {number} others how many of the others' edits it has */
  shown(change, others) {
    this.#unseen.push({ change, others })
  }

  /** The person looks until this many of the others' edits are seen. */
  see(others) {
    while (this.#unseen.length > 0 && this.#unseen[0].others <= others) this.#look()
  }

  /** The person looks at everything. */
  seeAll() {
    while (this.#unseen.length > 0) this.#look()
  }

  /** The person does this in the document seen. @returns {Delta} the same in the editor's document */
  make(operation) {
    this.document = this.document.compose(operation)
    const edit = { ops: operation }
    for (const unseen of this.#unseen) unseen.change = through([edit], unseen.change)
    return edit.ops
  }

  #look() {
    this.document = this.document.compose(this.#unseen.shift().change)
  }
}
