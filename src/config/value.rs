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
    fn booleans_read_as_go_reads_them() {
        assert_eq!(parse_bool("T"), Some(true));
        assert_eq!(parse_bool("False"), Some(false));
        assert_eq!(parse_bool("yes"), None);
        assert_eq!(parse_bool(""), None);
    }
}
