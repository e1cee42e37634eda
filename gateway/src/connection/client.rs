//! The Socket.IO side of one connection: sign-in, events, and what it has joined.
//!
//! In: whole WebSocket messages. Out: inputs for the documents, answers in the outbox, or the way the connection is to
//! end. Editing itself is the documents' business; here is only what a connection must know before it is asked.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use document::{Answer, Code, Edit, Input, Join, Leaving, Refusal, ReplyId, User};
use protocol::{Auth, ClientEvent, EditEvent, JoinEvent, Refused};
use tokio::time::{Instant, timeout_at};
use tracing::field::Empty;

use super::{
    Application, Event, Handled, Pod, UNKNOWN_MESSAGE_BYTES_MAX,
    early::Early,
    pace::{Pace, Paced, take_user_join},
    push,
};
use crate::{
    auth::{Denial, NoClaims},
    budget::{Charge, Use},
    clock,
    document_io::no_room,
    outbox::{Ending, Outbox},
    registry::Seat,
    sign_in::NotIn,
    telemetry::{Origin, bounded, root},
};

/// When somebody may try again who was refused for a passing reason.
const RETRY_MS: u64 = 2_000;
/// Who stops the reading of a connection while the pod has no memory; no document has this id.
static MEMORY: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("{memory}"));
/// How long before the end that a token names it is said to expire (CONTRACT section 1).
const EXPIRY_NOTICE: Duration = Duration::from_secs(60);

/// What a connection is.
pub(super) struct Client {
    pod: Arc<Pod>,
    seat: Seat,
    pace: Pace,
    /// Set by CONNECT.
    editor: Option<Box<Editor>>,
}

/// A connection whose CONNECT was accepted.
struct Editor {
    user: User,
    client_id: Arc<str>,
    joined: Vec<Arc<str>>,
    early: Early,
    /// What they hold.
    early_charge: Charge,
    expiry: Option<Expiry>,
    /// What its joins belong to.
    origin: Origin,
}

struct Expiry {
    /// When it is told.
    notice: Instant,
    /// When the transport is closed.
    at: Instant,
    /// The end that the token names.
    at_ms: u64,
    is_told: bool,
}

impl Editor {
    /// Edits whose join did not come in time.
    fn refuse_expired(&mut self, outbox: &Outbox, now: Instant) {
        let expired = self.early.expired(now);
        self.early_charge.set(self.early.bytes());
        for (document_id, edit) in expired {
            push(outbox, Some(refuse_early(&document_id, edit)));
        }
    }
}

impl Application for Client {
    fn outbox(&self) -> &Outbox {
        self.seat.outbox()
    }

    fn message_bytes_max(&self) -> usize {
        if self.editor.is_some() { self.pod.message_bytes_max() } else { UNKNOWN_MESSAGE_BYTES_MAX }
    }

    fn was_read(&mut self, messages: usize, bytes: usize) -> Duration {
        self.pace.was_read(messages, bytes, &self.pod.live.borrow(), &self.pod.metrics)
    }

    fn has_namespace(&self, name: &str) -> bool {
        name == "/"
    }

    fn is_connected(&self, _namespace: &str) -> bool {
        self.editor.is_some()
    }

    async fn connect(&mut self, _namespace: &str, auth: Option<&str>) -> Handled {
        // Its future is large and rare: it must not make every connection's task larger.
        Box::pin(self.sign_in(Auth::parse(auth))).await
    }

    async fn disconnect(&mut self, _namespace: &str) {
        self.leave_all(Leaving::Said).await;
        self.seat.release();
    }

    async fn event(&mut self, event: Event<'_>) {
        let Event { name, reply, arguments, .. } = event;
        let parsed = protocol::client_event(name, arguments, &self.pod.limits);
        self.handle(reply, parsed).await;
    }

    /// When [`Application::deadline_passed`] has something to do.
    fn deadline(&self) -> Option<Instant> {
        let editor = self.editor.as_ref()?;
        let expiry = editor.expiry.as_ref().map(|expiry| if expiry.is_told { expiry.at } else { expiry.notice });
        [editor.early.deadline(), expiry].into_iter().flatten().min()
    }

    fn deadline_passed(&mut self) -> Option<Ending> {
        let now = Instant::now();
        let outbox = self.seat.outbox().clone();
        let editor = self.editor.as_mut()?;
        editor.refuse_expired(&outbox, now);
        let expiry = editor.expiry.as_mut()?;
        if expiry.at <= now {
            return Some(Ending::Transport { code: 1008, reason: "token expired" });
        }
        if !expiry.is_told && expiry.notice <= now {
            expiry.is_told = true;
            outbox.push_text(&protocol::token_expiring(expiry.at_ms));
        }
        None
    }

