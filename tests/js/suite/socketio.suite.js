// Socket.IO protocol 5 over WebSocket, the cases of the official suite, against a server with the namespaces / and
// /custom that tells the auth of a CONNECT, answers `message` with `message-back` and acknowledges `message-with-ack`.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Peer, assertOpenPacket, opened } from './common.js';

/** A peer that is connected to the main namespace. */
async function connected() {
  const peer = await opened();
  peer.send('40');
  assert.match(await peer.next(), /^40\{/);
  assert.equal(await peer.next(), '42["auth",{}]');
  return peer;
}

/** Checks the answer to a CONNECT: an object with `sid` alone. */
function assertConnected(packet, head) {
  assert.ok(packet.startsWith(head), packet);
  const told = JSON.parse(packet.slice(head.length));
  assert.deepEqual(Object.keys(told), ['sid']);
  assert.equal(typeof told.sid, 'string');
}

test('the transport opens with the five settings', async () => {
  const peer = new Peer();
  assertOpenPacket(await peer.next());
  peer.socket.close();
});

for (const query of ['transport=websocket', 'EIO=abc&transport=websocket', 'EIO=4', 'EIO=4&transport=abc']) {
  test(`a wrong query is refused: ${query}`, async () => {
    const peer = new Peer(query);
    assert.equal(await peer.refused, 400);
  });
}

test('pings are sent and pongs keep the transport', async () => {
  const peer = await opened();
  for (let count = 0; count < 3; count += 1) {
    assert.equal(await peer.next(), '2');
    peer.send('3');
  }
  peer.socket.close();
});

test('a client that sends no pong is closed', async () => {
  await (await connected()).end();
});

test('a close packet ends the transport', async () => {
  const peer = await opened();
  peer.send('1');
  await peer.end();
});

for (const [sent, head, auth] of [
  ['40', '40', '42["auth",{}]'],
  ['40{"token":"123"}', '40', '42["auth",{"token":"123"}]'],
  ['40/custom,', '40/custom,', '42/custom,["auth",{}]'],
  ['40/custom,{"token":"abc"}', '40/custom,', '42/custom,["auth",{"token":"abc"}]'],
]) {
  test(`${sent} connects and its payload arrives`, async () => {
    const peer = await opened();
    peer.send(sent);
    assertConnected(await peer.next(), head);
    assert.equal(await peer.next(), auth);
    peer.socket.close();
  });
}

test('an unknown namespace is refused', async () => {
  const peer = await opened();
  peer.send('40/random');
  assert.equal(await peer.next(), '44/random,{"message":"Invalid namespace"}');
  peer.socket.close();
});

test('something else than CONNECT ends the connection', async () => {
  const peer = await opened();
  peer.send('4abc');
  await peer.end();
});

test('no CONNECT ends the connection', async () => {
  const peer = await opened();
  // Answers the heartbeat: only the time-out of CONNECT is left to end it.
  peer.socket.on('message', (data) => data.toString() === '2' && peer.send('3'));
  await peer.end();
});

test('after DISCONNECT of the main namespace the transport stays', async () => {
  const peer = await connected();
  peer.send('41');
  assert.equal(await peer.next(), '2');
  peer.socket.close();
});

test('another namespace comes and goes beside the main one', async () => {
  const peer = await connected();
  assert.equal(await peer.next(), '2');
  peer.send('40/custom');
  assertConnected(await peer.next(), '40/custom,');
  assert.equal(await peer.next(), '42/custom,["auth",{}]');
  peer.send('41/custom');
  peer.send('42["message","message to main namespace"]');
  assert.equal(await peer.next(), '42["message-back","message to main namespace"]');
  peer.socket.close();
});

test('an event comes back', async () => {
  const peer = await connected();
  peer.send('42["message",1,"2",{"3":[true]}]');
  assert.equal(await peer.nextPacket(), '42["message-back",1,"2",{"3":[true]}]');
  peer.socket.close();
});

test('an event is acknowledged', async () => {
  const peer = await connected();
  peer.send('42456["message-with-ack",1,"2",{"3":[false]}]');
  assert.equal(await peer.nextPacket(), '43456[1,"2",{"3":[false]}]');
  peer.socket.close();
});

for (const [sent, first] of [
  ['452-["message",', '452-["message-back",'],
  ['452-789["message-with-ack",', '462-789['],
]) {
  test(`attachments go and come: ${sent}`, async () => {
    const places = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]';
    const peer = await connected();
    peer.send(sent + places);
    peer.send(Uint8Array.from([1, 2, 3]));
    peer.send(Uint8Array.from([4, 5, 6]));
    assert.equal(await peer.nextPacket(), first + places);
    assert.deepEqual(await peer.nextPacket(), [1, 2, 3]);
    assert.deepEqual(await peer.nextPacket(), [4, 5, 6]);
    peer.socket.close();
  });
}

for (const sent of ['4abc', '42{}', '42abc["message-with-ack",1,"2",{"3":[false]}]']) {
  test(`a malformed packet ends the connection: ${sent}`, async () => {
    const peer = await connected();
    peer.send(sent);
    await peer.end();
  });
}
