//! Paths as Go's servers take them: decoded, and clean, or else the client is sent to the clean one.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::rpc::escape::unescape;

/// The path that a request's path means. None: an escape is none.
pub(super) fn decode(path: &str) -> Option<Cow<'_, [u8]>> {
    if !path.contains('%') {
        return Some(Cow::Borrowed(path.as_bytes()));
    }
    unescape(path.as_bytes(), false).ok().map(Cow::Owned)
}

/// The path without empty steps, `.` and `..`, if it has some.
pub(super) fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let mut steps: Vec<&[u8]> = Vec::new();
    for step in path.split(|&byte| byte == b'/') {
        match step {
            b"" | b"." => {}
            b".." => drop(steps.pop()),
            step => steps.push(step),
        }
    }
    let mut cleaned = Vec::with_capacity(path.len() + 1);
    for step in &steps {
        cleaned.push(b'/');
        cleaned.extend_from_slice(step);
    }
    if cleaned.is_empty() || path.ends_with(b"/") {
        cleaned.push(b'/');
    }
    (cleaned != path).then_some(cleaned)
}

/// A path as a header says it, with the query behind it.
pub(super) fn location(path: &[u8], query: &str) -> String {
    let mut location = String::with_capacity(path.len() + 1 + query.len());
    for &byte in path {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => location.push(byte.into()),
            b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@' => location.push(byte.into()),
            _ => {
                let _infallible = write!(location, "%{byte:02X}");
            }
        }
    }
    if !query.is_empty() {
        location.push('?');
        for byte in query.bytes() {
            match byte {
                // A header has neither.
                b'!'..=b'~' => location.push(byte.into()),
                _ => {
                    let _infallible = write!(location, "%{byte:02x}");
                }
            }
        }
    }
    location
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        for (path, cleaned) in [
            ("/", None),
            ("//", Some("/")),
            ("/v3/kv/put", None),
            ("/v3/", None),
            ("//v3/kv/put", Some("/v3/kv/put")),
            ("/v3//kv/put", Some("/v3/kv/put")),
            ("/v3/kv/../kv/put", Some("/v3/kv/put")),
            ("/v3/./kv/range", Some("/v3/kv/range")),
            ("/readyz//", Some("/readyz/")),
            ("/..", Some("/")),
            ("/a/..", Some("/")),
            ("/a/../", Some("/")),
            ("/a/.", Some("/a")),
            ("/a/./", Some("/a/")),
            ("/...", None),
            ("", Some("/")),
            ("x", Some("/x")),
        ] {
            let cleaned = cleaned.map(str::as_bytes);
            assert_eq!(clean(path.as_bytes()).as_deref(), cleaned, "{path}");
            // Nobody is sent on and on.
            assert_eq!(cleaned.and_then(clean), None, "{path}");
        }
    }

    #[test]
    fn escapes_are_undone_and_said_again_where_a_header_needs_them() {
        for (path, decoded) in [
            ("/v3/%6bv/range", Some(&b"/v3/kv/range"[..])),
            ("/%zz", None),
            ("/%2", None),
            ("/a+b%2B", Some(b"/a+b+")),
            ("/%ff", Some(b"/\xff")),
        ] {
            assert_eq!(decode(path).as_deref(), decoded, "{path}");
        }
        let escaped = location("/a b\r\n/\u{fc}".as_bytes(), "x=1&y=\r");
        assert_eq!(escaped, "/a%20b%0D%0A/%C3%BC?x=1&y=%0d");
        assert_eq!(location(b"/a:b@c\xff", ""), "/a:b@c%FF");
    }
}
