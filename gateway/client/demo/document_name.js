// Which document the page opens. In: the part of the URL after `#`. Out: a name that demo users may write to.

const PREFIX = 'demo-'
const DEFAULT = 'demo-welcome'
const LENGTH_MAX = 128

export function openDocumentName(hash) {
  const asked = decodeURIComponent(hash.slice(1)).replace(/[^A-Za-z0-9._~-]/g, '-')
  if (asked === '') return DEFAULT
  return (asked.startsWith(PREFIX) ? asked : PREFIX + asked).slice(0, LENGTH_MAX)
}

export function newDocumentName() {
  const letters = Array.from(crypto.getRandomValues(new Uint8Array(6)), (byte) => (byte % 36).toString(36))
  return PREFIX + letters.join('')
}
