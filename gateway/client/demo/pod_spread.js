// Brings the two panes to two different pods: pane B takes a new connection until its pod differs from pane A's.
// In: the pods' names as they become known. Out: reconnects of pane B, and a line that says how it stands.

const TRIES_MAX = 20
/** Between tries: long enough not to look like an attack, short enough to be over before anybody minds. */
const PAUSE_MS = 250

export class PodSpread {
  #tries = 0
  #timer = null

  /**
   * @param {import('../socket/index.js').EditorSocket} a
   * @param {import('../socket/index.js').EditorSocket} b
   * @param {HTMLElement} line
   */
  constructor(a, b, line) {
    this.b = b
    this.line = line
    this.pods = { a: null, b: null }
    a.on('pod', (name) => this.#arrived('a', name))
    b.on('pod', (name) => this.#arrived('b', name))
  }

  #arrived(pane, pod) {
    this.pods[pane] = pod
    const { a, b } = this.pods
    if (!a || !b) return
    if (a !== b) {
      this.#tries = 0
      this.#say('good', 'Two panes, two pods')
    } else if (this.#tries < TRIES_MAX) {
      this.#tries++
      this.#say('busy', `Looking for a second pod (${this.#tries} of ${TRIES_MAX})`)
      clearTimeout(this.#timer)
      this.#timer = setTimeout(() => this.pods.a === this.pods.b && this.b.reconnect(), PAUSE_MS)
    } else {
      this.#say('plain', 'Both panes are on one pod')
    }
  }

  #say(kind, text) {
    this.line.dataset.kind = kind
    this.line.querySelector('span').textContent = text
  }
}
