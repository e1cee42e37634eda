//! The colour of a user.
//!
//! In: a user id. Out: one of eight colours, the same that the usual JavaScript one-liner gives, so that clients that
//! compute it themselves agree.

const PALETTE: [&str; 8] = ["#FF6B6B", "#4ECDC4", "#45B7D1", "#FFA07A", "#98D8C8", "#F7DC6F", "#BB8FCE", "#85C1E2"];

/// The colour of this user: `h = c + ((h << 5) - h)` over the UTF-16 units, in doubles with only the shift in 32 bits.
pub fn color(user_id: &str) -> &'static str {
    let mut hash = 0.0_f64;
    for unit in user_id.encode_utf16() {
        hash = f64::from(unit) + (f64::from(to_int32(hash).wrapping_shl(5)) - hash);
    }
    // The remainder of a whole number by 8 is one of 0..=7.
    PALETTE.get((hash.abs() % 8.0) as usize).copied().unwrap_or("#FF6B6B")
}

/// JavaScript's ToInt32 of a whole number.
fn to_int32(number: f64) -> i32 {
    const TWO_TO_32: f64 = 4_294_967_296.0;
    // Below 2^32 after the remainder, so that the conversion is exact; the cast to i32 wraps.
    number.rem_euclid(TWO_TO_32) as u64 as u32 as i32
}

#[cfg(test)]
mod tests {
    use super::color;

    #[test]
    fn colours_are_those_of_the_contract() {
        for (user_id, expected) in [
            ("u1", "#98D8C8"),
            ("alice", "#FF6B6B"),
            ("42", "#BB8FCE"),
            ("3f2504e0-4f89-11d3-9a0c-0305e82c3301", "#FFA07A"),
            ("zoë", "#BB8FCE"),
            ("用户7", "#FF6B6B"),
        ] {
            assert_eq!(color(user_id), expected, "{user_id}");
        }
    }

    #[test]
    fn the_longest_user_id_has_a_colour() {
        assert!(color(&"\u{FFFF}".repeat(256)).starts_with('#'));
    }
}
