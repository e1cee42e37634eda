// Names for editor instances. Out: 22 characters of [A-Za-z0-9_-], 132 random bits.

const LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

/** @returns {string} a name that no other editor instance has */
export function newClientId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(22)), (byte) => LETTERS[byte & 63]).join('')
}
