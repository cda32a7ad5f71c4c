//! Classes of header fields: what etcd makes of one, and whether the decoder behind takes it as it is.
//!
//! Told from name and value alone, once, when a field is first seen; its entry in a table remembers it.
//! "Plain" is stricter than what the decoder takes: what is unusual is written anew rather than guessed at.

/// Names longer than any header has; the decoder's limit is 64 KiB.
const NAME_BYTES_MAX: usize = 8 * 1024;

/// Paths longer than any method's; the decoder's limit is 64 KiB.
const PATH_BYTES_MAX: usize = 8 * 1024;

/// A host's name has 253 bytes at most.
const AUTHORITY_BYTES_MAX: usize = 255 + 6;

/// What a field is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Method,
    Scheme,
    Path,
    Authority,
    /// `:protocol`, which nobody asks for.
    Protocol,
    Host,
    /// `token` or `authorization`: who calls.
    Credential,
    /// Metadata that nobody here reads, though most clients send it with every call.
    Unread,
    /// Of the connection, or of its other side; etcd does not look at it and the decoder would refuse it.
    Ignored,
    /// `connection`, for which etcd refuses the call.
    Connection,
    /// Metadata, and everything else.
    Regular,
    /// The name is none, or not one of a request.
    BadName,
    BadValue,
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Class {
    pub(super) kind: Kind,
    /// It may pass as it is.
    pub(super) is_plain: bool,
}

impl Class {
    /// The class of a field.
    pub(super) const fn of(name: &[u8], value: &[u8]) -> Self {
        let kind = kind_of(name);
        if matches!(kind, Kind::BadName) {
            return Self { kind, is_plain: false };
        }
        if !is_value(value) {
            return Self { kind: Kind::BadValue, is_plain: false };
        }
        let is_plain = match kind {
            Kind::Method => matches!(value, b"POST" | b"GET"),
            Kind::Scheme => matches!(value, b"http" | b"https"),
            Kind::Path => is_plain_path(value),
            Kind::Authority => is_plain_authority(value),
            Kind::Host | Kind::Credential | Kind::Unread | Kind::Regular => true,
            // The only one of its kind that the decoder takes.
            Kind::Ignored => matches!((name, value), (b"te", b"trailers")),
            Kind::Protocol | Kind::Connection | Kind::BadName | Kind::BadValue => false,
        };
        Self { kind, is_plain }
    }
}

const fn kind_of(name: &[u8]) -> Kind {
    match name {
        b":method" => Kind::Method,
        b":scheme" => Kind::Scheme,
        b":path" => Kind::Path,
        b":authority" => Kind::Authority,
        b":protocol" => Kind::Protocol,
        b"host" => Kind::Host,
        b"connection" => Kind::Connection,
        b"token" | b"authorization" => Kind::Credential,
        b"user-agent" | b"grpc-accept-encoding" => Kind::Unread,
        b"te" | b"keep-alive" | b"proxy-connection" | b"upgrade" | b"transfer-encoding"
        | b"content-length" => Kind::Ignored,
        _ if is_name(name) => Kind::Regular,
        _ => Kind::BadName,
    }
}

/// Whether each byte is in `allowed`, a bit for each.
const fn is_made_of(bytes: &[u8], allowed: &[bool; 256]) -> bool {
    let mut at = 0;
    while at < bytes.len() {
        if !allowed[bytes[at] as usize] {
            return false;
        }
        at += 1;
    }
    true
}

const fn bytes_of(letters: bool, capitals: bool, others: &[u8]) -> [bool; 256] {
    let mut allowed = [false; 256];
    let mut byte = 0_u8;
    while byte < 0x80 {
        allowed[byte as usize] = byte.is_ascii_digit()
            || (letters && byte.is_ascii_lowercase())
            || (capitals && byte.is_ascii_uppercase());
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        allowed[others[at] as usize] = true;
        at += 1;
    }
    allowed
}

/// RFC 9110's token without capitals, which HTTP/2 does not allow.
const fn is_name(name: &[u8]) -> bool {
    const ALLOWED: [bool; 256] = bytes_of(true, false, b"!#$%&'*+-.^_`|~");
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && is_made_of(name, &ALLOWED)
}

/// Whether the bytes may be a value: no control character but the tab.
const fn is_value(value: &[u8]) -> bool {
    const ALLOWED: [bool; 256] = {
        let mut allowed = [true; 256];
        let mut byte = 0;
        while byte < 32 {
            allowed[byte] = byte == 9;
            byte += 1;
        }
        allowed[127] = false;
        allowed
    };
    is_made_of(value, &ALLOWED)
}

const fn is_plain_path(path: &[u8]) -> bool {
    const ALLOWED: [bool; 256] = bytes_of(true, true, b"/._-");
    matches!(path, [b'/', ..]) && path.len() <= PATH_BYTES_MAX && is_made_of(path, &ALLOWED)
}

/// A name or an IPv4 address, or an IPv6 address in brackets; maybe a port.
const fn is_plain_authority(authority: &[u8]) -> bool {
    const NAME: [bool; 256] = bytes_of(true, true, b"._-");
    const ADDRESS: [bool; 256] = bytes_of(true, false, b":.");
    const DIGITS: [bool; 256] = bytes_of(false, false, b"");
    if AUTHORITY_BYTES_MAX < authority.len() {
        return false;
    }
    // The host ends before the last colon that is not in brackets.
    let mut end = authority.len();
    while 0 < end && DIGITS[authority[end - 1] as usize] {
        end -= 1;
    }
    let (host, port) = match authority.split_at(end).0 {
        [host @ .., b':'] => (host, authority.len() - end),
        _ => (authority, 1),
    };
    if port == 0 || 5 < port {
        return false;
    }
    match host {
        [b'[', address @ .., b']'] => 1 < address.len() && is_made_of(address, &ADDRESS),
        [] => false,
        name => is_made_of(name, &NAME),
    }
}
