// Words for people. In: names and states. Out: short texts.

/** @param {string} name @returns {string} one or two letters, also from names like `demo-x7k2` */
export function initials(name) {
  const words = name.split(/[\s_-]+/).filter(Boolean)
  const letters = words.length > 1 ? [words[0], words.at(-1)] : words
  return letters.map((word) => [...word][0].toUpperCase()).join('') || '?'
}

/** @returns {string | null} what a pane says about its connection; nothing while all is well */
export function sayState({ connection, role, edits, wasCut }) {
  const waiting = edits.editing + edits.sent
  if (connection === 'offline' && waiting > 0) return `Offline. ${plural(waiting)} kept here and sent when the connection is back.`
  if (connection === 'offline') return wasCut ? 'Connection cut. Reconnecting by itself; go on typing.' : 'Offline. Reconnecting by itself; go on typing.'
  if (connection === 'joining' && waiting > 0) return `Back again. Bringing ${plural(waiting)} home…`
  if (role === 'read') return 'You can read this document, but not write to it.'
  if (role === 'comment') return 'You can comment on this document, but not write to it.'
  return null
}

function plural(edits) {
  return edits === 1 ? '1 edit' : `${edits} edits`
}
