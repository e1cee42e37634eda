//! RFC 6455, the server's side, without I/O.
//!
//! In: bytes as they came from a socket. Out: whole messages, or the close code that the peer has earned; and frames
//! to write, each encoded once and shared by everybody it goes to. A decoder at rest owns no buffer: an idle
//! connection costs its struct and nothing more.
//!
//! Of extensions there is `permessage-deflate` (RFC 7692), each message by itself; without it every reserved bit is an
//! error.

mod decode;
mod deflate;
mod encode;
mod extension;
mod handshake;

pub use decode::{Decoder, Message};
pub use encode::{
    binary_frame, close_frame, deflated_binary_frame, deflated_text_frame, ping_frame, pong_frame, text_frame,
};
pub use extension::Deflate;
pub use handshake::accept_key;

/// Why a connection ends, as RFC 6455 section 7.4 numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// 1002: the bytes are not the protocol.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// 1007: a text message that is not UTF-8.
    #[error("a text message is not UTF-8")]
    NotUtf8,
    /// 1007: a compressed message that is no deflate.
    #[error("a compressed message cannot be inflated")]
    NotDeflated,
    /// 1009: a message above the decoder's limit.
    #[error("a message is larger than this server reads")]
    TooBig,
}

impl Violation {
    /// The code of the close frame that answers it.
    pub fn close_code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::NotUtf8 | Self::NotDeflated => 1007,
            Self::TooBig => 1009,
        }
    }
}
