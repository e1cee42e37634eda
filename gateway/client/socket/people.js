// Who else is in the document. In: the presence events of the protocol. Out: a list of users with name, colour and
// whether they type, and how many there are in all.

export class People {
  /** user id → `{id, name, avatar, color, isTyping}`; at most the 100 that the gateway names. */
  users = new Map()
  count = 0

  joined({ activeUsers = [], activeCount }) {
    this.users = new Map(activeUsers.map(({ cursors, ...user }) => [user.id, { isTyping: false, ...user }]))
    this.count = activeCount ?? this.users.size + 1
  }

  userJoined({ userId, name, avatar, color }) {
    if (!this.users.has(userId)) this.count++
    this.users.set(userId, { id: userId, name, avatar, color, isTyping: false })
  }

  userLeft({ userId }) {
    if (this.users.delete(userId)) this.count--
  }

  counted({ activeCount }) {
    this.count = activeCount
  }

  typing({ userId, isTyping }) {
    const user = this.users.get(userId)
    if (user) user.isTyping = isTyping
  }
}