    async fn settle(&mut self) {
        let Some(editor) = &self.editor else { return };
        let connection = self.outbox().id();
        for document_id in &editor.joined {
            self.pod.documents.settle(document_id, connection).await;
        }
    }

    async fn end(&mut self) {
        self.leave_all(Leaving::Lost).await;
    }
}

impl Client {
    pub(super) fn new(pod: Arc<Pod>, seat: Seat) -> Client {
        Client { pod, seat, pace: Pace::new(), editor: None }
    }

    fn outbox(&self) -> &Outbox {
        self.seat.outbox()
    }

    /// Tells the documents that the connection does not have them any more.
    async fn leave_all(&mut self, how: Leaving) {
        let connection = self.outbox().id();
        for document_id in self.editor.take().map(|editor| editor.joined).unwrap_or_default() {
            // A document that is closed already knows.
            let _ = self.pod.documents.send(&document_id, Input::Leave { connection, how, reply: None }).await;
        }
    }

    async fn sign_in(&mut self, auth: Auth) -> Handled {
        let span = root!("connect", otel.kind = "server", outcome = Empty, otel.status_code = Empty);
        let (claims, user) = match self.pod.sign_in.identify(auth.token.as_deref(), &span).await {
            Ok(found) => found,
            Err(NotIn::Denied(denial)) => {
                span.record("outcome", denial.code());
                return self.deny(denial);
            }
            Err(NotIn::Away(why)) => {
                span.record("outcome", why).record("otel.status_code", "ERROR");
                // No statement about the token or the user: the client comes back by itself.
                self.pod.metrics.refuse(why);
                return Err(Ending::Transport { code: 1013, reason: "try again later" });
            }
        };
        let client_id = auth.client_id.unwrap_or_else(|| Arc::from(self.pod.registry.fresh_name()));
        let most = self.pod.live.borrow().max_connections_per_user;
        self.seat.claim(&user.id, &client_id, most);
        let outbox = self.seat.outbox();
        outbox.push_text(&protocol::connected(&self.pod.registry.fresh_name()));
        if let Some(host) = self.pod.demo_host.as_ref().filter(|_| claims.is_demo) {
            outbox.push_text(&protocol::demo_pod(host));
        }
        outbox.connected();
        self.pod.metrics.connections_accepted.inc();
        self.editor = Some(Box::new(Editor {
            user,
            client_id,
            joined: Vec::new(),
            early: Early::new(self.pod.limits.edit_bytes.saturating_mul(2)),
            early_charge: outbox.budget().charge(Use::Edits),
            expiry: claims.expires_at.and_then(expiry),
            origin: Origin::of(&span),
        }));
        span.record("outcome", "accepted");
        Ok(())
    }

    fn deny(&self, denial: Denial) -> Handled {
        self.pod.metrics.refuse(denial.code());
        self.outbox().push_text(&protocol::connect_error(denial.message(), denial.code()));
        // The client has handled its refusal before it sees this.
        Err(Ending::Transport { code: 1000, reason: "" })
    }

    async fn handle(&mut self, reply: Option<ReplyId>, event: Result<ClientEvent, Refused>) {
        match event {
            Ok(ClientEvent::Join(join)) => {
                if self.may(Paced::Join, &join.document_id, reply) {
                    self.join(join, reply).await;
                }
            }
            Ok(ClientEvent::Leave { document_id }) => self.leave(&document_id, reply).await,
            Ok(ClientEvent::Edit(edit)) => self.edit(edit, reply).await,
            Ok(ClientEvent::Cursor { document_id, version, position }) => {
                if self.may(Paced::Cursor, &document_id, reply) {
                    let connection = self.outbox().id();
                    self.hand_in(&document_id, reply, Input::Cursor { connection, version, position, reply }).await;
                }
            }
            Ok(ClientEvent::Typing { document_id, is_typing }) => {
                if self.may(Paced::Typing, &document_id, reply) {
                    let connection = self.outbox().id();
                    self.hand_in(&document_id, reply, Input::Typing { connection, is_typing, reply }).await;
                }
            }
            Ok(ClientEvent::TokenRefresh { token }) => self.refresh_token(&token, reply).await,
            Err(Refused { document_id, refusal }) => {
                self.outbox().push_text(&protocol::refused_answer(reply, document_id.as_deref(), &refusal));
            }
        }
    }

