//! The beginning of a connection: bytes between socket and helper threads until both sides have agreed.
//!
//! Until the first record is whole, a connection is its socket and a few bytes: who opens many and says nothing costs
//! no more than without TLS. Each step runs on a helper thread; they are counted, so that a hello in a thousand
//! pieces does not get a thousand steps.
//!
//! Bounds: `PATIENCE` for all of it, `STEPS_MAX` steps, one record of bytes that are not whole.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::io::{AsyncReadExt as _, AsyncWriteExt as _};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ServerConnection};

use super::certificate::Facts;
use super::credentials::Credentials;
use super::handshakes::{Crowded, Handshakes};
use super::remote_name;
use super::session::Session;
use crate::config::Url;
use crate::shell::net::remote::Remote;
use crate::shell::net::stream::Stream;
use crate::shell::net::within::{TimedOut, within};
use crate::types::{FirstBytes, whole_tls_records};

/// For a whole handshake, as in etcd.
const PATIENCE: Duration = Duration::from_secs(10);

/// Steps of one handshake. Four or five are usual.
const STEPS_MAX: usize = 64;

/// What every handshake begins with.
const HANDSHAKE_RECORD: u8 = 22;

/// What Go's server answers to HTTP on a port for HTTPS.
const HTTP_ON_HTTPS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum HandshakeError {
    /// Closed before it said anything: a probe of the port.
    #[error("closed without a word")]
    Silent,
    /// Closed in the middle.
    #[error("closed in the middle of the handshake")]
    Cut,
    #[error("{0}; this address is for TLS")]
    NotTls(&'static str),
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
    #[error("tls: {0}")]
    Refused(String),
    #[error("too many handshakes wait; try again")]
    Crowded,
    #[error("the handshake is cut into too many pieces")]
    Pieces,
    #[error("the handshake took more than {} s", PATIENCE.as_secs())]
    Slow,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Crowded> for HandshakeError {
    fn from(Crowded: Crowded) -> Self {
        Self::Crowded
    }
}

impl From<TimedOut> for HandshakeError {
    fn from(_: TimedOut) -> Self {
        Self::Slow
    }
}

impl HandshakeError {
    /// Which cause it is, for whoever tells each once in a while.
    pub(in crate::shell) fn kind(&self) -> u8 {
        match self {
            Self::Silent => 0,
            Self::Cut => 1,
            Self::NotTls(_) => 2,
            Self::Tls(rustls::Error::InvalidCertificate(_)) => 3,
            Self::Tls(rustls::Error::AlertReceived(_)) => 4,
            Self::Tls(_) => 5,
            Self::Refused(_) => 6,
            Self::Crowded => 7,
            Self::Pieces => 8,
            Self::Slow => 9,
            Self::Io(_) => 10,
        }
    }
}

/// Whether a connection that begins so speaks TLS.
pub(in crate::shell) fn is_tls(first: u8) -> bool {
    first == HANDSHAKE_RECORD
}

/// What a step comes to.
struct Stepped {
    tls: Connection,
    /// For the other side, even if it failed.
    out: Vec<u8>,
    result: Result<(), rustls::Error>,
}

/// Has `tls` take `input`.
fn step(mut tls: Connection, input: &[u8]) -> Stepped {
    let mut rest = input;
    let mut result = Ok(());
    while !rest.is_empty() && result.is_ok() {
        result = match tls.read_tls(&mut rest) {
            Ok(0) => break,
            Ok(_) => tls.process_new_packets().map(|_state| ()),
            // No calls come before the handshake is done, and then no more than a read brings.
            Err(_) => Err(rustls::Error::General("too much was sent behind the handshake".to_owned())),
        };
    }
    let mut out = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut out).expect("memory takes all bytes");
    }
    Stepped { tls, out, result }
}

/// Takes the whole records from the beginning of what has come. What is left begins with the head of the next one:
/// taken along, it would leave its other half behind, whose first bytes tell no length.
fn take_records(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let whole = whole_tls_records(input);
    if whole == 0 {
        return None;
    }
    let rest = input.split_off(whole);
    Some(std::mem::replace(input, rest))
}

/// Gives `tls` the beginning of a record that came along with the end of its handshake.
fn keep(tls: &mut Connection, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() && 0 < tls.read_tls(&mut rest)? {}
    Ok(())
}

/// Carries a handshake to its end. `begin` makes the connection when the first record of the other side is there; a
/// side that speaks first has made it already.
async fn carry(
    stream: &mut Stream,
    handshakes: &Handshakes,
    mut begun: Option<Connection>,
    mut input: Vec<u8>,
    begin: impl Fn() -> Result<Connection, HandshakeError>,
) -> Result<Connection, HandshakeError> {
    let mut piece = vec![0; 4096];
    for _ in 0..STEPS_MAX {
        // Who speaks first has nothing to hear before.
        let speaks = input.is_empty() && begun.as_ref().is_some_and(|begun| begun.wants_write());
        let taken = loop {
            if speaks {
                break Vec::new();
            }
            if let Some(taken) = take_records(&mut input) {
                break taken;
            }
            let n = stream.read(&mut piece).await?;
            if n == 0 {
                return Err(if input.is_empty() && begun.is_none() {
                    HandshakeError::Silent
                } else {
                    HandshakeError::Cut
                });
            }
            input.extend_from_slice(&piece[..n]);
            if begun.is_none() && !is_tls(input[0]) {
                return Err(refuse_plain(stream, &input).await);
            }
        };
        let tls = match begun.take() {
            Some(tls) => tls,
            None => begin()?,
        };
        let Stepped { mut tls, out, result } = handshakes.run(move || step(tls, &taken)).await?;
        if !out.is_empty() {
            let written = stream.write_all(&out).await;
            // What was wrong with it says more than that it has left.
            result.clone()?;
            written?;
        }
        result?;
        if !tls.is_handshaking() {
            keep(&mut tls, &input)?;
            return Ok(tls);
        }
        begun = Some(tls);
    }
    Err(HandshakeError::Pieces)
}

