// A document's text as the protocol counts it, and the digest that pods and clients compare. In: a document (a Delta
// of inserts). Out: a string, or 16 hex digits.

/** The object replacement character stands for an embed. */
const EMBED = '\uFFFC'

/**
 * @param {import('quill-delta')} document inserts only
 * @returns {string} its text in UTF-16 units, an embed as U+FFFC
 */
export function textOf(document) {
  return document.ops.map((op) => (typeof op.insert === 'string' ? op.insert : EMBED)).join('')
}

/**
 * @param {string} text
 * @returns {string} FNV-style hash over the UTF-16 units, forwards and then backwards, 8 hex digits each
 */
export function digestOf(text) {
  let forwards = 2166136261
  let backwards = 2166136261
  for (let i = 0; i < text.length; i++) {
    forwards = Math.imul(forwards ^ text.charCodeAt(i), 16777619)
    backwards = Math.imul(backwards ^ text.charCodeAt(text.length - 1 - i), 16777619)
  }
  return hex(forwards) + hex(backwards)
}

function hex(number) {
  return (number >>> 0).toString(16).padStart(8, '0')
}
