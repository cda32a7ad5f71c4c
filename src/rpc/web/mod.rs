//! Requests of HTTP that are not gRPC's, whatever carries them: what is asked for (`route`), who may ask
//! (`Rules`), and what an answer says. No socket, no HTTP version.
//!
//! Compatibility: etcd 3.7's filter in front of its pages. Errors of the gateway have the fields of both kinds that
//! etcd had: `error` is the text as in 3.5, `code` and `message` are 3.6's; in a stream, `error` is an object with
//! all names of both.

mod path;
mod rules;

use std::borrow::Cow;

use super::json::put_text;
use super::method::Method;
use super::status::{Code, Status};
pub use rules::{DashboardRefusal, Rules};

/// A header of a request.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    pub name: &'a str,
    pub value: &'a [u8],
}

/// A request, without its body.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// Behind the question mark.
    pub query: &'a str,
    pub headers: &'a [Header<'a>],
    /// It came by TLS.
    pub is_secured: bool,
    /// Its client shows a certificate with a name, where rights are asked for and such a name is a user.
    pub is_named: bool,
}

/// How headers are named that the gateway passes on to the call.
const METADATA_PREFIX: &str = "grpc-metadata-";

impl<'a> Ask<'a> {
    /// The first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        let header = self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| header.value.trim_ascii())
    }

    /// What a gRPC client would have sent as metadata of this name.
    #[must_use]
    pub fn metadata(&self, name: &str) -> Option<&'a [u8]> {
        let header = self.headers.iter().find(|header| {
            let (found, prefix) = (header.name.as_bytes(), METADATA_PREFIX.len());
            found.len() == prefix + name.len()
                && found[..prefix].eq_ignore_ascii_case(METADATA_PREFIX.as_bytes())
                && found[prefix..].eq_ignore_ascii_case(name.as_bytes())
        });
        header.map(|header| header.value.trim_ascii())
    }

    /// The values of a parameter of the query.
    pub fn parameters(&self, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
        let pairs = self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(move |(found, _)| unescape(found) == name).map(|(_, value)| unescape(value))
    }
}

/// Undoes percent-encoding.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, more)) = rest.split_first() {
        let digit = |at: usize| more.get(at).and_then(|&digit| (digit as char).to_digit(16));
        let (byte, used) = match (byte, digit(0).zip(digit(1))) {
            (b'%', Some((high, low))) => (u8::try_from(high << 4 | low).expect("two digits are a byte"), 2),
            (b'+', _) => (b' ', 0),
            _ => (byte, 0),
        };
        bytes.push(byte);
        rest = &more[used..];
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route<'a> {
    /// Whether a script of another origin may ask.
    Preflight,
    /// The host is none of ours.
    Misdirected,
    /// The request asks for no path.
    Malformed,
    /// A path of the gateway, asked for with a certificate whose name will not be used.
    NamedInVain,
    /// A call through the gateway.
    Call(Method),
    /// Another path stands for this one: where to ask instead.
    Moved(String),
    /// A call's path, not asked by POST.
    CallByOtherMethod,
    /// A path that is the gateway's, and no call's.
    NoCall,
    /// The v2 API's, with the path.
    V2(Cow<'a, [u8]>),
    /// A page, if there is one of this path.
    Page(Cow<'a, str>),
}

/// Finds out what is asked for.
#[must_use]
pub fn route<'a>(ask: &Ask<'a>, rules: &Rules) -> Route<'a> {
    let Some(path) = path::decode(ask.path) else { return Route::Malformed };
    if !ask.is_secured && !rules.admits_host(ask.header("host").unwrap_or_default()) {
        return Route::Misdirected;
    }
    let path = match path.strip_prefix(b"/v3beta/") {
        Some(rest) => Cow::Owned([b"/v3/", rest].concat()),
        None => path,
    };
    let is_gateways = rules.serves_gateway && path.starts_with(b"/v3/");
    if is_gateways && ask.is_named {
        return Route::NamedInVain;
    }
    if ask.method == "OPTIONS" {
        return Route::Preflight;
    }
    let moved = path::clean(&path).or_else(|| {
        let is_root = rules.serves_gateway && *path == *b"/v3";
        is_root.then(|| b"/v3/".to_vec())
    });
    // Who asks for a tunnel has no path to be sent to.
    if let Some(moved) = moved.filter(|_| ask.method != "CONNECT") {
        return Route::Moved(path::location(&moved, ask.query));
    }
    if path.starts_with(b"/v2/") {
        return Route::V2(path);
    }
    let path = text_of(path);
    if !is_gateways {
        return Route::Page(path);
    }
    match Method::of_web_path(&path) {
        None => Route::NoCall,
        Some(_) if ask.method != "POST" || is_overridden(ask) => Route::CallByOtherMethod,
        Some(method) => Route::Call(method),
    }
}

