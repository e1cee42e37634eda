//! Messages compressed by themselves, as RFC 7692 section 7.2 has them.
//!
//! In: the bytes of a message. Out: the same compressed without the end that every compressed message has, or back. What
//! the library needs to work is kept once for each thread, not for each connection, and starts anew with each message.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::Violation;

/// How a message ends that is flushed: an empty block without compression. It is never sent.
const END: [u8; 4] = [0, 0, 0xff, 0xff];
/// One more empty block that says it is the last, by which a message that stops inside a block is known.
const LAST_BLOCK: [u8; 2] = [3, 0];
/// What a thread keeps for the next message; larger ones are rare.
const SCRATCH_BYTES_KEPT: usize = 64 * 1024;
/// Room to inflate into at first; it doubles up to the limit.
const INFLATED_BYTES_FIRST: usize = 1024;

thread_local! {
    // Each is some hundred kilobytes or less, made when a thread first needs it.
    static COMPRESS: RefCell<(Compress, Vec<u8>)> = RefCell::new((Compress::new(Compression::fast(), false), Vec::new()));
    static DECOMPRESS: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// The most that a compressed message may have for `message_bytes_max`: some compressors make text larger by an eighth.
pub(crate) fn deflated_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max.saturating_add(message_bytes_max / 8).saturating_add(64)
}

/// Gives `use_it` the compressed payload; `None` if it would not be smaller.
pub(crate) fn deflate<T>(payload: &[u8], use_it: impl FnOnce(&[u8]) -> T) -> Option<T> {
    COMPRESS.with_borrow_mut(|(compress, scratch)| {
        compress.reset();
        scratch.clear();
        // With less room left than this it is not smaller.
        scratch.reserve_exact(payload.len() + END.len());
        let status = compress.compress_vec(payload, scratch, FlushCompress::Sync);
        let is_whole = matches!(status, Ok(Status::Ok))
            && usize::try_from(compress.total_in()) == Ok(payload.len())
            && scratch.len() < scratch.capacity();
        let deflated = scratch.strip_suffix(&END).filter(|deflated| is_whole && deflated.len() < payload.len());
        let result = deflated.map(use_it);
        if scratch.capacity() > SCRATCH_BYTES_KEPT {
            *scratch = Vec::new();
        }
        result
    })
}

/// The message that was compressed.
///
/// # Errors
/// When it is no deflated message, or larger than `bytes_max`: then nothing beyond that was inflated.
pub(crate) fn inflate(deflated: &[u8], bytes_max: usize) -> Result<Vec<u8>, Violation> {
    let mut inflated = Vec::new();
    if deflated.is_empty() {
        // Not what the RFC asks for, but it can mean nothing else.
        return Ok(inflated);
    }
    DECOMPRESS.with_borrow_mut(|decompress| {
        decompress.reset(false);
        if inflate_part(decompress, deflated, &mut inflated, bytes_max)? == Part::Ended {
            return Ok(());
        }
        inflate_part(decompress, &END, &mut inflated, bytes_max)?;
        match inflate_part(decompress, &LAST_BLOCK, &mut inflated, bytes_max)? {
            Part::Ended => Ok(()),
            Part::GoesOn => Err(Violation::NotDeflated),
        }
    })?;
    inflated.shrink_to_fit();
    Ok(inflated)
}

/// Where the end of the input is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// After a block that said it is the last.
    Ended,
    /// Anywhere else.
    GoesOn,
}

