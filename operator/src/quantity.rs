//! Kubernetes quantities as numbers, for comparing what was asked for with what the API server made of it.

/// The amount in thousandths, or `None` where the text is no quantity or too large.
pub fn thousandths(text: &str) -> Option<u128> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let scale = thousandths_of(suffix)?;
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let places = u32::try_from(fraction.len()).ok()?;
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let part = part.checked_mul(scale)? / 10_u128.checked_pow(places)?;
    whole.checked_mul(scale)?.checked_add(part)
}

/// The amount in whole units, rounded down.
pub fn whole(text: &str) -> Option<u128> {
    thousandths(text).map(|amount| amount / 1_000)
}

fn thousandths_of(suffix: &str) -> Option<u128> {
    let binary = |power: u32| 1_000 * 1_024_u128.pow(power);
    let decimal = |power: u32| 1_000 * 1_000_u128.pow(power);
    Some(match suffix {
        "" => 1_000,
        "m" => 1,
        "k" => decimal(1),
        "M" => decimal(2),
        "G" => decimal(3),
        "T" => decimal(4),
        "P" => decimal(5),
        "E" => decimal(6),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<u128>) {
        assert_eq!(thousandths(text), expected, "{text}");
    }

    #[test]
    fn amounts_written_differently_are_the_same_number() {
        check("1", Some(1_000));
        check("1000m", Some(1_000));
        check("0.5", Some(500));
        check("1Gi", Some(1_073_741_824_000));
        check("1024Mi", Some(1_073_741_824_000));
        check("1.5k", Some(1_500_000));
    }

    #[test]
    fn what_is_no_quantity_has_no_amount() {
        check("", None);
        check("Gi", None);
        check("1Gb", None);
        check("99999999999999999999999999999999999999Ei", None);
    }
}
