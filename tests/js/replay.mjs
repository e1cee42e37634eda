// Two writers in processes of their own replay a plan on one document, through different gateways; a late joiner and
// independent witnesses compare. Every line on stdout is one JSON object; the last is the verdict, and the exit code
// is 0 only if it is good.
//
//   node replay.mjs --urls http://a,http://b --trace friendsforever.json.gz
//   node replay.mjs --urls … --mode same-place --limit 600
//   node replay.mjs --urls … --trace … --limit 3000 --reconnect-percent 5
//
// In: the flags below; the HS256 secret in GATEWAY_JWT_SECRET; in GATEWAY_REDIS_URL a Redis to write users and access
// to (without it they must be there: users writer-0, writer-1, witness, with access to the document).
// Out: {event: started | joined | disconnected | progress | typed | end | verdict, …}. Whoever injects failures
// watches `progress`: {writer, done, of, version, unconfirmed}.

import { fork } from 'node:child_process'
import { isDeepStrictEqual, parseArgs } from 'node:util'

import Delta from 'quill-delta'
import { io } from 'socket.io-client'

import { allow } from './lib/gateways.mjs'
import { Witnesses } from './lib/observer.mjs'
import { planOfTrace, wordsOf } from './lib/plan.mjs'
import { signToken } from './lib/tokens.mjs'

const { values: flags } = parseArgs({
  options: {
    urls: { type: 'string', default: process.env.GATEWAY_URLS },
    document: { type: 'string', default: `replay-${Date.now().toString(36)}` },
    trace: { type: 'string' },
    mode: { type: 'string', default: 'friendsforever' }, // or same-place
    limit: { type: 'string', default: '0' }, // transactions of the trace (0 = all), or edits of each writer
    'reconnect-percent': { type: 'string', default: '0' }, // forced reconnects after this share of the edits
    'with-failures': { type: 'boolean', default: false }, // somebody else breaks things: as with reconnects
    rate: { type: 'string', default: '400' }, // edits a second of each writer, where it does not wait for the other
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    'timeout-seconds': { type: 'string', default: '900' },
  },
})

const secret = process.env.GATEWAY_JWT_SECRET
if (!flags.urls || !secret) usage('--urls (or GATEWAY_URLS) and GATEWAY_JWT_SECRET are needed')
const isTrace = flags.mode === 'friendsforever'
if (!isTrace && flags.mode !== 'same-place') usage(`--mode ${flags.mode}: friendsforever or same-place`)
if (isTrace && !flags.trace) usage('--trace is needed')
const urls = flags.urls.split(',')
const reconnectPercent = Number(flags['reconnect-percent'])
const hasFailures = reconnectPercent > 0 || flags['with-failures']
const limit = Number(flags.limit) || (isTrace ? 0 : 600)

const children = [0, 1].map(() => fork(new URL('./lib/writer.mjs', import.meta.url)))
const deadline = setTimeout(giveUp, Number(flags['timeout-seconds']) * 1000)
try {
  await main()
} catch (error) {
  end({ ok: false, problems: [error.stack] })
}

async function main() {
  const { document } = flags
  const [writers, witness] = [['writer-0', 'writer-1'], 'witness']
  const roles = { [writers[0]]: 'write', [writers[1]]: 'write', [witness]: 'read' }
  await allow(process.env.GATEWAY_REDIS_URL, document, roles)
  const witnesses = new Witnesses({ urls, document, secret, user: witness })
  await witnesses.ready()
  const startedAt = Date.now()
  say({ event: 'started', document, urls, seed: Number(flags.seed), mode: flags.mode, failures: hasFailures })
  const common = { urls, document, secret, limit, reconnectPercent, rate: Number(flags.rate), seed: Number(flags.seed) }
  const kind = { trace: isTrace ? flags.trace : null, strict: isTrace && !hasFailures, tokens: hasFailures || !isTrace }
  const running = children.map((child, writer) => {
    child.send({ start: { ...common, ...kind, writer, user: writers[writer] } })
    return watch(child, writer)
  })
  const typed = await Promise.all(running.map(({ typed }) => typed))
  const total = typed.reduce((sum, { edits }) => sum + edits, 0)
  for (const child of children) child.send({ finish: total })
  const ends = await Promise.all(running.map(({ ended }) => ended))
  await witnesses.have(total)
  const joiners = await Promise.all(urls.map((url) => joinLate(url, document, witness)))
  witnesses.close()
  const problems = check({ typed, total, ends, joiners, witnesses })
  const text = textOf(ends[0].ops)
  const reconnects = ends.map((end) => end.reconnects)
  const seconds = (Date.now() - startedAt) / 1000
  end({ ok: problems.length === 0, problems, edits: total, version: ends[0].version, length: text.length, reconnects, seconds })
}

