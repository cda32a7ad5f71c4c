//! Reading one flag's text: booleans, numbers and durations as Go's `flag` package reads them.
//!
//! Every function is total: any text gives a value or a sentence that says what was expected.

use std::time::Duration;

/// Go's `strconv.ParseBool`.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Why a text is no whole number of the kind that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NumberError {
    Syntax,
    TooLarge,
}

/// Go's `strconv.ParseUint` with base 0: `16`, `0x10`, `0o20`, `020` (octal), `0b10000`, `1_000`; no sign.
pub(super) fn parse_unsigned(text: &str) -> Result<u64, NumberError> {
    let (radix, digits) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &text[2..]),
        [b'0', b'o' | b'O', ..] => (8, &text[2..]),
        [b'0', b'b' | b'B', ..] => (2, &text[2..]),
        // The zero stays: an underscore may follow it.
        [b'0', _, ..] => (8, text),
        _ => (10, text),
    };
    // An underscore stands between two digits, or between the prefix and the first of them.
    let may_begin_so = digits.len() < text.len();
    if digits.ends_with('_') || digits.contains("__") || (digits.starts_with('_') && !may_begin_so) {
        return Err(NumberError::Syntax);
    }
    let (mut number, mut is_too_large, mut digits_count) = (0_u64, false, 0);
    for digit in digits.chars().filter(|digit| *digit != '_') {
        let digit = digit.to_digit(radix).ok_or(NumberError::Syntax)?;
        digits_count += 1;
        match number.checked_mul(u64::from(radix)).and_then(|n| n.checked_add(u64::from(digit))) {
            Some(grown) => number = grown,
            None => is_too_large = true,
        }
    }
    match (digits_count, is_too_large) {
        (0, _) => Err(NumberError::Syntax),
        (_, true) => Err(NumberError::TooLarge),
        (_, false) => Ok(number),
    }
}

/// Go's `strconv.ParseInt` with base 0: as above, with a sign if need be.
pub(super) fn parse_signed(text: &str) -> Result<i64, NumberError> {
    if let Some(digits) = text.strip_prefix('-') {
        return 0_i64.checked_sub_unsigned(parse_unsigned(digits)?).ok_or(NumberError::TooLarge);
    }
    let digits = text.strip_prefix('+').unwrap_or(text);
    i64::try_from(parse_unsigned(digits)?).map_err(|_| NumberError::TooLarge)
}

/// Go's `time.ParseDuration` without negative values, which no flag of ours has a meaning for:
/// `300ms`, `1h30m`, `1.5s`, or a bare `0`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("{text:?} is not a duration such as 300ms, 5s or 2h");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.starts_with('-') {
        return Err(format!("{text:?} is negative"));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(expected());
    }
    let mut total_ns: u128 = 0;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).ok_or_else(expected)?;
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let unit_ns: u128 = match unit {
            "ns" => 1,
            // Micro sign and Greek mu look alike, and both are in use.
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            _ => return Err(expected()),
        };
        total_ns += scaled(number, unit_ns).ok_or_else(expected)?;
        rest = tail;
        // Go's own bound, 292 years. Checked each round, so the sum cannot overflow.
        if total_ns > u128::from(i64::MAX.unsigned_abs()) {
            return Err(format!("{text:?} is too long"));
        }
    }
    let ns = u64::try_from(total_ns).map_err(|_| expected())?;
    Ok(Duration::from_nanos(ns))
}

/// `number` (digits with at most one point) times `unit_ns`; `None` if it is no number or has more
/// digits than any sensible duration.
fn scaled(number: &str, unit_ns: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    if whole.len() > 19 || fraction.len() > 18 {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut ns = whole * unit_ns;
    if !fraction.is_empty() {
        let digits = u32::try_from(fraction.len()).ok()?;
        let value: u128 = fraction.parse().ok()?;
        ns += value * unit_ns / 10u128.pow(digits);
    }
    Some(ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_reads_them() {
        let ms = Duration::from_millis;
        for (text, want) in [
            ("0", ms(0)),
            ("300ms", ms(300)),
            ("5s", ms(5_000)),
            ("1h30m", ms(5_400_000)),
            ("1.5s", ms(1_500)),
            (".5s", ms(500)),
            ("2h0m0s", ms(7_200_000)),
            ("10us", Duration::from_micros(10)),
            ("10µs", Duration::from_micros(10)),
        ] {
            assert_eq!(parse_duration(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_without_a_panic() {
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1.2.3s",
            "1x",
            "1s5",
            ".s",
            "é",
            "99999999999999999999h",
            "9999999999999999h",
        ] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn numbers_read_as_go_reads_them() {
        let (max, min) = (u64::MAX.to_string(), i64::MIN.to_string());
        // Each was given to etcd 3.5.30 as --snapshot-count or --quota-backend-bytes.
        for (text, want) in [
            ("0", Ok(0)),
            ("10000", Ok(10_000)),
            ("0x10", Ok(16)),
            ("0X1f", Ok(31)),
            ("0o17", Ok(15)),
            ("0b101", Ok(5)),
            ("010", Ok(8)),
            ("0_7", Ok(7)),
            ("0x_1", Ok(1)),
            ("1_000", Ok(1_000)),
            (max.as_str(), Ok(u64::MAX)),
            ("99999999999999999999", Err(NumberError::TooLarge)),
            ("08", Err(NumberError::Syntax)),
            ("0x", Err(NumberError::Syntax)),
            ("5_", Err(NumberError::Syntax)),
            ("_5", Err(NumberError::Syntax)),
            ("1__0", Err(NumberError::Syntax)),
            ("+5", Err(NumberError::Syntax)),
            ("-1", Err(NumberError::Syntax)),
            (" 5", Err(NumberError::Syntax)),
            ("1e3", Err(NumberError::Syntax)),
            ("é", Err(NumberError::Syntax)),
            ("", Err(NumberError::Syntax)),
        ] {
            assert_eq!(parse_unsigned(text), want, "{text:?}");
        }
        for (text, want) in [
            ("+5", Ok(5)),
            ("-1_000", Ok(-1_000)),
            ("-0x10", Ok(-16)),
            (min.as_str(), Ok(i64::MIN)),
            ("9223372036854775808", Err(NumberError::TooLarge)),
            ("-9223372036854775809", Err(NumberError::TooLarge)),
            ("--1", Err(NumberError::Syntax)),
            ("-", Err(NumberError::Syntax)),
        ] {
            assert_eq!(parse_signed(text), want, "{text:?}");
        }
    }

    #[test]
    fn booleans_read_as_go_reads_them() {
        assert_eq!(parse_bool("T"), Some(true));
        assert_eq!(parse_bool("False"), Some(false));
        assert_eq!(parse_bool("yes"), None);
        assert_eq!(parse_bool(""), None);
    }
}