    /// Whether one more of these may come now; if not, the client was told when.
    fn may(&mut self, paced: Paced, document_id: &Arc<str>, reply: Option<ReplyId>) -> bool {
        let live = self.pod.live.borrow().clone();
        let taken = self.pace.take(paced, &live, &self.pod.metrics).and_then(|()| match paced {
            Paced::Join => take_user_join(&self.seat, &live, &self.pod.metrics),
            Paced::Cursor | Paced::Typing => Ok(()),
        });
        if let Err(refusal) = &taken {
            self.outbox().push_text(&protocol::refused_answer(reply, Some(document_id), refusal));
        }
        taken.is_ok()
    }

    async fn join(&mut self, event: JoinEvent, reply: Option<ReplyId>) {
        let JoinEvent { document_id, form, version, hash, last_session, seq } = event;
        if self.outbox().budget().is_over() || !self.pod.documents.has_room_for(&document_id) {
            // A document's content is what takes most; who has it already goes on.
            self.pod.metrics.overload("join");
            self.outbox().push_text(&protocol::refused_answer(reply, Some(&document_id), &no_room()));
            return;
        }
        // One snapshot at a time: a client that joins many documents reads one before it gets the next.
        self.outbox().snapshots_written().await;
        let session: Arc<str> = Arc::from(self.pod.registry.fresh_name());
        let outbox = self.seat.outbox().clone();
        let Some(editor) = &mut self.editor else { return };
        if !editor.joined.contains(&document_id) {
            let most = self.pod.live.borrow().max_documents_per_connection;
            if editor.joined.len() >= most {
                // Joins that were refused, and documents that it was removed from, do not count.
                self.pod.documents.keep_open_to(outbox.id(), &mut editor.joined).await;
            }
            if editor.joined.len() >= most {
                let mut refusal = Refusal::new(
                    Code::Overloaded,
                    format!("one connection may have {most} documents open: leave one, or use another connection"),
                );
                refusal.retry_after_ms = Some(RETRY_MS);
                outbox.push_text(&protocol::refused_answer(reply, Some(&document_id), &refusal));
                return;
            }
            editor.joined.push(document_id.clone());
        }
        let join = Join {
            connection: outbox.id(),
            user: self.pod.sign_in.as_known(&editor.user),
            client_id: editor.client_id.clone(),
            form,
            version,
            hash,
            last_session,
            seq,
            session,
            early: editor.early.take(&document_id),
            reply,
        };
        editor.early_charge.set(editor.early.bytes());
        let span = root!(
            "join",
            otel.kind = "server",
            document.id = bounded(&document_id),
            outcome = Empty,
            otel.status_code = Empty
        );
        editor.origin.adopt(&span);
        self.pod.documents.join(document_id, outbox, join, span).await;
    }

    async fn leave(&mut self, document_id: &Arc<str>, reply: Option<ReplyId>) {
        let connection = self.outbox().id();
        let Some(editor) = &mut self.editor else { return };
        editor.joined.retain(|joined| joined != document_id);
        let leave = Input::Leave { connection, how: Leaving::Said, reply };
        if self.pod.documents.send(document_id, leave).await.is_err() {
            // Not being there is what was asked for.
            push(self.outbox(), protocol::acknowledgement(reply, document_id, &Ok(Answer::Empty)));
        }
    }

    async fn edit(&mut self, event: EditEvent, reply: Option<ReplyId>) {
        let EditEvent { document_id, version, ops, unreadable, seq, session } = event;
        let outbox = self.seat.outbox().clone();
        self.has_room(&outbox).await;
        let edit = Edit { connection: outbox.id(), version, ops, unreadable, seq, session, reply };
        let Some(editor) = &mut self.editor else { return };
        if editor.joined.contains(&document_id) {
            let (seq, is_anonymous) = (edit.seq, edit.session.is_none());
            // When the document could not go on, whoever names a session was told to join again.
            if self.pod.documents.send(&document_id, Input::Edit(edit)).await.is_err() && is_anonymous {
                outbox.push_text(&refuse_edit(&document_id, seq, reply, not_joined()));
            }
            return;
        }
        // An edit of a session that this connection does not have: the client sends it again after its join.
        if edit.session.is_some() {
            return;
        }
        let refused = editor.early.keep(document_id, edit, Instant::now());
        editor.early_charge.set(editor.early.bytes());
        for (document_id, edit) in refused {
            outbox.push_text(&refuse_early(&document_id, edit));
        }
    }