fn inflate_part(
    decompress: &mut Decompress,
    mut input: &[u8],
    inflated: &mut Vec<u8>,
    bytes_max: usize,
) -> Result<Part, Violation> {
    loop {
        if inflated.len() == inflated.capacity() {
            // One byte more than the limit shows that the message is beyond it.
            let more = inflated.len().max(INFLATED_BYTES_FIRST).min((bytes_max - inflated.len()).saturating_add(1));
            inflated.reserve_exact(more);
        }
        let (consumed, length) = (decompress.total_in(), inflated.len());
        let status = decompress.decompress_vec(input, inflated, FlushDecompress::Sync);
        if inflated.len() > bytes_max {
            return Err(Violation::TooBig);
        }
        let status = status.map_err(|_| Violation::NotDeflated)?;
        let consumed = usize::try_from(decompress.total_in() - consumed).unwrap_or(usize::MAX);
        input = input.get(consumed..).unwrap_or_default();
        match status {
            // Section 7.2.3.5: more blocks may follow.
            Status::StreamEnd if input.is_empty() => return Ok(Part::Ended),
            Status::StreamEnd => decompress.reset(false),
            // There was room left, so that nothing is kept back.
            Status::Ok | Status::BufError if input.is_empty() && inflated.len() < inflated.capacity() => {
                return Ok(Part::GoesOn);
            }
            Status::Ok | Status::BufError => {
                let is_stuck = consumed == 0 && inflated.len() == length && length < inflated.capacity();
                if is_stuck {
                    return Err(Violation::NotDeflated);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{deflate, deflated_bytes_max, inflate};
    use crate::Violation;

    fn deflated(payload: &[u8]) -> Option<Vec<u8>> {
        deflate(payload, <[u8]>::to_vec)
    }

    /// Numbers that look random, the same in every run.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    #[test]
    fn the_examples_of_the_rfc_are_inflated() {
        let hello = Ok(b"Hello".to_vec());
        for (name, bytes) in [
            ("fixed codes", &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..]),
            ("no compression", &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00]),
            ("a last block", &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]),
            ("two blocks", &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00]),
            ("a last block and nothing after it", &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]),
        ] {
            assert_eq!(inflate(bytes, 100), hello, "{name}");
            assert_eq!(inflate(bytes, 5), hello, "{name}");
            assert_eq!(inflate(bytes, 4), Err(Violation::TooBig), "{name}");
        }
        assert_eq!(inflate(&[0], 0), Ok(Vec::new()));
        assert_eq!(inflate(&[], 0), Ok(Vec::new()));
    }

    #[test]
    fn what_is_deflated_is_smaller_and_comes_back() {
        let text = "the later committed edit stands first; ".repeat(40_000);
        for length in [100, 1023, 1024, 1025, 65_536, 1_000_000, text.len()] {
            let payload = &text.as_bytes()[..length];
            let small = deflated(payload).expect("compressible");
            assert!(small.len() < length);
            assert_eq!(inflate(&small, length).as_deref(), Ok(payload), "{length}");
            assert_eq!(inflate(&small, length - 1), Err(Violation::TooBig), "{length}");
        }
        // Half of it cannot be compressed.
        let mixed = [noise(100_000), text.into_bytes()].concat();
        assert_eq!(inflate(&deflated(&mixed).expect("compressible"), mixed.len()), Ok(mixed));
    }

    #[test]
    fn what_would_not_be_smaller_is_not_deflated() {
        for payload in [noise(10), noise(1000), noise(100_000), Vec::new(), b"a".to_vec()] {
            assert_eq!(deflated(&payload), None, "{} bytes", payload.len());
        }
    }

    #[test]
    fn one_message_knows_nothing_of_the_one_before() {
        let first = deflated(&b"abcdefgh".repeat(100)).unwrap();
        let again = deflated(&b"abcdefgh".repeat(100)).unwrap();
        assert_eq!(first, again);
        assert!(inflate(&[0xff, 0xff], 100).is_err());
        assert_eq!(inflate(&again, 800), Ok(b"abcdefgh".repeat(100)));
    }

    #[test]
    fn a_message_cut_short_or_spoiled_is_refused() {
        let payload: Vec<u8> = (0..5000_u32).flat_map(|n| n.to_string().into_bytes()).collect();
        let whole = deflated(&payload).unwrap();
        for length in 1..whole.len() {
            assert_eq!(inflate(&whole[..length], 1 << 20), Err(Violation::NotDeflated), "{length} of {}", whole.len());
        }
        // A block type that does not exist.
        assert_eq!(inflate(&[0x07], 100), Err(Violation::NotDeflated));
    }

    #[test]
    fn a_bomb_is_inflated_to_the_limit_and_no_further() {
        let bomb = deflated(&vec![0; 64 << 20]).unwrap();
        assert!(bomb.len() < 1 << 20);
        assert_eq!(inflate(&bomb, 1 << 20), Err(Violation::TooBig));
    }

    #[test]
    fn what_cannot_be_compressed_may_be_sent_compressed_all_the_same() {
        assert!(deflated_bytes_max(1000) > 1000 + 5);
        assert_eq!(deflated_bytes_max(usize::MAX), usize::MAX);
    }
}
