// Quill bound to an EditorSocket: local changes out, remote changes and cursors in, and our own small toolbar.
// In: the pane's elements, a socket. Out: an editor that can be allowed or forbidden.

import Quill from 'quill'
import QuillCursors from 'quill-cursors'
import 'quill/dist/quill.core.css'

Quill.register('modules/cursors', QuillCursors)

/** A name stays at a cursor this long after it moved. */
const NAME_MS = 2500
/** A typing signal ends this long after the last key. */
const TYPING_MS = 2000

export function createEditor(view, socket, onTyped) {
  const quill = new Quill(view.querySelector('.editor'), {
    placeholder: 'Write something…',
    modules: {
      cursors: { transformOnTextChange: false, hideDelayMs: 1500, hideSpeedMs: 200 },
      history: { userOnly: true, delay: 600 },
    },
  })
  quill.disable()
  bindText(quill, socket, onTyped)
  bindCursors(quill, socket)
  bindTools(view, quill)
  return { quill, allow: (may) => quill.isEnabled() !== may && quill.enable(may) }
}

function bindText(quill, socket, onTyped) {
  let typing = null
  quill.on('text-change', (change, _, source) => {
    if (source !== 'user') return
    socket.edit(change)
    onTyped()
    socket.typing(true)
    clearTimeout(typing)
    typing = setTimeout(() => socket.typing(false), TYPING_MS)
  })
  let isFirst = true
  socket.on('change', (change) => {
    if (isFirst) quill.setContents(socket.document.shown, 'api')
    else quill.updateContents(change, 'api')
    isFirst = false
    // An empty editor always holds one newline; a document that has none yet is shown as it is.
    if (quill.getLength() !== Math.max(1, socket.document.shown.length())) {
      quill.setContents(socket.document.shown, 'api')
    }
  })
}

function bindCursors(quill, socket) {
  const cursors = quill.getModule('cursors')
  const names = new Map() // client id → timer that takes the name away again
  const showName = (clientId) => {
    clearTimeout(names.get(clientId))
    cursors.toggleFlag(clientId, true)
    names.set(clientId, setTimeout(() => cursors.toggleFlag(clientId, false), NAME_MS))
  }
  const show = () => {
    const { shown } = socket.document.cursors
    for (const { id } of cursors.cursors()) if (!shown.has(id)) cursors.removeCursor(id)
    for (const [clientId, { userId, position }] of shown) {
      if (typeof position?.index !== 'number') continue
      const user = socket.people.users.get(userId)
      const cursor = cursors.createCursor(clientId, user?.name ?? 'Somebody', user?.color ?? '#888')
      const isElsewhere = cursor.range?.index !== position.index || cursor.range?.length !== position.length
      cursors.moveCursor(clientId, position)
      if (isElsewhere) showName(clientId)
    }
  }
  socket.on('cursors', show)
  socket.on('people', show)
  // Without the focus the cursor stays where it was, moved along by everybody: the other pane takes the focus away.
  const send = (range) => range && socket.cursor({ index: range.index, length: range.length })
  quill.on('selection-change', send)
  quill.on('text-change', (_, __, source) => source === 'user' && send(quill.getSelection()))
}

function bindTools(view, quill) {
  const buttons = [...view.querySelectorAll('[data-format]')]
  for (const button of buttons) {
    button.addEventListener('mousedown', (event) => event.preventDefault()) // keep the selection
    button.addEventListener('click', () => {
      const { format } = button.dataset
      quill.format(format, isOn(button, quill) ? false : valueOf(button), 'user')
      show()
    })
  }
  const show = () => {
    for (const button of buttons) button.setAttribute('aria-pressed', isOn(button, quill))
  }
  quill.on('editor-change', show)
  show()
}

function isOn(button, quill) {
  if (!quill.hasFocus()) return false
  return quill.getFormat()[button.dataset.format] === valueOf(button)
}

function valueOf({ dataset: { value } }) {
  if (value === undefined) return true
  return Number(value) || value
}
