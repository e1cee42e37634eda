// The few Redis commands that tests need, without a client library. In: a URL and commands. Out: decoded replies.

import { connect } from 'node:net'

/**
 * @param {string} url redis://[:password@]host:port
 * @param {(string | number)[][]} commands sent together
 * @returns {Promise<any[]>} their replies; an error reply rejects
 */
export async function redis(url, commands) {
  const { hostname, port, username, password } = new URL(url)
  const auth = password ? [['AUTH', ...(username ? [username] : []), decodeURIComponent(password)]] : []
  const all = [...auth, ...commands]
  const socket = connect(Number(port || 6379), hostname)
  socket.setTimeout(5000, () => socket.destroy(new Error('Redis does not answer')))
  socket.write(all.map(encode).join(''))
  let text = ''
  try {
    for await (const chunk of socket) {
      text += chunk.toString('latin1')
      const replies = decode(text, all.length)
      if (replies) return replies.slice(auth.length)
    }
  } finally {
    socket.destroy()
  }
  throw new Error('Redis closed the connection')
}

function encode(command) {
  const words = command.map(String)
  return `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('')}`
}

/** @returns all replies, or nothing while they are incomplete */
function decode(text, count) {
  let at = 0
  const line = () => {
    const end = text.indexOf('\r\n', at)
    if (end < 0) throw new RangeError('incomplete')
    const found = text.slice(at, end)
    at = end + 2
    return found
  }
  const value = () => {
    const head = line()
    const rest = head.slice(1)
    if (head[0] === '-') throw new Error(rest)
    if (head[0] === ':') return Number(rest)
    if (head[0] === '+') return rest
    const length = Number(rest)
    if (length < 0) return null
    if (head[0] === '*') return Array.from({ length }, value)
    if (text.length < at + length + 2) throw new RangeError('incomplete')
    const bytes = text.slice(at, at + length)
    at += length + 2
    return Buffer.from(bytes, 'latin1').toString()
  }
  try {
    return Array.from({ length: count }, value)
  } catch (error) {
    if (error instanceof RangeError) return null
    throw error
  }
}
