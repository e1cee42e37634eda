//! The documents that are open on this pod: one task each, found by id.
//!
//! In: joins and inputs of connections. Out: nothing directly; each document's task (`document_task.rs`) writes to the
//! connections' outboxes. A document opens with its first join and closes a little after its last connection left.
//! Together they have a budget. Beyond it those that nobody uses close at once, the longest unused first; then documents
//! that are not open are not opened, and those that take more than their share of it do not grow by this pod's clients: so
//! all of them never take more than twice the budget by what happens here, and small ones are edited as ever.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use document::{ConnectionId, User};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::timeout,
};
use tracing::Span;

use crate::{
    budget::{Budget, Charge, Use},
    bus::Bus,
    directory::{Directory, Word},
    document_task,
    lease::Lease,
    metrics::Metrics,
    outbox::Outbox,
    resting::Resting,
    store::Store,
    tickets::Tickets,
};

/// Inputs that may wait for one document; then its connections wait to hand in more, which slows only them.
const MAILBOX_MAX: usize = 1024;

/// What documents need of the pod.
pub struct Parts {
    /// Where they are kept.
    pub store: Store,
    /// How pods hear of each other's entries.
    pub bus: Bus,
    /// Who may do what.
    pub directory: Directory,
    /// Who of the pods lives.
    pub lease: Lease,
    /// Bounds of a document.
    pub settings: document::Settings,
    /// The memory that clients may use.
    pub budget: Budget,
    /// The memory that open documents may take.
    pub document_memory: Budget,
    /// Signs what lets people come back first.
    pub tickets: Tickets,
    /// Counters.
    pub metrics: Metrics,
}

/// All open documents; cheap to clone.
#[derive(Clone)]
pub struct Documents {
    pub(crate) inner: Arc<Inner>,
}

/// The document is not open on this pod, so the connection cannot have joined it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the document is not open here")]
pub struct NotOpen;

pub(crate) struct Inner {
    /// Each call to the store holds it: one count, not one for each counter and handle in it.
    pub(crate) parts: Arc<Parts>,
    open: Mutex<HashMap<Arc<str>, Mailbox>>,
    /// Those of them that nobody uses.
    pub(crate) resting: Resting,
    draining: watch::Sender<bool>,
    closed: Notify,
}

/// A document's. Boxed: a channel has room for 32 at a time, whether anything is in it or not, and most documents rest.
type Mailbox = mpsc::Sender<Box<Mail>>;

/// What a document's task receives.
pub(crate) enum Mail {
    Join {
        outbox: Outbox,
        join: document::Join,
        /// Ends with its answer.
        span: Span,
    },
    /// An edit with what it takes of the memory.
    Input(document::Input, Option<Charge>),
    /// An access may have changed: this user's, or anybody's.
    AccessChanged {
        user_id: Option<Arc<str>>,
        /// How that is known.
        word: Word,
    },
    /// Close as soon as nobody uses the document: its memory is wanted.
    GiveWay,
    /// Say whether this connection is in the document, or joins it.
    IsHere { connection: ConnectionId, answer: oneshot::Sender<bool> },
    /// Say when this connection, or everybody, waits for nothing any more.
    Settle { connection: Option<ConnectionId>, settled: oneshot::Sender<()> },
}

