// What a client does about each error code when it answers an edit or a join. In: a code. Out: one of five words.

const ACTIONS = {
  BAD_REQUEST: 'drop',
  OP_INVALID: 'drop',
  READ_ONLY: 'drop',
  DOCUMENT_TOO_LARGE: 'drop',
  RATE_LIMITED: 'wait',
  OVERLOADED: 'wait',
  STORE_UNAVAILABLE: 'wait',
  SEQ_GAP: 'rejoin',
  VERSION_TOO_OLD: 'rejoin',
  VERSION_AHEAD: 'rejoin',
  ACCESS_DENIED: 'tell',
  JOIN_FAILED: 'tell',
  NOT_JOINED: 'tell',
  CLIENT_REPLACED: 'tell',
  NOT_DURABLE_YET: 'nothing',
}

/**
 * @param {string} code
 * @returns {'drop' | 'wait' | 'rejoin' | 'tell' | 'nothing'} `drop`: take the edit back and rejoin; `wait`: the same
 *   again (an edit: rejoin) after `retryAfterMs`; `rejoin`: join again from what is confirmed; `tell`: tell the user.
 *   A code that this version does not know is told to the user.
 */
export function actionFor(code) {
  return ACTIONS[code] ?? 'tell'
}
