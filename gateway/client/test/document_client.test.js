// The client core's promises one by one; what needs many clients at once is in schedules.test.js.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { colorOf, Delta, digestOf, DocumentClient, moveRange } from '../core/index.js'

function joined(fields = {}) {
  const base = { version: 0, hash: 'h0', session: 's1', lastSeq: 0, clientId: 'me', role: 'write', activeUsers: [] }
  return { ...base, ...('edits' in fields ? {} : { content: 'abc' }), ...fields }
}

function client(fields) {
  const made = new DocumentClient({ documentId: 'd', clientId: 'me' })
  made.receiveJoined(joined(fields))
  return made
}

const insert = (at, text) => new Delta().retain(at).insert(text)
const entry = (version, ops, fields) => ({ version, hash: `h${version}`, clientId: 'you', userId: 'u', seq: version, ops: ops.ops, ...fields })
const own = (version, seq) => ({ version, hash: `h${version}`, clientId: 'me', seq })

test('the first join asks for content and says which number comes first', () => {
  const made = new DocumentClient({ documentId: 'd', clientId: 'me', as: 'quill' })
  assert.deepEqual(made.joinRequest(), { documentId: 'd', as: 'quill', seq: 1 })
  const { change } = made.receiveJoined(joined({ content: undefined, ops: [{ insert: 'hi\n' }] }))
  assert.deepEqual(change.ops, [{ insert: 'hi\n' }])
})

test('edits go out at once, each once, numbered in order', () => {
  const made = client()
  made.local(insert(3, 'd'))
  made.local(insert(4, 'e'))
  const sent = made.takeSendable()
  assert.deepEqual(sent.map((edit) => [edit.seq, edit.version, edit.session]), [[1, 0, 's1'], [2, 0, 's1']])
  assert.deepEqual(made.takeSendable(), [])
})

test('words typed at one place stay words, and the later committed one stands first', () => {
  const made = client({ content: '' })
  for (const [i, letter] of [...'hello'].entries()) made.local(insert(i, letter))
  let screen = new Delta().insert('hello')
  for (const [i, letter] of [...'world'].entries()) {
    screen = screen.compose(made.receiveEdit(entry(i + 1, insert(i, letter))).change)
  }
  assert.deepEqual(screen.ops, [{ insert: 'helloworld' }])
  assert.deepEqual(made.shown.ops, screen.ops)
})

test('beyond 256 unconfirmed edits typing is composed and kept', () => {
  const made = client({ content: '' })
  for (let i = 0; i < 300; i++) made.local(insert(i, 'x'))
  assert.equal(made.takeSendable().length, 256)
  assert.deepEqual(made.counts, { editing: 1, sent: 256 })
  made.receiveCommitted(own(1, 1))
  const kept = made.takeSendable().map((edit) => [edit.seq, edit.ops])
  assert.deepEqual(kept, [[257, insert(256, 'x'.repeat(44)).ops]])
})

test('one edit larger than the window goes out alone', () => {
  const made = client({ content: '' })
  made.local(insert(0, 'x'.repeat(300 * 1024)))
  made.local(insert(0, 'y'))
  assert.deepEqual(made.takeSendable().map((edit) => edit.seq), [1])
  made.receiveCommitted(own(1, 1))
  assert.deepEqual(made.takeSendable().map((edit) => edit.seq), [2])
})

test('after a reconnect what is unconfirmed is sent again under its old numbers and the new session', () => {
  const made = client()
  made.local(insert(3, 'd'))
  made.local(insert(4, 'e'))
  made.takeSendable()
  made.disconnected()
  assert.deepEqual(made.takeSendable(), [])
  assert.deepEqual(made.joinRequest(), { documentId: 'd', as: 'delta', seq: 1, session: 's1', version: 0, hash: 'h0' })
  const { committed } = made.receiveJoined(
    joined({ edits: [entry(1, new Delta(), { clientId: 'me', seq: 1 }), entry(2, insert(0, '!'))], version: 2, hash: 'h2', session: 's2', lastSeq: 1 }),
  )
  assert.deepEqual(committed, [{ seq: 1, version: 1 }])
  assert.deepEqual(made.takeSendable(), [{ documentId: 'd', version: 2, session: 's2', seq: 2, ops: insert(5, 'e').ops }])
  assert.deepEqual(made.shown.ops, [{ insert: '!abcde' }])
})

test('a join by content drops what is in the log and keeps the rest at its place', () => {
  const made = client()
  made.local(insert(3, 'd'))
  made.local(insert(4, 'e'))
  made.takeSendable()
  assert.ok(made.receiveRejoin().rejoin)
  assert.equal('version' in made.joinRequest(), false)
  assert.equal(made.joinRequest().seq, 1)
  const outcome = made.receiveJoined(joined({ content: '!abcd', version: 2, hash: 'h2', session: 's2', lastSeq: 1 }))
  assert.deepEqual(outcome.change.ops, [{ insert: '!' }])
  assert.deepEqual(made.shown.ops, [{ insert: '!abcde' }])
  assert.deepEqual(made.takeSendable().map((edit) => [edit.seq, edit.version, edit.session]), [[2, 2, 's2']])
})

test('entries of a lost history that crossed a join are noticed by their hash', () => {
  const made = client()
  made.receiveRefusal({ code: 'SEQ_GAP' }, 's1')
  assert.equal(made.joinRequest().version, 0)
  made.receiveEdit(entry(1, insert(0, 'lost')))
  const edits = [entry(1, insert(0, 'kept'), { hash: 'g1' })]
  const outcome = made.receiveJoined(joined({ edits, version: 1, hash: 'g1', session: 's2' }))
  assert.ok(outcome.rejoin)
  assert.equal(made.live, false)
  assert.equal('version' in made.joinRequest(), false)
  made.receiveJoined(joined({ content: 'keptabc', version: 1, hash: 'g1', session: 's3' }))
  assert.deepEqual(made.shown.ops, [{ insert: 'keptabc' }])
})

