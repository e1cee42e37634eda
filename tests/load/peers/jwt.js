// CPU time that npm jsonwebtoken takes for one token. In: JSON {algorithm, key, tokens} on standard input. Out: one JSON
// line {us}, microseconds; null where it does not know the algorithm.

import { createPublicKey, createSecretKey } from 'node:crypto'
import { readFileSync } from 'node:fs'

import jwt from 'jsonwebtoken'

const { algorithm, key, tokens } = JSON.parse(readFileSync(0))
// Read once: it takes texts too, and then reads them for every token.
const parsed = algorithm === 'HS256' ? createSecretKey(key, 'utf8') : createPublicKey(key)
const verifyAll = () => tokens.forEach((token) => jwt.verify(token, parsed, { algorithms: [algorithm] }))

console.log(JSON.stringify({ us: isKnown() ? best() : null }))

function isKnown() {
  try {
    jwt.verify(tokens[0], parsed, { algorithms: [algorithm] })
    return true
  } catch (error) {
    // A token that cannot be good by its rules would be another error.
    if (/algorithm|key type/i.test(error.message)) return false
    throw error
  }
}

/** The best of some runs: the others were disturbed, and the first ones are not compiled yet. */
function best() {
  const runs = Array.from({ length: 7 }, () => {
    const before = process.cpuUsage()
    verifyAll()
    const { user, system } = process.cpuUsage(before)
    return (user + system) / tokens.length
  })
  return Math.min(...runs)
}