function check({ typed, total, ends, joiners, witnesses }) {
  const problems = [...witnesses.differences.slice(0, 3)]
  const expect = (isGood, problem) => isGood || problems.push(problem)
  const folded = witnesses.fold(total)
  const text = textOf(folded.ops)
  for (const [i, end] of ends.entries()) {
    expect(end.version === total, `writer ${i} is at version ${end.version} of ${total}`)
    expect(isDeepStrictEqual(end.ops, folded.ops), `writer ${i} differs from the folded log: ${textOf(end.ops).slice(0, 80)}`)
  }
  expect(ends[0].hash === ends[1].hash, 'the writers have different histories')
  for (const [i, joiner] of joiners.entries()) {
    expect(joiner.version === total, `joiner ${i} is at version ${joiner.version} of ${total}`)
    expect(isDeepStrictEqual(joiner.ops, folded.ops), `joiner ${i} differs from the folded log`)
  }
  checkNumbers(typed, total, witnesses, expect)
  if (hasFailures || !isTrace) checkTokens(total, witnesses, expect)
  if (isTrace && !hasFailures) {
    const { endContent } = planOfTrace(flags.trace, limit)
    if (endContent !== null) expect(text === endContent, 'the text is not the endContent of the trace')
  }
  // Who reconnects finds the caret by the sum of what was missed, which may be beside the own word: then words may be torn.
  if (!isTrace && ends.every(({ reconnects }) => reconnects === 0)) {
    const words = [0, 1].flatMap((writer) => wordsOf(writer, limit))
    const torn = words.filter((word) => !text.includes(word))
    expect(torn.length === 0, `${torn.length} words are torn, such as ${JSON.stringify(torn[0])}`)
  }
  return problems
}

/** Every number of every writer is in the log once, in order. */
function checkNumbers(typed, total, witnesses, expect) {
  const next = new Map(typed.map(({ clientId }) => [clientId, 1]))
  for (let version = 1; version <= total; version++) {
    const { clientId, seq } = witnesses.entries[version]
    expect(seq === next.get(clientId), `version ${version} is number ${seq} of ${clientId}, not ${next.get(clientId)}`)
    next.set(clientId, seq + 1)
  }
}

/** Every token that a writer has inserted is in the log once. */
function checkTokens(total, witnesses, expect) {
  const counts = new Map()
  for (let version = 1; version <= total; version++) {
    for (const { insert, attributes } of witnesses.entries[version].ops) {
      const token = insert !== undefined && attributes?.token
      if (token) counts.set(token, (counts.get(token) ?? 0) + 1)
    }
  }
  const twice = [...counts].filter(([, count]) => count !== 1)
  expect(twice.length === 0, `tokens more than once: ${JSON.stringify(twice.slice(0, 3))}`)
  const lost = tokensMade().filter((token) => !counts.has(token))
  expect(lost.length === 0, `tokens lost: ${lost.length}, such as ${lost[0]}`)
}

function tokensMade() {
  if (!isTrace) return [0, 1].flatMap((writer) => Array.from({ length: limit }, (_, i) => `${writer}-${i}`))
  const inserting = (step) => step.patches.some(([, , inserted]) => inserted !== '')
  const { writers } = planOfTrace(flags.trace, limit)
  return writers.flatMap((steps, writer) => steps.filter(inserting).map(({ index }) => `${writer}-${index}`))
}

function joinLate(url, documentId, user) {
  const auth = { token: signToken({ userId: user, name: user }, secret) }
  const socket = io(url, { transports: ['websocket'], forceNew: true, auth, reconnectionDelayMax: 500 })
  socket.on('connect', () => socket.emit('join-document', { documentId, as: 'delta' }))
  return new Promise((resolve) => {
    socket.on('document-joined', ({ version, ops }) => {
      socket.disconnect()
      resolve({ version, ops })
    })
  })
}

function watch(child, writer) {
  const promises = {}
  const settle = {}
  for (const event of ['typed', 'end']) {
    promises[event] = new Promise((resolve) => (settle[event] = resolve))
  }
  child.on('message', (message) => {
    const { ops, ...short } = message
    say({ writer, ...short })
    if (message.event === 'failed') end({ ok: false, problems: [`writer ${writer}: ${message.reason}`] })
    settle[message.event]?.(message)
  })
  child.on('exit', (code) => code && end({ ok: false, problems: [`writer ${writer} ended with ${code}`] }))
  return { typed: promises.typed, ended: promises.end }
}

function textOf(ops) {
  return new Delta(ops).map((op) => (typeof op.insert === 'string' ? op.insert : '\uFFFC')).join('')
}

/** Says where the writers stand, and ends. */
function giveUp() {
  for (const child of children) child.send({ status: true })
  setTimeout(() => end({ ok: false, problems: ['timeout'] }), 1000)
}

function say(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`)
}

function end(verdict) {
  clearTimeout(deadline)
  for (const child of children) child.kill()
  process.stdout.write(`${JSON.stringify({ event: 'verdict', ...verdict })}\n`, () => process.exit(verdict.ok ? 0 : 1))
}

function usage(problem) {
  console.error(`replay: ${problem}`)
  process.exit(2)
}