    /// Waits until the pod has memory for an edit: edits are never refused for that, only read later.
    async fn has_room(&mut self, outbox: &Outbox) {
        if outbox.budget().is_over() {
            self.pod.metrics.overload("edits");
            // What is not read is not heard either: the heartbeat must know.
            outbox.pause_reading(&MEMORY, true);
            // Those that hold the memory may be such as wait here, with early edits that nobody else would ever let go.
            let mut room = Box::pin(outbox.budget().room());
            loop {
                let Some(editor) = &mut self.editor else { break room.await };
                let Some(deadline) = editor.early.deadline() else { break room.await };
                if timeout_at(deadline, &mut room).await.is_ok() {
                    break;
                }
                editor.refuse_expired(outbox, Instant::now());
            }
            outbox.pause_reading(&MEMORY, false);
        }
    }

    /// A cursor or typing: only of documents that were joined.
    async fn hand_in(&self, document_id: &Arc<str>, reply: Option<ReplyId>, input: Input) {
        let joined = self.editor.as_ref().is_some_and(|e| e.joined.contains(document_id));
        if !joined || self.pod.documents.send(document_id, input).await.is_err() {
            self.outbox().push_text(&protocol::refused_answer(reply, Some(document_id), &not_joined()));
        }
    }

    async fn refresh_token(&mut self, token: &str, reply: Option<ReplyId>) {
        let verified = self.pod.authenticator.verify(Some(token)).await;
        let Some(editor) = &mut self.editor else { return };
        let answer = match verified {
            Ok(claims) if claims.user_id == editor.user.id => {
                editor.expiry = claims.expires_at.and_then(expiry);
                protocol::token_refreshed(reply, claims.expires_at.map(|seconds| seconds.saturating_mul(1000)))
            }
            Ok(_) => Some(protocol::token_refused(reply, Denial::TokenInvalid.code(), "the token is another user's")),
            Err(NoClaims::Denied(denial)) => {
                // Whoever has one and sends none has sent a bad one.
                let denial = if denial == Denial::TokenRequired { Denial::TokenInvalid } else { denial };
                Some(protocol::token_refused(reply, denial.code(), "the token was not accepted; the old one stays"))
            }
            Err(NoClaims::KeysAway) => {
                let mut refusal = Refusal::new(
                    Code::StoreUnavailable,
                    "nobody can tell now whether the token is good; the old one stays",
                );
                refusal.retry_after_ms = Some(RETRY_MS);
                Some(protocol::refused_answer(reply, None, &refusal))
            }
        };
        push(self.outbox(), answer);
    }
}

fn not_joined() -> Refusal {
    Refusal::new(Code::NotJoined, "join the document first: emit join-document")
}

/// There was no join, and perhaps more is wrong.
fn refuse_early(document_id: &str, edit: Edit) -> String {
    let refusal = edit.unreadable.map_or_else(not_joined, |unreadable| *unreadable);
    refuse_edit(document_id, edit.seq, edit.reply, refusal)
}

fn refuse_edit(document_id: &str, seq: Option<u64>, reply: Option<ReplyId>, refusal: Refusal) -> String {
    protocol::refused_answer(reply, Some(document_id), &Refusal { seq, ..refusal })
}

/// When a token ends on this process's clock: at the end that it names, or, if it was taken after that within the leeway
/// that its verification has for clocks that differ, with the leeway. `None` in some centuries.
fn expiry(expires_at: u64) -> Option<Expiry> {
    let (now, unix) = (Instant::now(), clock::unix());
    let named = Duration::from_secs(expires_at);
    let leeway = if unix < named { 0 } else { crate::auth::LEEWAY_SECONDS };
    let end = named.checked_add(Duration::from_secs(leeway))?;
    let at = now.checked_add(end.saturating_sub(unix))?;
    let notice = now.checked_add(named.saturating_sub(EXPIRY_NOTICE).saturating_sub(unix))?;
    Some(Expiry { notice, at, at_ms: expires_at.saturating_mul(1000), is_told: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_is_announced_a_minute_before_its_end_and_closed_at_it() {
        let expiry = expiry(clock::unix().as_secs() + 3600).expect("in this century");
        let until = |instant: Instant| instant.saturating_duration_since(Instant::now()).as_secs_f64().ceil();
        assert_eq!(expiry.at_ms % 1000, 0);
        assert!((3539.0..=3540.0).contains(&until(expiry.notice)), "{}", until(expiry.notice));
        assert!((3599.0..=3600.0).contains(&until(expiry.at)), "{}", until(expiry.at));
        let late = super::expiry(clock::unix().as_secs() - 10).expect("in this century");
        assert_eq!(until(late.notice), 0.0, "at once");
        assert!((19.0..=20.0).contains(&until(late.at)), "{}: it was taken within the leeway", until(late.at));
        assert!(super::expiry(u64::MAX).is_none(), "some centuries");
    }
}
