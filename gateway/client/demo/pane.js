// One pane: an editor, its user, its connection, and the row that tells how far the edits have come.
// In: a document's name and a place on the page. Out: `socket`, and calls of `onSeen`.

import { EditorSocket } from '../socket/index.js'
import { DemoUser } from './demo_user.js'
import { createEditor } from './editor.js'
import { initials, sayState } from './words.js'

/** How many recent typing times are kept for the other pane's latency. */
const TYPED_MAX = 512
/** Avatars beyond this become a number. */
const PEOPLE_SHOWN_MAX = 5
/** How long a problem that is over stays readable. */
const PROBLEM_MS = 6000

export class Pane {
  onSeen = () => {}

  #typed = new Map() // seq → time
  #problem = null
  #cutting = false

  constructor({ label, place, documentId }) {
    const view = document.querySelector('#pane').content.cloneNode(true).firstElementChild
    view.dataset.pane = label
    view.setAttribute('aria-label', `Pane ${label}`)
    place.append(view)
    this.view = view
    this.user = new DemoUser((user) => this.#showMe(user))
    this.socket = new EditorSocket({
      url: location.origin,
      documentId,
      as: 'quill',
      token: (renew) => this.user.token(renew),
      io: { reconnectionDelay: 300, reconnectionDelayMax: 3000 },
    })
    this.editor = createEditor(view, this.socket, () => this.#noteTyped())
    this.#listen()
  }

  connect() {
    this.socket.connect()
  }

  /** The other pane shows an entry that may be ours. */
  seenElsewhere({ clientId, seq }, at) {
    if (clientId !== this.socket.document.clientId) return
    const typedAt = this.#typed.get(seq)
    if (typedAt !== undefined) this.#showTime('seen', at - typedAt)
  }

  #listen() {
    const { socket, view } = this
    socket.on('state', (state) => this.#showState(state))
    socket.on('pod', (name) => (view.querySelector('.pod span').textContent = name))
    socket.on('people', (people) => this.#showPeople(people))
    socket.on('committed', ({ ms }) => this.#showTime('committed', ms))
    socket.on('saved', ({ ms }) => this.#showTime('saved', ms))
    socket.on('learned', (entry) => this.onSeen(entry, performance.now()))
    socket.on('problem', (problem) => this.#showProblem(problem))
    view.querySelector('.cut').addEventListener('click', () => {
      this.#cutting = true
      socket.dropTransport()
    })
  }

  #noteTyped() {
    const newest = this.socket.document.unconfirmed.at(-1)
    if (!newest) return
    if (this.#typed.size >= TYPED_MAX) this.#typed.delete(this.#typed.keys().next().value)
    this.#typed.set(newest.seq, performance.now())
  }

  #showState({ connection, role, edits }) {
    this.view.dataset.connection = connection
    if (connection === 'joined') this.#cutting = false
    for (const stage of this.view.querySelectorAll('[data-stage]')) {
      const count = edits[stage.dataset.stage]
      stage.querySelector('b').textContent = count
      stage.classList.toggle('some', count > 0)
    }
    this.editor.allow(role === 'write' && connection !== 'closed')
    this.#showNote(sayState({ connection, role, edits, wasCut: this.#cutting }))
  }

  #showNote(text) {
    const note = this.view.querySelector('.note')
    const shown = this.#problem ?? text
    note.textContent = shown ?? ''
    note.hidden = !shown
  }

  #showProblem({ message, fatal }) {
    this.#problem = fatal ? `${message} Reload the page to go on.` : message
    this.#showNote(null)
    if (fatal) return
    setTimeout(() => {
      this.#problem = null
      this.#showState(this.socket.state)
    }, PROBLEM_MS)
  }

  #showMe({ name, color }) {
    const avatar = this.view.querySelector('.me')
    avatar.textContent = initials(name)
    avatar.style.setProperty('--color', color)
    this.view.querySelector('.name').textContent = name
  }

  #showPeople({ users, count }) {
    const list = this.view.querySelector('.people')
    const others = [...users.values()]
    list.replaceChildren(...others.slice(0, PEOPLE_SHOWN_MAX).map(avatarOf))
    const hidden = count - 1 - Math.min(others.length, PEOPLE_SHOWN_MAX)
    if (hidden > 0) {
      const rest = document.createElement('li')
      rest.className = 'avatar rest'
      rest.textContent = `+${hidden}`
      list.append(rest)
    }
    const typing = others.filter((user) => user.isTyping).map((user) => user.name)
    this.view.querySelector('.typing').textContent = typing.length ? `${typing.slice(0, 2).join(', ')} typing…` : ''
  }

  #showTime(which, ms) {
    if (ms === null) return
    this.view.querySelector(`[data-time=${which}]`).textContent = `${Math.max(1, Math.round(ms))} ms`
  }
}

function avatarOf({ name, color, isTyping }) {
  const item = document.createElement('li')
  item.className = isTyping ? 'avatar busy' : 'avatar'
  item.title = name
  item.textContent = initials(name)
  item.style.setProperty('--color', color)
  return item
}
