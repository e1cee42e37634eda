// Gateway processes for tests: one on its embedded store, or several on a Redis of their own.
// In: COLLAB_GATEWAY_BIN, how many. Out: URLs, the JWT secret, pids, and `stop` that leaves nothing behind.

import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { redis } from './redis.mjs'

const START_MS = 20_000

/**
 * @param {{pods?: number, demo?: boolean, flags?: string[]}} [options] two pods or more share a Redis
 * @returns {Promise<{urls: string[], adminUrls: string[], secret: string, redisUrl: string | null, pids: number[],
 *   processes: import('node:child_process').ChildProcess[], stop: () => Promise<void>}>}
 */
export async function startGateways({ pods = 1, demo = false, flags = [] } = {}) {
  const binary = process.env.COLLAB_GATEWAY_BIN
  if (!binary) throw new Error('COLLAB_GATEWAY_BIN must name a built collab-gateway')
  const folder = await mkdtemp(join(tmpdir(), 'collab-'))
  const processes = []
  const stop = async () => {
    await Promise.all(processes.map(end))
    await rm(folder, { recursive: true, force: true })
  }
  try {
    const secret = randomBytes(24).toString('hex')
    await writeFile(join(folder, 'secret'), secret)
    const redisUrl = pods > 1 ? await startRedis(folder, processes) : null
    const store = redisUrl ? ['--redis-url', redisUrl] : []
    const started = []
    for (let i = 0; i < pods; i++) {
      const [port, adminPort] = [await freePort(), await freePort()]
      const listen = ['--listen', `127.0.0.1:${port}`, '--admin-listen', `127.0.0.1:${adminPort}`]
      const secrets = ['--jwt-secret-file', join(folder, 'secret')]
      const child = start(binary, [...listen, ...secrets, ...store, ...(demo ? ['--demo'] : []), ...flags], processes)
      started.push({ url: `http://127.0.0.1:${port}`, adminUrl: `http://127.0.0.1:${adminPort}`, child })
    }
    await Promise.all(started.map(({ adminUrl, child }) => ready(adminUrl, child)))
    return {
      urls: started.map(({ url }) => url),
      adminUrls: started.map(({ adminUrl }) => adminUrl),
      secret,
      redisUrl,
      pids: started.map(({ child }) => child.pid),
      processes: started.map(({ child }) => child),
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

/**
 * Writes the keys that an application owns: who these users are, and that they may use this document.
 * @param {string | null | undefined} redisUrl without one (embedded store) every valid token may do everything
 * @param {string} documentId
 * @param {Record<string, 'write' | 'comment' | 'read'>} roles by user id
 */
export async function allow(redisUrl, documentId, roles) {
  if (!redisUrl) return
  const commands = Object.entries(roles).flatMap(([id, role]) => [
    ['SET', `user:${id}`, JSON.stringify({ id, name: id })],
    ['SET', `doc:${documentId}:access:${id}`, role],
  ])
  await redis(redisUrl, commands)
}

async function startRedis(folder, processes) {
  const port = await freePort()
  const options = ['--port', port, '--bind', '127.0.0.1', '--dir', folder, '--save', '', '--appendonly', 'no']
  const child = start(process.env.COLLAB_TEST_REDIS ?? 'redis-server', options.map(String), processes, 'ignore')
  const url = `redis://127.0.0.1:${port}`
  await until(START_MS, 'Redis', child, () => redis(url, [['PING']]))
  return url
}

function start(command, args, processes, output = 'inherit') {
  const child = spawn(command, args, { stdio: ['ignore', output, output] })
  child.on('error', (error) => console.error(`${command}: ${error.message}`))
  processes.push(child)
  return child
}

async function ready(adminUrl, child) {
  await until(START_MS, 'collab-gateway', child, async () => {
    const { ok } = await fetch(`${adminUrl}/readyz`)
    if (!ok) throw new Error('not ready')
  })
}

async function until(ms, what, child, attempt) {
  const deadline = Date.now() + ms
  for (;;) {
    if (child.exitCode !== null) throw new Error(`${what} ended with ${child.exitCode}`)
    try {
      return await attempt()
    } catch (error) {
      if (Date.now() > deadline) throw new Error(`${what} did not get ready: ${error.message}`)
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
}

async function end(child) {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return
  child.kill('SIGCONT')
  child.kill('SIGKILL')
  await once(child, 'exit')
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}
