// The client core: the client's side of the editing protocol without socket or timer, and the Delta type it uses.
export { colorOf } from './color.js'
export { DocumentClient } from './document_client.js'
export { RemoteCursors, moveRange } from './remote_cursors.js'
export { digestOf, textOf } from './digest.js'
export { through } from './rebase.js'
export { actionFor } from './errors.js'
export { default as Delta } from 'quill-delta'
