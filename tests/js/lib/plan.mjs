// What each of two writers does, in order. In: a concurrent editing trace, or a seed. Out: steps for each writer.

import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'

/** Letters of a generated word; each word is unique, so that a torn one is noticed. */
const WORD_LETTERS = 6

/**
 * @typedef {object} Plan
 * @property {{index: number, needsOthers: number, patches: [number, number, string][]}[][]} writers steps by writer:
 *   `index` in file order, `needsOthers` how many of the other's edits its author knew, patches in code points
 * @property {string | null} endContent the text that a strict replay ends in
 */

/** @param {string} file a gzipped concurrent trace @param {number} limit transactions from its start, 0 = all */
export function planOfTrace(file, limit) {
  const trace = JSON.parse(gunzipSync(readFileSync(file)))
  const txns = limit > 0 ? trace.txns.slice(0, limit) : trace.txns
  const known = [] // by transaction: how many of each agent's it has behind it, itself included
  const writers = [[], []]
  for (const [index, { parents, agent, patches }] of txns.entries()) {
    const behind = [0, 1].map((a) => Math.max(0, ...parents.map((parent) => known[parent][a])))
    if (behind[agent] !== writers[agent].length) throw new Error(`transaction ${index} does not know its author's earlier ones`)
    writers[agent].push({ index, needsOthers: behind[1 - agent], patches })
    behind[agent]++
    known.push(behind)
  }
  return { writers, endContent: txns.length === trace.txns.length ? trace.endContent : null }
}

/** Both type words letter by letter, every word beginning at the very start of the document. @param {number} edits of each */
export function planOfSamePlace(edits) {
  const writers = [0, 1].map((writer) =>
    Array.from({ length: edits }, (_, i) => ({ letter: wordOf(writer, Math.floor(i / WORD_LETTERS))[i % WORD_LETTERS], isStart: i % WORD_LETTERS === 0 })),
  )
  return { writers, endContent: null }
}

/** @returns {string[]} the words that a writer has finished after so many edits */
export function wordsOf(writer, edits) {
  return Array.from({ length: Math.floor(edits / WORD_LETTERS) }, (_, i) => wordOf(writer, i))
}

function wordOf(writer, number) {
  return `${'ab'[writer]}${number.toString(36).padStart(WORD_LETTERS - 2, '0')} `
}
