//! Looks at users who are signed in: whether the directory still knows them, and what they are called now.
//!
//! In: users who were said to have changed, words that anybody may have, time. Out: new names in open documents, and
//! closed connections of users whom the directory does not know any more. Everybody waits in line once, and a bounded
//! number is read at a time; whoever was named comes first.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, Interval, interval_at},
};

use crate::{
    directory::{Directory, Known},
    documents::Documents,
    outbox::Ending,
    registry::Registry,
};

/// Without a word of a change a user is read again after this time: with what a look at everybody takes, within the minute
/// that CONTRACT section 2 gives.
const LOOK_AGAIN: Duration = Duration::from_secs(45);
/// Users that are read at once: as many as let a look at everybody end in 10 s where an answer takes 100 ms.
const USERS_PER_LOOK: usize = 100;
const LOOKS_MIN: usize = 16;
/// A quarter of what a webhook is asked at once is left to those who sign in.
const LOOKS_MAX: usize = 48;
/// Users who are not here and were said to have changed. More are dropped: all there is to do is to take away what pods
/// share of them, and each pod has heard by itself that it is old.
const ABSENT_MAX: usize = 4096;

/// What is under way and what waits.
pub(crate) struct Looks {
    here: Here,
    minutes: Interval,
    /// Users who were named.
    named: Line,
    /// Everybody else who is to be looked at; at most those who are signed in.
    others: Line,
    /// Of the others.
    at_once: usize,
    under_way: JoinSet<()>,
}

/// Who knows users on this pod.
#[derive(Clone)]
struct Here {
    directory: Directory,
    documents: Documents,
    registry: Registry,
}

/// Users in the order in which they came, each once.
#[derive(Default)]
struct Line {
    order: VecDeque<Arc<str>>,
    waiting: HashSet<Arc<str>>,
}

impl Looks {
    /// Nobody is to be looked at before it is time.
    pub(crate) fn new(directory: Directory, documents: Documents, registry: Registry) -> Looks {
        Looks {
            here: Here { directory, documents, registry },
            minutes: interval_at(Instant::now() + LOOK_AGAIN, LOOK_AGAIN),
            named: Line::default(),
            others: Line::default(),
            at_once: LOOKS_MIN,
            under_way: JoinSet::new(),
        }
    }

    /// This user was said to have changed.
    pub(crate) fn user_changed(&mut self, user_id: Arc<str>) {
        if !self.here.directory.has_users() {
            return;
        }
        if self.named.order.len() < ABSENT_MAX || !self.here.registry.outboxes_of(&user_id).is_empty() {
            self.named.push(user_id);
        }
    }

    /// Anybody may have changed. Whoever waits already is read after this, too.
    pub(crate) fn anybody_changed(&mut self) {
        self.look_at_everybody();
        self.at_once = LOOKS_MAX;
    }

    /// Goes on until something has happened; may be given up and called again at any time.
    pub(crate) async fn go_on(&mut self) {
        while let Some((user_id, is_named)) = self.next() {
            let here = self.here.clone();
            self.under_way.spawn(async move {
                if is_named {
                    here.directory.unshare(&user_id).await;
                }
                here.look(&user_id, is_named).await;
            });
        }
        tokio::select! {
            Some(_) = self.under_way.join_next() => {}
            _ = self.minutes.tick() => self.look_at_everybody(),
        }
    }

    fn look_at_everybody(&mut self) {
        if !self.here.directory.has_users() {
            return;
        }
        let mut users = self.here.registry.users();
        // In the same order each time: for each of them it is about as long from look to look.
        users.sort_unstable();
        self.at_once = (users.len() / USERS_PER_LOOK).clamp(LOOKS_MIN, LOOKS_MAX);
        for user_id in users {
            self.others.push(user_id);
        }
    }

    /// Whose turn it is, if there is one now, and whether it was said that this user changed.
    fn next(&mut self) -> Option<(Arc<str>, bool)> {
        let under_way = self.under_way.len();
        let named = if under_way < LOOKS_MAX { self.named.pop() } else { None };
        if let Some(user_id) = named {
            return Some((user_id, true));
        }
        let other = if under_way < self.at_once { self.others.pop() } else { None };
        other.map(|user_id| (user_id, false))
    }
}

impl Here {
    async fn look(&self, user_id: &Arc<str>, is_named: bool) {
        if self.registry.outboxes_of(user_id).is_empty() {
            return;
        }
        let before = self.directory.remembered(user_id);
        match self.directory.look_again(user_id).await {
            Ok(Known::ByClaims) => {}
            Ok(Known::As(user)) => {
                // A later look may have been answered sooner: what is remembered is never older than what it replaced.
                let user = self.directory.remembered(user_id).unwrap_or(user);
                if is_named || before.as_ref() != Some(&user) {
                    self.documents.user_changed(&user);
                }
            }
            Ok(Known::Gone) => {
                for outbox in self.registry.outboxes_of(user_id) {
                    // The client comes back by itself and is told why it may not.
                    outbox.close(Ending::Transport { code: 1008, reason: "user not found" });
                }
            }
            Err(error) => tracing::debug!(%error, "a user cannot be read again; the next look or sign-in will"),
        }
    }
}

impl Line {
    fn push(&mut self, user_id: Arc<str>) {
        if self.waiting.insert(Arc::clone(&user_id)) {
            self.order.push_back(user_id);
        }
    }

    fn pop(&mut self) -> Option<Arc<str>> {
        let user_id = self.order.pop_front()?;
        self.waiting.remove(&user_id);
        Some(user_id)
    }
}
