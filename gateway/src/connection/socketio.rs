//! Socket.IO on one connection: namespaces, events, attachments, and who must say what first.
//!
//! In: the texts of Engine.IO messages and binary messages. Out: calls of an [`Application`], which knows what events
//! mean, or the way the connection is to end. The gateway's application is the documents; the one of the official
//! protocol suites is in the tests.

use std::time::Duration;

use document::{Code, Refusal, ReplyId};
use protocol::{Malformed, Packet};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{Handled, Service, malformed};
use crate::outbox::{Ending, Outbox};

/// An event of a client.
#[derive(Debug)]
pub struct Event<'a> {
    /// A namespace that is connected.
    pub namespace: &'a str,
    /// What the client asked an acknowledgement with.
    pub reply: Option<ReplyId>,
    /// Its name.
    pub name: &'a str,
    /// What follows the name.
    pub arguments: &'a [&'a RawValue],
    /// Its attachments, where the application takes any.
    pub attachments: &'a [Vec<u8>],
}

/// What Socket.IO carries.
pub trait Application: Send {
    /// Where answers go.
    fn outbox(&self) -> &Outbox;
    /// The largest message that is read from now on.
    fn message_bytes_max(&self) -> usize;
    /// Takes note of what one read brought, and tells how long to read nothing more.
    fn was_read(&mut self, messages: usize, bytes: usize) -> Duration {
        let _ = (messages, bytes);
        Duration::ZERO
    }
    /// Bytes of attachments that are kept for one event; at 0 events with attachments are refused.
    fn attachment_bytes_max(&self) -> usize {
        0
    }
    /// Whether there is such a namespace.
    fn has_namespace(&self, name: &str) -> bool;
    /// Whether the client is connected to it.
    fn is_connected(&self, namespace: &str) -> bool;
    /// Handles CONNECT of a namespace that there is.
    fn connect(&mut self, namespace: &str, auth: Option<&str>) -> impl Future<Output = Handled> + Send;
    /// Handles DISCONNECT of a namespace that was connected.
    fn disconnect(&mut self, namespace: &str) -> impl Future<Output = ()> + Send;
    /// Handles an event.
    fn event(&mut self, event: Event<'_>) -> impl Future<Output = ()> + Send;
    /// When [`Application::deadline_passed`] has something to do.
    fn deadline(&self) -> Option<Instant>;
    /// Does what is due.
    fn deadline_passed(&mut self) -> Option<Ending>;
    /// Waits until everything that was handed in is answered; nothing more will be.
    fn settle(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
    /// The connection is over.
    fn end(&mut self) -> impl Future<Output = ()> + Send;
}

/// The packets of one connection.
pub struct SocketIo<A> {
    application: A,
    connect_timeout: Duration,
    /// Namespaces that are connected.
    connected: usize,
    /// While none is: when the patience ends.
    connect_by: Option<Instant>,
    /// Binary messages that must follow before anything else.
    attachments: Option<Box<Attachments>>,
}

/// A packet whose attachments are not all here.
struct Attachments {
    left: usize,
    /// None of an acknowledgement, whose attachments mean nothing here.
    refusal: Option<Option<ReplyId>>,
    /// The packet and what came of it, where the application takes attachments.
    kept: Option<(String, Vec<Vec<u8>>)>,
    bytes: usize,
}

impl<A: Application> SocketIo<A> {
    /// A connection that must CONNECT within this time.
    pub fn new(application: A, connect_timeout: Duration) -> SocketIo<A> {
        let connect_by = Some(Instant::now() + connect_timeout);
        SocketIo { application, connect_timeout, connected: 0, connect_by, attachments: None }
    }

    /// The end of a client that does not speak Socket.IO; of one that is not connected it is a refusal.
    fn malformed(&self, why: Malformed) -> Ending {
        if self.connect_by.is_some() {
            self.application.outbox().metrics().refuse("no_connect");
        }
        malformed(why)
    }

    async fn packet(&mut self, text: &str) -> Handled {
        match protocol::decode_packet(text).map_err(|why| self.malformed(why))? {
            Packet::Connect { namespace, .. } if !self.application.has_namespace(&namespace) => {
                self.application.outbox().push_text(&protocol::invalid_namespace(&namespace));
                Ok(())
            }
            Packet::Connect { namespace, .. } if self.application.is_connected(&namespace) => {
                Err(self.malformed(Malformed("a second CONNECT")))
            }
            Packet::Connect { namespace, auth } => {
                self.application.connect(&namespace, auth).await?;
                self.connected += 1;
                self.connect_by = None;
                Ok(())
            }
            Packet::Disconnect { namespace } | Packet::Event { namespace, .. } | Packet::Ack { namespace, .. }
                if self.connect_by.is_some() && !self.application.is_connected(&namespace) =>
            {
                Err(self.malformed(Malformed("a packet before CONNECT")))
            }
            Packet::Disconnect { namespace } => {
                if self.application.has_namespace(&namespace) && self.application.is_connected(&namespace) {
                    self.application.disconnect(&namespace).await;
                    // The transport stays, as Socket.IO has it: for another namespace, for a new CONNECT, or until
                    // the client closes it, which stock clients do at once.
                    self.connected -= 1;
                    self.connect_by = (self.connected == 0).then(|| Instant::now() + self.connect_timeout);
                }
                Ok(())
            }
            Packet::Event { namespace, .. } | Packet::Ack { namespace, .. }
                if !self.application.has_namespace(&namespace) || !self.application.is_connected(&namespace) =>
            {
                Err(self.malformed(Malformed("a packet of a namespace that is not connected")))
            }
            Packet::Ack { attachments: left, .. } => {
                self.attachments =
                    (left > 0).then(|| Box::new(Attachments { left, refusal: None, kept: None, bytes: 0 }));
                Ok(())
            }
            Packet::Event { reply, attachments: left, .. } if left > 0 => {
                let kept = (self.application.attachment_bytes_max() > 0).then(|| (text.to_owned(), Vec::new()));
                let refusal = Some(reply.map(ReplyId));
                self.attachments = Some(Box::new(Attachments { left, refusal, kept, bytes: 0 }));
                Ok(())
            }
            Packet::Event { namespace, reply, name, arguments, .. } => {
                let event = Event {
                    namespace: &namespace,
                    reply: reply.map(ReplyId),
                    name: &name,
                    arguments: &arguments,
                    attachments: &[],
                };
                self.application.event(event).await;
                Ok(())
            }
        }
    }

    async fn attached(&mut self, attachments: Attachments) -> Handled {
        let Attachments { refusal, kept, .. } = attachments;
        if let Some((text, attachments)) = kept {
            let Packet::Event { namespace, reply, name, arguments, .. } =
                protocol::decode_packet(&text).map_err(malformed)?
            else {
                return Ok(());
            };
            let reply = reply.map(ReplyId);
            let event =
                Event { namespace: &namespace, reply, name: &name, arguments: &arguments, attachments: &attachments };
            self.application.event(event).await;
        } else if let Some(reply) = refusal {
            let refusal = Refusal {
                code: Code::BadRequest,
                message: "binary attachments are not read here; send JSON".into(),
                seq: None,
                last_seq: None,
                retry_after_ms: None,
            };
            self.application.outbox().push_text(&protocol::refused_answer(reply, None, &refusal));
        }
        Ok(())
    }
}

impl<A: Application> Service for SocketIo<A> {
    fn outbox(&self) -> &Outbox {
        self.application.outbox()
    }

    fn message_bytes_max(&self) -> usize {
        self.application.message_bytes_max()
    }

    fn was_read(&mut self, messages: usize, bytes: usize) -> Duration {
        self.application.was_read(messages, bytes)
    }

    async fn message(&mut self, text: &str) -> Handled {
        if self.attachments.is_some() {
            return Err(self.malformed(Malformed("a packet where an attachment was due")));
        }
        self.packet(text).await
    }

    async fn binary(&mut self, bytes: Vec<u8>) -> Handled {
        let Some(mut attachments) = self.attachments.take() else {
            return Err(self.malformed(Malformed("an unannounced attachment")));
        };
        attachments.left -= 1;
        if let Some((_, kept)) = &mut attachments.kept {
            attachments.bytes += bytes.len();
            kept.push(bytes);
            if attachments.bytes > self.application.attachment_bytes_max() {
                // Refused like those of an application that takes none.
                attachments.kept = None;
            }
        }
        if attachments.left > 0 {
            self.attachments = Some(attachments);
            return Ok(());
        }
        self.attached(*attachments).await
    }

    fn deadline(&self) -> Option<Instant> {
        [self.connect_by, self.application.deadline()].into_iter().flatten().min()
    }

    fn deadline_passed(&mut self) -> Option<Ending> {
        if self.connect_by.is_some_and(|by| by <= Instant::now()) {
            self.application.outbox().metrics().refuse("no_connect");
            return Some(Ending::Transport { code: 1008, reason: "no CONNECT" });
        }
        self.application.deadline_passed()
    }

    async fn settle(&mut self) {
        self.application.settle().await;
    }

    async fn end(&mut self) {
        self.application.end().await;
    }
}
