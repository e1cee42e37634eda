// One remote edit against a row of unconfirmed ones: the heart of the client's rule. In: edits in order and a remote
// edit in the context before the first. Out: the edits moved over it (in place), and the remote edit after the last.

/**
 * Ties: the later committed edit stands first. The remote edit is committed already, the unconfirmed ones will be
 * later, so they go first and their attribute values win. Both sides are computed from the old values.
 *
 * @param {{ops: import('quill-delta')}[]} edits moved in place
 * @param {import('quill-delta')} remote one log entry (or one diff); never a composition of several entries
 * @returns {import('quill-delta')} what the remote edit does to a document that has all of `edits`
 */
export function through(edits, remote) {
  for (const edit of edits) {
    const moved = remote.transform(edit.ops, false)
    remote = edit.ops.transform(remote, true)
    edit.ops = moved
  }
  return remote
}
