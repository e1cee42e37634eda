// The Socket.IO server of the usual design: JWT, users and access cached in Redis, a room for each document, edits put on
// a list and broadcast through the Redis adapter, presence in a hash. In: PORT, REDIS_PORT, SECRET. It does no OT, keeps
// no order beyond a counter and acknowledges before anything is durable: what it leaves out costs it nothing.
import { createServer } from 'node:http';
import { createAdapter } from '@socket.io/redis-adapter';
import jwt from 'jsonwebtoken';
import { createClient } from 'redis';
import { Server } from 'socket.io';

const { PORT, REDIS_PORT, SECRET } = process.env;
const redis = createClient({ url: `redis://127.0.0.1:${REDIS_PORT}` });
const publisher = redis.duplicate();
const subscriber = redis.duplicate();
await Promise.all([redis.connect(), publisher.connect(), subscriber.connect()]);

const http = createServer();
const io = new Server(http, { transports: ['websocket'], adapter: createAdapter(publisher, subscriber) });

io.use(async (socket, next) => {
  try {
    const claims = jwt.verify(socket.handshake.auth.token, SECRET, { algorithms: ['HS256'] });
    const user = await redis.get(`user:${claims.sub}`);
    if (!user) return next(new Error('User not found'));
    socket.data.user = JSON.parse(user);
    next();
  } catch {
    next(new Error('Authentication failed'));
  }
});

io.on('connection', (socket) => {
  const { user } = socket.data;
  let joined = null;

  socket.on('join-document', async ({ documentId }) => {
    const access = await redis.get(`doc:${documentId}:access:${user.id}`);
    if (!access) return socket.emit('error', { code: 'ACCESS_DENIED' });
    const presence = `presence:${documentId}`;
    const [version, content, , people] = await redis
      .multi()
      .get(`version:${documentId}`)
      .get(`content:${documentId}`)
      .hSet(presence, user.id, JSON.stringify({ name: user.name, at: Date.now() }))
      .hGetAll(presence)
      .exec();
    socket.join(documentId);
    joined = documentId;
    const activeUsers = Object.entries(people).map(([id, row]) => ({ id, name: JSON.parse(row).name }));
    socket.to(documentId).emit('user-joined', { documentId, userId: user.id, name: user.name });
    socket.emit('document-joined', { documentId, version: Number(version ?? 0), content: content ?? '', activeUsers });
  });

  socket.on('edit', async ({ documentId, ops, seq }) => {
    if (joined !== documentId) return;
    const entry = JSON.stringify({ ops, userId: user.id, seq });
    const [version] = await redis
      .multi()
      .incr(`version:${documentId}`)
      .rPush(`operations:${documentId}`, entry)
      .lTrim(`operations:${documentId}`, -1000, -1)
      .exec();
    socket.to(documentId).emit('edit', { documentId, version, ops, userId: user.id, seq });
    socket.emit('edit-committed', { documentId, version, seq });
  });

  socket.on('cursor-position', ({ documentId, position }) => {
    if (joined !== documentId) return;
    socket.to(documentId).emit('cursor-update', { documentId, userId: user.id, position });
  });

  socket.on('disconnect', async () => {
    if (!joined) return;
    socket.to(joined).emit('user-left', { documentId: joined, userId: user.id });
    await redis.hDel(`presence:${joined}`, user.id);
  });
});

// Before memory is measured.
process.on('SIGUSR2', () => globalThis.gc?.());
http.listen(Number(PORT), '127.0.0.1', 4096);
