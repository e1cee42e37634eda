// The socket.io-client adapter: one editor instance, its connection and its document.
export { EditorSocket } from './editor_socket.js'
export { newClientId } from './client_id.js'
