// Tokens as an application would sign them. In: claims and an HS256 secret. Out: a JWT.

import { createHmac } from 'node:crypto'

const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')

/**
 * @param {{userId: string, name?: string}} claims
 * @param {string} secret
 * @param {number} [lifeSeconds]
 */
export function signToken(claims, secret, lifeSeconds = 3600) {
  const now = Math.floor(Date.now() / 1000)
  const said = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ iat: now, exp: now + lifeSeconds, ...claims })}`
  return `${said}.${createHmac('sha256', secret).update(said).digest('base64url')}`
}
