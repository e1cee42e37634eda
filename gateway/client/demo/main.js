// The demo page: two editors of one document, each with its own user and connection, on two different pods if there
// are two. In: the document's name after `#`, `GET /demo/token`. Out: what people see.

import './style.css'
import { openDocumentName, newDocumentName } from './document_name.js'
import { Pane } from './pane.js'
import { PodSpread } from './pod_spread.js'
import { startTheme } from './theme.js'

const name = openDocumentName(location.hash)
if (location.hash !== `#${name}`) history.replaceState(null, '', `#${name}`)
document.querySelector('#document').textContent = name
addEventListener('hashchange', () => location.reload())
document.querySelector('#fresh').addEventListener('click', () => (location.hash = newDocumentName()))
startTheme(document.querySelector('#theme'))

const place = document.querySelector('#panes')
const panes = ['A', 'B'].map((label) => new Pane({ label, place, documentId: name }))
const [a, b] = panes
a.onSeen = (entry, at) => b.seenElsewhere(entry, at)
b.onSeen = (entry, at) => a.seenElsewhere(entry, at)

new PodSpread(a.socket, b.socket, document.querySelector('#link'))
for (const pane of panes) pane.connect()