impl Documents {
    /// No document is open yet.
    pub fn new(parts: Parts) -> Self {
        let parts = Arc::new(parts);
        let inner = Inner {
            parts,
            open: Mutex::default(),
            resting: Resting::default(),
            draining: watch::Sender::new(false),
            closed: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Whether this document may be joined now: it is open here, or there is memory for one more.
    pub fn has_room_for(&self, document_id: &str) -> bool {
        let is_open = self.inner.open().contains_key(document_id);
        is_open || self.inner.make_room()
    }

    /// Hands in a join; the answer goes to the outbox. Whoever joined must send [`document::Input::Leave`] in the end.
    pub async fn join(&self, document_id: Arc<str>, outbox: Outbox, join: document::Join, span: Span) {
        let mut mail = Box::new(Mail::Join { outbox, join, span: span.clone() });
        loop {
            let mailbox = self.mailbox(&document_id, &span);
            // The document closed in this moment: open it anew.
            match mailbox.send(mail).await {
                Ok(()) => return,
                Err(mpsc::error::SendError(back)) => mail = back,
            }
        }
    }

    /// Hands in anything else.
    ///
    /// # Errors
    /// When the document is not open, which nobody who joined it sees.
    pub async fn send(&self, document_id: &str, input: document::Input) -> Result<(), NotOpen> {
        let mailbox = self.inner.open().get(document_id).cloned().ok_or(NotOpen)?;
        let charge = if let document::Input::Edit(edit) = &input {
            let mut charge = self.inner.parts.budget.charge(Use::Edits);
            charge.set(edit.ops.weight_bytes());
            Some(charge)
        } else {
            None
        };
        mailbox.send(Box::new(Mail::Input(input, charge))).await.map_err(|_| NotOpen)
    }

    /// Has accesses read again: of one document or of all that are open, of one user or of everybody in them.
    pub(crate) fn access_changed(&self, document_id: Option<&str>, user_id: Option<&Arc<str>>, word: Word) {
        let mailboxes: Vec<_> = {
            let open = self.inner.open();
            match document_id {
                Some(id) => open.get(id).cloned().into_iter().collect(),
                None => open.values().cloned().collect(),
            }
        };
        for mailbox in mailboxes {
            tell(mailbox, Mail::AccessChanged { user_id: user_id.cloned(), word });
        }
    }

    /// Tells every document what a user is called now.
    pub fn user_changed(&self, user: &User) {
        let mailboxes: Vec<_> = self.inner.open().values().cloned().collect();
        for mailbox in mailboxes {
            tell(mailbox, Mail::Input(document::Input::User(user.clone()), None));
        }
    }

    /// Waits until the document has answered everything that this connection handed in before this, or has ended.
    pub async fn settle(&self, document_id: &str, connection: ConnectionId) {
        let Some(mailbox) = self.inner.open().get(document_id).cloned() else { return };
        ask_to_settle(mailbox, Some(connection)).await;
    }

    /// Takes out those documents that this connection is not in and does not join.
    pub async fn keep_open_to(&self, connection: ConnectionId, documents: &mut Vec<Arc<str>>) {
        let asked = documents.iter().map(|id| {
            let mailbox = self.inner.open().get(id).cloned();
            async move { ask(mailbox?, |answer| Mail::IsHere { connection, answer }).await }
        });
        let mut is_here = futures_util::future::join_all(asked).await.into_iter();
        documents.retain(|_| is_here.next().flatten().unwrap_or(false));
    }

    /// How many open documents have edits that are not in the log, or do not say within `patience`.
    pub async fn unsettled(&self, patience: Duration) -> usize {
        let mailboxes: Vec<_> = self.inner.open().values().cloned().collect();
        let asked = mailboxes.into_iter().map(|mailbox| timeout(patience, ask_to_settle(mailbox, None)));
        futures_util::future::join_all(asked).await.into_iter().filter(Result::is_err).count()
    }

    /// How many documents are open.
    pub fn count(&self) -> usize {
        self.inner.open().len()
    }

    /// Closes documents as soon as nobody is connected and everything is stored, and waits until all are.
    pub async fn drain(&self) {
        self.inner.draining.send_replace(true);
        loop {
            let closed = self.inner.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.inner.open().is_empty() {
                return;
            }
            closed.await;
        }
    }

    fn mailbox(&self, document_id: &Arc<str>, span: &Span) -> Mailbox {
        let mut open = self.inner.open();
        if let Some(mailbox) = open.get(document_id).filter(|mailbox| !mailbox.is_closed()) {
            return mailbox.clone();
        }
        let (mailbox, mail) = mpsc::channel(MAILBOX_MAX);
        open.insert(Arc::clone(document_id), mailbox.clone());
        self.inner.parts.metrics.documents.set(i64::try_from(open.len()).unwrap_or(i64::MAX));
        drop(open);
        tokio::spawn(document_task::run(Arc::clone(&self.inner), Arc::clone(document_id), mail, span.clone()));
        mailbox
    }
}

/// A document that has closed has nobody in it. One that is swamped must not keep a word from the others, nor miss it.
fn tell(mailbox: Mailbox, mail: Mail) {
    if let Err(mpsc::error::TrySendError::Full(mail)) = mailbox.try_send(Box::new(mail)) {
        tokio::spawn(async move { mailbox.send(mail).await });
    }
}

/// Answered by the document, or by its end.
async fn ask_to_settle(mailbox: Mailbox, connection: Option<ConnectionId>) {
    ask(mailbox, |settled| Mail::Settle { connection, settled }).await;
}

/// The document's answer; `None` if it ended instead.
async fn ask<T>(mailbox: Mailbox, question: impl FnOnce(oneshot::Sender<T>) -> Mail) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    mailbox.send(Box::new(question(answer))).await.ok()?;
    // The task is waited for, not its mailbox: a sender would keep the document open.
    drop(mailbox);
    answered.await.ok()
}

impl Inner {
    pub(crate) fn is_draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Whether documents have room for more, or will have in a moment: those that nobody uses are asked to give way.
    pub(crate) fn make_room(&self) -> bool {
        let excess = self.parts.document_memory.excess();
        if excess == 0 {
            return true;
        }
        let (unused, is_enough) = self.resting.give_way(excess);
        let open = self.open();
        for mailbox in unused.iter().filter_map(|document_id| open.get(document_id)) {
            self.parts.metrics.overload("unused");
            // One that is full is used again.
            let _ = mailbox.try_send(Box::new(Mail::GiveWay));
        }
        is_enough
    }

