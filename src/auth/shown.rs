//! Tokens and passwords that clients show in a header.
//!
//! Compatibility: one leading `Bearer `, in this case and with one space, is cut as etcd cuts it. `Basic` is RFC 7617's, and
//! read as Go's `BasicAuth` reads it. A browser's WebSocket, which cannot set headers, shows its token as the second of its
//! subprotocols.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;

/// Longest `Basic` header that is looked at.
const BASIC_BYTES_MAX: usize = 4 << 10;

/// The token in a header.
#[must_use]
pub fn bearer(shown: &[u8]) -> &[u8] {
    shown.strip_prefix(b"Bearer ").unwrap_or(shown)
}

/// User and password in a header.
#[must_use]
pub fn basic(header: &[u8]) -> Option<(String, String)> {
    if BASIC_BYTES_MAX < header.len() {
        return None;
    }
    let (scheme, rest) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let text = String::from_utf8(BASE64.decode(rest.trim_ascii()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// The token in a list of subprotocols.
#[must_use]
pub fn subprotocol(list: &[u8]) -> Option<&[u8]> {
    let mut words = list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    (words.next()? == b"Bearer").then(|| words.next()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bearer_is_cut_in_etcds_case_and_nothing_else_is() {
        for (shown, token) in [
            (&b"abc.7"[..], &b"abc.7"[..]),
            (b"Bearer abc.7", b"abc.7"),
            (b"Bearer Bearer abc.7", b"Bearer abc.7"),
            (b"bearer abc.7", b"bearer abc.7"),
            (b"Bearer  abc.7", b" abc.7"),
            (b"Bearer", b"Bearer"),
            (b"Bearer ", b""),
            (b"", b""),
            (b"\xff\0", b"\xff\0"),
        ] {
            assert_eq!(bearer(shown), token, "{}", shown.escape_ascii());
        }
    }

    #[test]
    fn basic_is_a_user_and_a_password_with_any_colons() {
        let read = |text: &str| basic(text.as_bytes()).map(|(user, password)| format!("{user}|{password}"));
        assert_eq!(read("Basic YWxpY2U6cDp3").as_deref(), Some("alice|p:w"));
        assert_eq!(read("bAsIc  YWxpY2U6 ").as_deref(), Some("alice|"));
        assert_eq!(read("Basic Og==").as_deref(), Some("|"));
        for none in
            ["", "Basic", "Basic ", "Basic YWxpY2U=", "Bearer YWxpY2U6", "Basic %", "Basic /zpw", "Basic Og"]
        {
            assert_eq!(read(none), None, "{none}");
        }
        let long = format!("Basic {}", "YWE6".repeat(BASIC_BYTES_MAX / 4));
        assert_eq!(read(&long), None);
    }

    #[test]
    fn the_second_subprotocol_is_a_token_when_the_first_says_so() {
        assert_eq!(subprotocol(b"Bearer, abc.7"), Some(&b"abc.7"[..]));
        assert_eq!(subprotocol(b" Bearer ,abc.7 , x"), Some(&b"abc.7"[..]));
        assert_eq!(subprotocol(b"Bearer,"), Some(&b""[..]));
        for none in [&b"Bearer"[..], b"bearer, abc.7", b"x, Bearer, abc.7", b""] {
            assert_eq!(subprotocol(none), None);
        }
    }
}
