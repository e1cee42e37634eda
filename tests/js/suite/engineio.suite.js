// Engine.IO protocol 4 over WebSocket, the cases of the official suite, against a server that sends every message back.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Peer, assertOpenPacket, opened } from './common.js';

test('a session opens with the five settings', async () => {
  const peer = new Peer();
  assertOpenPacket(await peer.next());
  peer.socket.close();
});

for (const query of ['transport=websocket', 'EIO=abc&transport=websocket', 'EIO=3&transport=websocket']) {
  test(`a wrong protocol version is refused: ${query}`, async () => {
    const peer = new Peer(query);
    assert.equal(await peer.refused, 400);
    await peer.end();
  });
}

for (const query of ['EIO=4', 'EIO=4&transport=abc']) {
  test(`a wrong transport is refused: ${query}`, async () => {
    const peer = new Peer(query);
    assert.equal(await peer.refused, 400);
    await peer.end();
  });
}

test('a text message goes and comes', async () => {
  const peer = await opened();
  peer.send('4hello');
  assert.equal(await peer.nextPacket(), '4hello');
  peer.socket.close();
});

test('a binary message goes and comes', async () => {
  const peer = await opened();
  peer.send(Uint8Array.from([1, 2, 3, 4]));
  assert.deepEqual(await peer.nextPacket(), [1, 2, 3, 4]);
  peer.socket.close();
});

test('a packet of an unknown type ends the session', async () => {
  const peer = await opened();
  peer.send('abc');
  await peer.end();
});

test('pings are sent and pongs keep the session', async () => {
  const peer = await opened();
  for (let count = 0; count < 3; count += 1) {
    assert.equal(await peer.next(), '2');
    peer.send('3');
  }
  assert.equal(await peer.next(), '2');
  peer.socket.close();
});

test('a client that sends no pong is closed', async () => {
  const peer = await opened();
  await peer.end();
});

test('a close packet ends the session', async () => {
  const peer = await opened();
  peer.send('1');
  await peer.end();
});
