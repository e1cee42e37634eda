// Everything an application needs from one import: the client's rule (core) and its socket.io-client adapter.
export * from './core/index.js'
export * from './socket/index.js'
