// ShareDB with rich text, in one process with its memory database (two processes need MongoDB between them), a token
// verified at the upgrade. In: PORT, SECRET, DOCUMENTS (how many there are, named d0, d1, …), TEXT (what is in them).
import { createServer } from 'node:http';
import WebSocketJSONStream from '@teamwork/websocket-json-stream';
import jwt from 'jsonwebtoken';
import richText from 'rich-text';
import ShareDB from 'sharedb';
import { WebSocketServer } from 'ws';

const { PORT, SECRET, DOCUMENTS, TEXT } = process.env;
ShareDB.types.register(richText.type);
const backend = new ShareDB();
const connection = backend.connect();
for (let n = 0; n < Number(DOCUMENTS); n++) {
  await new Promise((resolve, reject) => {
    const done = (error) => (error ? reject(error) : resolve());
    connection.get('documents', `d${n}`).create([{ insert: TEXT }], 'rich-text', done);
  });
}

const http = createServer();
const sockets = new WebSocketServer({ server: http, perMessageDeflate: false });
sockets.on('connection', (socket, request) => {
  try {
    const token = new URL(request.url, 'http://localhost').searchParams.get('token');
    jwt.verify(token, SECRET, { algorithms: ['HS256'] });
  } catch {
    return socket.close(1008);
  }
  backend.listen(new WebSocketJSONStream(socket));
});

// Before memory is measured.
process.on('SIGUSR2', () => globalThis.gc?.());
http.listen(Number(PORT), '127.0.0.1', 4096);
