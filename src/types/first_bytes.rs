//! The first bytes of a connection: which protocol somebody speaks who has just come.

/// What an HTTP/2 client says first.
pub const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A request of HTTP/1 begins with its method and a space. Known methods are capital letters, and the
/// longest has 17 (`UPDATEREDIRECTREF`).
const METHOD_BYTES_MAX: usize = 17;

/// The type of a TLS record with a handshake, which a client begins with.
const TLS_HANDSHAKE: u8 = 0x16;

/// The head of a TLS record, and the largest whole one.
const TLS_HEAD_BYTES: usize = 5;
pub const TLS_RECORD_BYTES_MAX: usize = TLS_HEAD_BYTES + (16 << 10) + 256;

/// How many of these bytes, which begin with a record's head, are whole TLS records. All of them where a head is none.
#[must_use]
pub fn whole_tls_records(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some(head) = rest.first_chunk::<TLS_HEAD_BYTES>() {
        let record_bytes = TLS_HEAD_BYTES + usize::from(u16::from_be_bytes([head[3], head[4]]));
        if TLS_RECORD_BYTES_MAX < record_bytes {
            return bytes.len();
        }
        let Some(behind) = rest.get(record_bytes..) else { break };
        rest = behind;
    }
    bytes.len() - rest.len()
}

/// What the first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FirstBytes {
    Http2,
    Http1,
    Tls,
    Ssh,
    Unknown,
}

impl FirstBytes {
    /// Judges the bytes so far; None while they may still become something that is known.
    #[must_use]
    pub fn judge(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(HTTP2_PREFACE) {
            return Some(Self::Http2);
        } else if bytes.first() == Some(&TLS_HANDSHAKE) {
            return Some(Self::Tls);
        } else if bytes.starts_with(b"SSH-") {
            return Some(Self::Ssh);
        } else if HTTP2_PREFACE.starts_with(bytes) {
            return None;
        }
        let letters = bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
        match bytes.get(letters) {
            _ if METHOD_BYTES_MAX < letters => Some(Self::Unknown),
            None => None,
            Some(b' ') if 0 < letters => Some(Self::Http1),
            Some(_) => Some(Self::Unknown),
        }
    }

    /// What to say of somebody who speaks it where plain HTTP is expected.
    #[must_use]
    pub fn complaint(self) -> &'static str {
        match self {
            Self::Tls => "TLS on a plain listener; use http:// for this address",
            Self::Ssh => "SSH on a listener for clients",
            Self::Http1 | Self::Http2 | Self::Unknown => "neither gRPC nor HTTP on a listener for clients",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_told_by_the_first_byte_that_decides() {
        use FirstBytes as F;
        for (bytes, expected) in [
            (&b""[..], None),
            (b"P", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (HTTP2_PREFACE, Some(F::Http2)),
            (b"PRI * HTTP/1.1\r\n", Some(F::Http1)),
            (b"PU", None),
            (b"PUT ", Some(F::Http1)),
            (b"PROPFIND /", Some(F::Http1)),
            (b"UPDATEREDIRECTREF ", Some(F::Http1)),
            (b"UPDATEREDIRECTREFS", Some(F::Unknown)),
            (b"PUT\t", Some(F::Unknown)),
            (b" / HTTP/1.1\r\n", Some(F::Unknown)),
            (b"GET /health HTTP/1.1\r\n", Some(F::Http1)),
            (b"get /", Some(F::Unknown)),
            (b"\x16", Some(F::Tls)),
            (b"\x16\x03\x01\x02\x00\x01", Some(F::Tls)),
            (b"S", None),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Some(F::Ssh)),
            (b"\0", Some(F::Unknown)),
            (b"\r\n", Some(F::Unknown)),
        ] {
            assert_eq!(F::judge(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn records_are_whole_when_all_of_them_is_there_and_what_is_none_is_not_waited_for() {
        assert_eq!(whole_tls_records(b""), 0);
        assert_eq!(whole_tls_records(b"\x16\x03\x01\x00"), 0);
        assert_eq!(whole_tls_records(b"\x16\x03\x01\x00\x02a"), 0);
        assert_eq!(whole_tls_records(b"\x16\x03\x01\x00\x02ab"), 7);
        assert_eq!(whole_tls_records(b"\x16\x03\x01\x00\x02ab\x16\x03\x01\x00\x02a"), 7, "half of the next");
        assert_eq!(whole_tls_records(b"\x16\x03\x01\x00\x02ab\x14\x03\x01\x00\x01c"), 13);
        assert_eq!(whole_tls_records(b"\x16\x03\x01\x00\x00"), 5);
        assert_eq!(whole_tls_records(b"\x16\x03\x01\x41\x00"), 0, "256 bytes more than plain text may have");
        assert_eq!(whole_tls_records(b"\x16\x03\x01\x41\x01"), 5);
        assert_eq!(whole_tls_records(b"\x16\x03\x01\x00\x00\x16\x03\x01\x41\x01abc"), 13);
    }
}
