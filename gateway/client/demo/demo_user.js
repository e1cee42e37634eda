// A demo user from the gateway's token. In: `GET /demo/token`. Out: a token and who it says one is.

import { colorOf } from '../core/index.js'

/** One user per pane: the same token until the gateway refuses it. */
export class DemoUser {
  #token = null

  /** @param {(user: {id: string, name: string, color: string}) => void} onKnown */
  constructor(onKnown) {
    this.onKnown = onKnown
  }

  async token(renew) {
    if (this.#token && !renew) return this.#token
    const response = await fetch('demo/token', { cache: 'no-store' })
    if (!response.ok) throw new Error(`no token: ${response.status}`)
    const text = (await response.text()).trim()
    this.#token = text.startsWith('{') ? JSON.parse(text).token : text
    const claims = claimsOf(this.#token)
    const id = String(claims.userId ?? claims.sub ?? 'you')
    this.onKnown({ id, name: claims.name ?? id, color: colorOf(id) })
    return this.#token
  }
}

function claimsOf(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')), (c) => c.charCodeAt(0))
    return JSON.parse(new TextDecoder().decode(bytes))
  } catch {
    return {}
  }
}
