// What both protocol suites need: a server's address and a socket whose messages are awaited one after the other.
//
// In: COLLAB_SUITE_URL, such as http://127.0.0.1:3000. Out: sockets of the `ws` client that deliver one frame at a
// time: with synchronous events two frames of one TCP segment would come in the same tick.
import assert from 'node:assert/strict';
import { WebSocket } from 'ws';

export const URL = process.env.COLLAB_SUITE_URL ?? 'http://127.0.0.1:3000';
export const GOOD_QUERY = 'EIO=4&transport=websocket';
export const PING_INTERVAL_MS = 300;
export const PING_TIMEOUT_MS = 200;
const PATIENCE_MS = 30_000;

/** A connection: `next()` is the next message, `closed` resolves when it ends. */
export class Peer {
  constructor(query = GOOD_QUERY) {
    this.socket = new WebSocket(`${URL.replace('http', 'ws')}/socket.io/?${query}`, { allowSynchronousEvents: false });
    this.socket.binaryType = 'arraybuffer';
    this.waiting = [];
    this.came = [];
    this.socket.on('message', (data, isBinary) => {
      const message = isBinary ? [...new Uint8Array(data)] : data.toString();
      const waiter = this.waiting.shift();
      if (waiter) waiter(message);
      else this.came.push(message);
    });
    // The status of an upgrade that was refused; 101 where there was none.
    this.refused = new Promise((resolve) => {
      this.socket.on('unexpected-response', (_request, response) => {
        response.resume();
        resolve(response.statusCode);
        this.socket.terminate();
      });
      this.socket.on('open', () => resolve(101));
    });
    this.socket.on('error', () => {});
    this.closed = new Promise((resolve) => this.socket.on('close', resolve));
  }

  /** The next message, a string or an array of bytes. */
  next() {
    if (this.came.length > 0) return Promise.resolve(this.came.shift());
    return within(new Promise((resolve) => this.waiting.push(resolve)), 'a message');
  }

  /** The next message that is no heartbeat. */
  async nextPacket() {
    for (;;) {
      const message = await this.next();
      if (message !== '2') return message;
    }
  }

  send(message) {
    this.socket.send(message);
  }

  end() {
    return within(this.closed, 'the end of the connection');
  }
}

/** A peer that has read the open packet. */
export async function opened() {
  const peer = new Peer();
  await peer.next();
  return peer;
}

/** What the first packet of a connection must say. */
export function assertOpenPacket(packet) {
  assert.equal(packet[0], '0');
  const told = JSON.parse(packet.slice(1));
  assert.equal(typeof told.sid, 'string');
  const { sid: _, ...rest } = told;
  assert.deepEqual(rest, {
    upgrades: [],
    pingInterval: PING_INTERVAL_MS,
    pingTimeout: PING_TIMEOUT_MS,
    maxPayload: 1_000_000,
  });
}

/** Fails rather than waits for ever. */
export function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
