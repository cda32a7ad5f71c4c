//! `pinion-hops`: how many proxies a call has come through, as they say it in its metadata.
//!
//! Proxies that are each other's endpoints would pass a call on for ever. Nobody has as many in a row as `HOPS_MAX`, so
//! that a call with so many goes round in a circle.

use super::{Code, Status};

/// The metadata's name.
pub const HOPS: &str = "pinion-hops";

/// A proxy passes no call on that has come through so many.
pub const HOPS_MAX: u8 = 8;

/// Reads the value of the metadata. What no proxy writes is no hop.
#[must_use]
pub fn parse(value: Option<&[u8]>) -> u8 {
    value.and_then(|value| str::from_utf8(value).ok()?.parse().ok()).unwrap_or(0)
}

/// The refusal of a call that goes round in a circle.
#[must_use]
pub fn circle() -> Status {
    let message = format!(
        "etcdserver: the call has come through {HOPS_MAX} proxies, so it goes round in a circle: give each proxy the \
         members' addresses as --endpoints"
    );
    Status { code: Code::FailedPrecondition, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_proxy_writes_is_no_hop() {
        assert_eq!([parse(Some(b"0")), parse(Some(b"7")), parse(Some(b"255"))], [0, 7, 255]);
        for other in [None, Some(&b""[..]), Some(b"-1"), Some(b"256"), Some(b"x"), Some(b"\xff")] {
            assert_eq!(parse(other), 0);
        }
    }
}