test('a refused edit is taken back from the screen and its number carries the empty edit', () => {
  const made = client()
  made.local(insert(0, 'X'))
  made.local(insert(4, 'd'))
  made.takeSendable()
  const outcome = made.receiveRefusal({ code: 'OP_INVALID', message: 'no', seq: 1 }, 's1')
  assert.deepEqual(outcome.change.ops, [{ delete: 1 }])
  assert.ok(outcome.rejoin)
  assert.equal(outcome.tell.code, 'OP_INVALID')
  assert.deepEqual(made.receiveRefusal({ code: 'SEQ_GAP', seq: 2 }, 's1').rejoin, false, 'it rejoins once')
  made.receiveJoined(joined({ edits: [], session: 's2' }))
  assert.deepEqual(made.takeSendable().map((edit) => [edit.seq, edit.ops]), [[1, []], [2, insert(3, 'd').ops]])
  const again = made.receiveRefusal({ code: 'OP_INVALID', seq: 1 }, 's2')
  assert.equal(again.rejoin, false, 'an empty edit that is refused is not tried for ever')
})

test('an edit that others have made void is sent all the same', () => {
  const made = client()
  made.local(new Delta().delete(1))
  made.receiveEdit(entry(1, new Delta().delete(1)))
  assert.deepEqual(made.takeSendable().map((edit) => [edit.seq, edit.ops]), [[1, []]])
})

test('a lack of the store is waited out', () => {
  const made = client()
  made.local(insert(0, 'x'))
  made.takeSendable()
  const outcome = made.receiveRefusal({ code: 'STORE_UNAVAILABLE', seq: 1, retryAfterMs: 700 }, 's1')
  assert.deepEqual([outcome.rejoin, outcome.retryAfterMs, outcome.tell], [true, 700, null])
  assert.deepEqual(made.shown.ops, [{ insert: 'xabc' }])
})

test('numbers of an earlier life, or that history has lost, ask for a new client id', () => {
  const reloaded = new DocumentClient({ documentId: 'd', clientId: 'me' })
  assert.ok(reloaded.receiveJoined(joined({ lastSeq: 3 })).newClientId)
  const made = client()
  made.local(insert(0, 'x'))
  made.receiveCommitted(own(1, 1))
  made.local(insert(0, 'y'))
  assert.ok(made.receiveJoined(joined({ lastSeq: 0, session: 's2' })).newClientId)
  made.renameTo('me2')
  assert.equal(made.joinRequest().seq, 1)
  assert.equal('session' in made.joinRequest(), false)
})

test('a gap in the versions is answered by joining again from what is confirmed', () => {
  const made = client()
  const outcome = made.receiveEdit(entry(2, insert(0, 'x')))
  assert.deepEqual([outcome.rejoin, outcome.change], [true, null])
  assert.equal(made.joinRequest().version, 0)
})

test('versions that are applied already are ignored', () => {
  const made = client()
  made.receiveEdit(entry(1, insert(0, 'x')))
  assert.equal(made.receiveEdit(entry(1, insert(0, 'x'))).change, null)
})

test('a digest that differs is answered by a join with content', () => {
  const made = client()
  assert.equal(made.receiveEdit(entry(1, insert(0, 'x'), { digest: digestOf('xabc') })).rejoin, false)
  assert.ok(made.receiveEdit(entry(2, insert(0, 'x'), { digest: digestOf('else') })).rejoin)
  assert.equal('version' in made.joinRequest(), false)
})

test('a remote cursor waits for its version and stays beside its word', () => {
  const made = client()
  made.local(insert(0, '>>'))
  const cursor = { userId: 'u', clientId: 'you', version: 1, position: { index: 3, length: 0 } }
  assert.equal(made.receiveCursor(cursor).cursors, false)
  made.receiveEdit(entry(1, insert(3, '.')))
  assert.deepEqual(made.cursors.shown.get('you').position, { index: 5, length: 0 })
  made.local(insert(0, '-'))
  assert.deepEqual(made.cursors.shown.get('you').position, { index: 6, length: 0 })
  assert.ok(made.receiveCursor({ ...cursor, position: null }).cursors)
  assert.equal(made.cursors.shown.size, 0)
})

test('a selection grows with what is typed inside it', () => {
  assert.deepEqual(moveRange({ index: 1, length: 4 }, insert(3, 'xx')), { index: 1, length: 6 })
  assert.deepEqual(moveRange({ any: 'thing' }, insert(3, 'xx')), { any: 'thing' })
})

test('local edits are brought into the normal form', () => {
  const made = client()
  made.local([{ retain: 1 }, { delete: 1 }, { insert: 'x' }, { retain: 1 }])
  assert.deepEqual(made.takeSendable()[0].ops, [{ retain: 1 }, { insert: 'x' }, { delete: 1 }])
})

test('colours are those of the protocol', () => {
  const known = { u1: '#98D8C8', alice: '#FF6B6B', 42: '#BB8FCE', '3f2504e0-4f89-11d3-9a0c-0305e82c3301': '#FFA07A', zoë: '#BB8FCE', 用户7: '#FF6B6B' }
  for (const [user, color] of Object.entries(known)) assert.equal(colorOf(user), color, user)
})
