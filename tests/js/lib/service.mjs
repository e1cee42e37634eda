// What a Kubernetes Service is to its clients: one address in front of several pods. In: pods' URLs, the preferred one
// first. Out: a URL; each new connection goes to the first pod that accepts it.

import { once } from 'node:events'
import { connect, createServer } from 'node:net'

/**
 * @param {string[]} pods
 * @returns {Promise<{url: string, stop: () => void}>}
 */
export async function startService(pods) {
  const sockets = new Set()
  const keep = (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket)).on('error', () => socket.destroy())
    return socket
  }
  const server = createServer(async (client) => {
    keep(client)
    const pod = await firstOf(pods)
    if (!pod || client.destroyed) return client.destroy()
    keep(pod)
    client.pipe(pod).pipe(client)
    client.on('close', () => pod.destroy())
    pod.on('close', () => client.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const stop = () => {
    server.close()
    for (const socket of sockets) socket.destroy()
  }
  return { url: `http://127.0.0.1:${server.address().port}`, stop }
}

async function firstOf(pods) {
  for (const pod of pods) {
    const { hostname, port } = new URL(pod)
    const socket = connect(Number(port), hostname)
    try {
      await once(socket, 'connect')
      return socket
    } catch {
      socket.destroy()
    }
  }
  return null
}
