//! Paths as Go's servers take them: decoded, and clean, or else the client is sent to the clean one.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The path that a request's path means. One with an escape that is none stays as it is.
pub(super) fn decode(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, more)) = rest.split_first() {
        rest = more;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |at: usize| more.get(at).and_then(|&digit| (digit as char).to_digit(16));
        let Some((high, low)) = digit(0).zip(digit(1)) else { return Cow::Borrowed(path) };
        bytes.push(u8::try_from(high << 4 | low).expect("two digits are a byte"));
        rest = &more[2..];
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(path), Cow::Owned)
}

/// The path without empty steps, `.` and `..`, if it has some.
pub(super) fn clean(path: &str) -> Option<String> {
    let mut steps: Vec<&str> = Vec::new();
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => drop(steps.pop()),
            step => steps.push(step),
        }
    }
    let mut cleaned = String::with_capacity(path.len() + 1);
    for step in &steps {
        cleaned.push('/');
        cleaned.push_str(step);
    }
    if cleaned.is_empty() || path.ends_with('/') {
        cleaned.push('/');
    }
    (cleaned != path).then_some(cleaned)
}

/// A path as a header says it, with the query behind it.
pub(super) fn location(path: &str, query: &str) -> String {
    let mut location = String::with_capacity(path.len() + 1 + query.len());
    for byte in path.bytes() {
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
            assert_eq!(clean(path).as_deref(), cleaned, "{path}");
            // Nobody is sent on and on.
            assert_eq!(cleaned.and_then(clean), None, "{path}");
        }
    }

    #[test]
    fn escapes_are_undone_and_said_again_where_a_header_needs_them() {
        for (path, decoded) in [
            ("/v3/%6bv/range", "/v3/kv/range"),
            ("/%zz", "/%zz"),
            ("/%2", "/%2"),
            ("/a+b%2B", "/a+b+"),
            ("/%ff", "/%ff"),
        ] {
            assert_eq!(decode(path), decoded);
        }
        assert_eq!(location("/a b\r\n/\u{fc}", "x=1&y=\r"), "/a%20b%0D%0A/%C3%BC?x=1&y=%0d");
        assert_eq!(location("/a:b@c", ""), "/a:b@c");
    }
}