/// A path as text. No page and no call has one that is none.
fn text_of(path: Cow<'_, [u8]>) -> Cow<'_, str> {
    match path {
        Cow::Borrowed(path) => String::from_utf8_lossy(path),
        Cow::Owned(path) => String::from_utf8_lossy(&path).into_owned().into(),
    }
}

/// Whether a header makes another method of POST: the gateway's libraries look at it where the body is a form.
fn is_overridden(ask: &Ask<'_>) -> bool {
    let method = ask.header("x-http-method-override").unwrap_or_default();
    let is_form = ask.header("content-type") == Some(b"application/x-www-form-urlencoded");
    is_form && !method.is_empty() && !method.eq_ignore_ascii_case(b"POST")
}

/// Appends the page that says where something has moved to.
pub fn put_moved(location: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"<a href=\"");
    for byte in location.bytes() {
        match byte {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'"' => out.extend_from_slice(b"&#34;"),
            b'\'' => out.extend_from_slice(b"&#39;"),
            _ => out.push(byte),
        }
    }
    out.extend_from_slice(b"\">Moved Permanently</a>.\n\n");
}

/// Whether a path is a call's, by whatever method it is asked: a WebSocket begins with GET.
#[must_use]
pub fn call_of(ask: &Ask<'_>, rules: &Rules) -> Option<Method> {
    match route(&Ask { method: "POST", ..*ask }, rules) {
        Route::Call(method) => Some(method),
        _ => None,
    }
}

/// An answer, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerHead {
    pub status: u16,
    /// Empty: there is no body.
    pub content_type: &'static str,
    pub headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// Whose scripts may read it, by `Rules::origin_for`.
    pub origin: Option<Cow<'static, str>>,
}

/// The type of pages that people read.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// The same for those with links.
pub const HTML: &str = "text/html; charset=utf-8";
/// The type of the gateway's answers.
pub const JSON: &str = "application/json";

impl AnswerHead {
    /// An answer without headers of its own.
    #[must_use]
    pub fn new(status: u16, content_type: &'static str) -> Self {
        Self { status, content_type, headers: Vec::new(), origin: None }
    }

    /// The head of a text, which a browser must not take for something else.
    #[must_use]
    pub fn of_text(status: u16) -> Self {
        Self::new(status, TEXT).with("X-Content-Type-Options", "nosniff")
    }

    /// The same with a header more.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The answer to a call that goes well.
    #[must_use]
    pub fn of_call() -> Self {
        Self::new(200, JSON).with("Grpc-Metadata-Content-Type", "application/grpc")
    }

    /// The status in words.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        reason(self.status)
    }
}

/// A status in words.
fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        301 => "Moved Permanently",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        499 => "Client Closed Request",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// The HTTP status of a call that ended so.
#[must_use]
pub fn status_of(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::Canceled => 499,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::DeadlineExceeded => 504,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::PermissionDenied => 403,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::Unauthenticated => 401,
    }
}

/// Appends the error of a call that has one answer.
pub fn put_error(status: &Status, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"error\":");
    put_text(&status.message, out);
    put_code_and_message(status, out);
    out.push(b'}');
}

/// Appends the error that ends a stream: the last line of its answer.
pub fn put_stream_error(status: &Status, out: &mut Vec<u8>) {
    let http_code = status_of(status.code);
    out.extend_from_slice(b"{\"error\":{\"grpc_code\":");
    out.extend_from_slice(itoa::Buffer::new().format(status.code.number()).as_bytes());
    out.extend_from_slice(b",\"http_code\":");
    out.extend_from_slice(itoa::Buffer::new().format(http_code).as_bytes());
    out.extend_from_slice(b",\"http_status\":");
    put_text(reason(http_code), out);
    put_code_and_message(status, out);
    out.extend_from_slice(b"}}\n");
}

fn put_code_and_message(status: &Status, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"code\":");
    out.extend_from_slice(itoa::Buffer::new().format(status.code.number()).as_bytes());
    out.extend_from_slice(b",\"message\":");
    put_text(&status.message, out);
}

#[cfg(test)]
mod tests;

/// Appends the page `/version`: the version of etcd that this server answers like, and that of its storage. A cluster
/// has the version of its members without the last number.
pub fn put_version(server: &str, storage: &str, out: &mut Vec<u8>) {
    let mut numbers = server.split('.');
    let cluster = format!("{}.{}.0", numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
    out.extend_from_slice(b"{\"etcdserver\":");
    put_text(server, out);
    out.extend_from_slice(b",\"etcdcluster\":");
    put_text(&cluster, out);
    out.extend_from_slice(b",\"storage\":");
    put_text(storage, out);
    out.push(b'}');
}
