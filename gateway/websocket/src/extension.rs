//! Which extension a connection has: `permessage-deflate` of RFC 7692, or none.
//!
//! In: the values of `Sec-WebSocket-Extensions` that a client sends. Out: the terms of the first offer that can be served,
//! and the value that answers it. Every message is compressed by itself in both directions, so that one compressed frame
//! serves everybody and an idle connection keeps no window.

const NAME: &str = "permessage-deflate";

/// The bits of windows that deflate has; sent messages use the largest.
const WINDOW_BITS_MIN: u8 = 8;
const WINDOW_BITS_MAX: u8 = 15;

/// Terms of `permessage-deflate` that both sides agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deflate {
    /// 8 to 15: how far back the peer can look while it inflates, as a power of two.
    window_bits: u8,
    /// The peer named that limit, so that the answer must repeat it.
    is_limited: bool,
}

impl Deflate {
    /// The first offer that can be served. Offers that are malformed, or ask for what is not known here, are passed over:
    /// a client whose offers are all declined talks without compression.
    pub fn negotiate<'a>(offers: impl IntoIterator<Item = &'a str>) -> Option<Deflate> {
        offers.into_iter().flat_map(|value| split(value, b',')).find_map(Deflate::accept)
    }

    /// The value of `Sec-WebSocket-Extensions` in the answer.
    pub fn answer(self) -> String {
        let answer = format!("{NAME}; server_no_context_takeover; client_no_context_takeover");
        if self.is_limited { format!("{answer}; server_max_window_bits={}", self.window_bits) } else { answer }
    }

    /// Whether the peer can inflate a message of so many bytes: within its window no reference reaches too far back.
    pub fn fits(self, message_bytes: usize) -> bool {
        self.window_bits == WINDOW_BITS_MAX || message_bytes <= 1 << self.window_bits
    }

    /// The same in one byte that is not zero, to be kept in little room.
    pub fn to_byte(self) -> u8 {
        self.window_bits
    }

    /// Back from [`Deflate::to_byte`]; none from zero.
    pub fn from_byte(byte: u8) -> Option<Deflate> {
        (WINDOW_BITS_MIN..=WINDOW_BITS_MAX).contains(&byte).then_some(Deflate { window_bits: byte, is_limited: true })
    }

    /// RFC 7692 section 7.1: an offer with a parameter that is unknown, repeated or has a wrong value is declined.
    fn accept(offer: &str) -> Option<Deflate> {
        let mut parts = split(offer, b';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(NAME) {
            return None;
        }
        let mut server_bits = None;
        let [mut server_takeover, mut client_takeover, mut client_bits] = [false; 3];
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim_end(), Some(unquoted(value.trim_start())?)),
                None => (part, None),
            };
            let is_repeated = match (name, value) {
                ("server_no_context_takeover", None) => std::mem::replace(&mut server_takeover, true),
                ("client_no_context_takeover", None) => std::mem::replace(&mut client_takeover, true),
                // What it says of its own window needs no answer: any window can be inflated.
                ("client_max_window_bits", None) => std::mem::replace(&mut client_bits, true),
                ("client_max_window_bits", Some(value)) => {
                    bits(value)?;
                    std::mem::replace(&mut client_bits, true)
                }
                ("server_max_window_bits", Some(value)) => server_bits.replace(bits(value)?).is_some(),
                _ => return None,
            };
            if is_repeated {
                return None;
            }
        }
        Some(Deflate { window_bits: server_bits.unwrap_or(WINDOW_BITS_MAX), is_limited: server_bits.is_some() })
    }
}

/// A decimal from 8 to 15 without leading zeros.
fn bits(value: &str) -> Option<u8> {
    (WINDOW_BITS_MIN..=WINDOW_BITS_MAX).find(|bits| value == bits.to_string())
}

/// A value as a token, or as a string in quotes. None of the values that are known needs an escape.
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').filter(|inside| !inside.contains(['"', '\\'])),
        None => (!value.is_empty()).then_some(value),
    }
}

/// Cuts at a separator, but not inside quotes.
fn split(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut is_quoted, mut is_escaped) = (false, false);
        let end = text.bytes().position(|byte| {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' if is_quoted => is_escaped = true,
                b'"' => is_quoted = !is_quoted,
                _ => return byte == separator && !is_quoted,
            }
            false
        });
        let part = &text[..end.unwrap_or(text.len())];
        rest = end.map(|end| &text[end + 1..]);
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::Deflate;

    const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    fn answer(offers: &[&str]) -> Option<String> {
        Deflate::negotiate(offers.iter().copied()).map(Deflate::answer)
    }

    #[test]
    fn what_browsers_and_libraries_offer_is_accepted() {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "permessage-deflate;client_no_context_takeover;client_max_window_bits=10",
            "  Permessage-Deflate ;\tclient_max_window_bits = \"15\" ",
            "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame",
        ] {
            assert_eq!(answer(&[offer]).as_deref(), Some(ANSWER), "{offer}");
        }
    }

    #[test]
    fn a_limit_of_the_servers_window_is_repeated_and_kept_to() {
        for bits in 8..=15_u8 {
            let offer = format!("permessage-deflate; server_max_window_bits={bits}");
            let deflate = Deflate::negotiate([&*offer]).expect(&offer);
            assert_eq!(deflate.answer(), format!("{ANSWER}; server_max_window_bits={bits}"));
            assert!(deflate.fits(1 << bits));
            assert_eq!(deflate.fits((1 << bits) + 1), bits == 15);
            let kept = Deflate::from_byte(deflate.to_byte()).expect("terms");
            assert_eq!(kept.fits((1 << bits) + 1), bits == 15);
        }
        assert_eq!(Deflate::from_byte(0), None);
    }

    #[test]
    fn what_is_malformed_or_unknown_is_declined() {
        for offer in [
            "",
            ",",
            ";",
            "deflate",
            "permessage-bzip2",
            "permessage-deflate;",
            "permessage-deflate; unknown",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=\"\"",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=09",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=\"9",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate client_max_window_bits",
            "é; \"",
        ] {
            assert_eq!(answer(&[offer]), None, "{offer}");
        }
    }

    #[test]
    fn the_first_offer_that_can_be_served_wins() {
        let limited = format!("{ANSWER}; server_max_window_bits=9");
        let list = "permessage-deflate; server_max_window_bits=99, x; y=\"a, permessage-deflate\", \
                    permessage-deflate; server_max_window_bits=9, permessage-deflate";
        assert_eq!(answer(&[list]).as_deref(), Some(&*limited));
        assert_eq!(
            answer(&["x", "permessage-deflate", "permessage-deflate; server_max_window_bits=9"]).unwrap(),
            ANSWER
        );
        assert_eq!(answer(&[]), None);
    }
}