/// Whoever does not speak TLS is told so in its own language, if it is HTTP/1.
async fn refuse_plain(stream: &mut Stream, input: &[u8]) -> HandshakeError {
    let spoken = FirstBytes::judge(input);
    if spoken == Some(FirstBytes::Http1) {
        // It may have left.
        stream.write_all(HTTP_ON_HTTPS).await.ok();
        stream.shut_write();
        // Closing a socket with unread bytes would reset it, and the answer be lost.
        let mut rest = [0; 1024];
        let drained = async {
            for _ in 0..64 {
                if !matches!(stream.read(&mut rest).await, Ok(1..)) {
                    break;
                }
            }
            Ok::<(), TimedOut>(())
        };
        within(Duration::from_millis(500), drained).await.ok();
    }
    HandshakeError::NotTls(match spoken {
        Some(FirstBytes::Http1) => "HTTP without TLS",
        Some(FirstBytes::Http2) => "HTTP/2 without TLS",
        _ => "bytes that are no TLS",
    })
}

/// The side that was dialed.
#[derive(Debug, Clone)]
pub(in crate::shell) struct TlsAcceptor {
    credentials: Arc<Credentials>,
    handshakes: Handshakes,
    /// Certificates must be for the address that they come from. A unix socket has none, and nothing to compare.
    checks_address: bool,
}

impl TlsAcceptor {
    pub(in crate::shell) fn new(
        credentials: Arc<Credentials>,
        handshakes: Handshakes,
        checks_address: bool,
    ) -> Self {
        Self { credentials, handshakes, checks_address }
    }

    /// The same, which holds certificates against the address that they come from.
    pub(in crate::shell) fn checking_address(&self) -> Self {
        Self { checks_address: true, ..self.clone() }
    }

    /// Does the handshake on a socket that was accepted, of which `first` was read already.
    ///
    /// # Errors
    /// The connection is over.
    pub(in crate::shell) async fn accept(
        &self,
        mut stream: Stream,
        first: Vec<u8>,
    ) -> Result<Stream, HandshakeError> {
        let remote = stream.remote().ok().and_then(Remote::ip);
        let work = async {
            let begin = || {
                let config = self.credentials.server();
                let no_certificate = || HandshakeError::Refused("this side has no certificate".to_owned());
                let config = config.ok_or_else(no_certificate)?;
                Ok(Connection::Server(ServerConnection::new(config)?))
            };
            let tls = carry(&mut stream, &self.handshakes, None, first, begin).await?;
            let leaf = tls.peer_certificates().and_then(<[_]>::first);
            // A session that is resumed shows the certificate of its beginning, which may be over by now.
            let facts = leaf.map(Facts::read).transpose().map_err(HandshakeError::Refused)?;
            let facts = facts.map(Arc::new);
            if let Some(facts) = &facts {
                facts.check_dates().map_err(HandshakeError::Refused)?;
                self.check_address(facts, remote).await?;
            }
            Ok::<_, HandshakeError>((tls, facts))
        };
        let (tls, facts) = within(PATIENCE, work).await?;
        let facts = facts.filter(|_| self.credentials.names_users());
        let name = facts.map(|facts| Rc::from(facts.common_name.as_deref().unwrap_or_default()));
        Ok(stream.secured(Session::new(tls), name))
    }

    async fn check_address(&self, facts: &Arc<Facts>, remote: Option<IpAddr>) -> Result<(), HandshakeError> {
        let Some(remote) = remote.filter(|_| self.checks_address) else { return Ok(()) };
        if facts.has_no_names() || facts.ips.contains(&remote) {
            return Ok(());
        }
        let facts = Arc::clone(facts);
        let checked = self.handshakes.run_apart(move || remote_name::check(&facts, remote)).await?;
        checked.map_err(HandshakeError::Refused)
    }
}

/// The side that dials.
#[derive(Debug, Clone)]
pub(in crate::shell) struct TlsConnector {
    credentials: Arc<Credentials>,
    handshakes: Handshakes,
}

impl TlsConnector {
    pub(in crate::shell) fn new(credentials: Arc<Credentials>, handshakes: Handshakes) -> Self {
        Self { credentials, handshakes }
    }

    /// Does the handshake with whoever answers at `url`.
    ///
    /// # Errors
    /// The connection is over.
    pub(in crate::shell) async fn connect(
        &self,
        url: &Url,
        mut stream: Stream,
    ) -> Result<Stream, HandshakeError> {
        let host = self.credentials.server_name().map_or_else(|| url.host(), str::to_owned);
        let name = ServerName::try_from(host.clone())
            .map_err(|_| HandshakeError::Refused(format!("{host:?} cannot be in a certificate")))?;
        let tls = Connection::Client(ClientConnection::new(self.credentials.client(), name)?);
        let never = || Err(HandshakeError::Cut);
        let work = carry(&mut stream, &self.handshakes, Some(tls), Vec::new(), never);
        let tls = within(PATIENCE, work).await?;
        Ok(stream.secured(Session::new(tls), None))
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