    /// Whether a document of so many bytes takes more than its share of what all may take.
    pub(crate) fn is_beyond_its_share(&self, bytes: usize) -> bool {
        bytes > self.parts.document_memory.most() / self.open().len().max(1)
    }

    /// Takes a document out unless somebody has mail for it; true if its task may end.
    pub(crate) fn close_unused(&self, document_id: &str, mail: &mpsc::Receiver<Box<Mail>>) -> bool {
        let mut open = self.open();
        // Only the map's own sender is left, and it cannot be cloned while this lock is held.
        let is_unused = mail.is_empty() && mail.sender_strong_count() == 1;
        if is_unused {
            open.remove(document_id);
            self.closed(open);
        }
        is_unused
    }

    /// Takes a document out whose task ends whatever its mail; the next join opens it anew.
    pub(crate) fn close(&self, document_id: &str) {
        let mut open = self.open();
        open.remove(document_id);
        self.closed(open);
    }

    fn closed(&self, open: MutexGuard<'_, HashMap<Arc<str>, Mailbox>>) {
        self.parts.metrics.documents.set(i64::try_from(open.len()).unwrap_or(i64::MAX));
        drop(open);
        self.closed.notify_waiters();
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Arc<str>, Mailbox>> {
        // Nothing can panic while it is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{Trust, Urls};

    fn documents() -> Documents {
        let bus = crate::bus::MemoryBus::default();
        let store = Store::Memory(crate::store::MemoryStore::new(bus.clone()));
        let metrics = Metrics::default();
        let (directory, _news) =
            Directory::new(store.clone(), Trust::Everything, false, &Urls::default(), &metrics).expect("no webhooks");
        Documents::new(Parts {
            bus: Bus::Memory(bus),
            directory,
            lease: Lease::start(store.clone()),
            settings: document::Settings::default(),
            budget: Budget::new(0, &metrics),
            document_memory: Budget::new(0, &metrics),
            tickets: Tickets::new(None).expect("no file"),
            metrics,
            store,
        })
    }

    #[tokio::test]
    async fn a_document_with_a_full_mailbox_hears_of_a_new_name_when_there_is_room() {
        let documents = documents();
        let (mailbox, mut mail) = mpsc::channel(1);
        documents.inner.open().insert("d".into(), mailbox);
        documents.access_changed(None, None, Word::Anything);
        documents.user_changed(&User { id: "ann".into(), name: "Anna".into(), avatar: None });
        assert!(matches!(mail.recv().await.as_deref(), Some(Mail::AccessChanged { .. })));
        let told = timeout(Duration::from_secs(60), mail.recv()).await.expect("it is told");
        assert!(
            matches!(told.as_deref(), Some(Mail::Input(document::Input::User(user), None)) if &*user.name == "Anna")
        );
    }
}
