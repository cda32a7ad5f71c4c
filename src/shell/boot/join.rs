//! What a process with empty data asks the members it is told of, before anything else runs.
//!
//! To join (`--initial-cluster-state=existing`) it must learn who it is: the others know which member has
//! its addresses. To begin a cluster (`new`) it must make sure that it has not begun it before: a member
//! that lost its data and starts anew under its old id would have forgotten what it voted and
//! acknowledged.
//!
//! Blocking sockets, a thread for each address: no executor runs yet, and a name may take its time.
//! Bounds: `DIAL_TIMEOUT` and `ANSWER_TIMEOUT` an address, `ANSWER_BYTES_MAX` an answer; a join gives up
//! after `PATIENCE`.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use crossbeam::channel;
use prost::Message as _;

use crate::config::{Bootstrap, Url};
use crate::membership::{Cluster, Mismatch, find_joining};
use crate::pb::peer as pb;
use crate::peer::frame::put_message;
use crate::peer::{Frame, FrameDecoder, FrameKind, HANDSHAKE_BYTES_MAX, Identity, Lane, PREFACE, Refusal};
use crate::shell::net::addresses::Addresses;
use crate::shell::raft::CALL_MEMBERS;
use crate::types::{ClusterId, MemberId};

const DIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// From the connection to the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a process that wants to join asks when nobody answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same while somebody answers and the lists differ: a member that lags may not know of the change yet.
const MISMATCH_PATIENCE: Duration = Duration::from_secs(3);

/// How long names may be looked up in all, as in etcd.
pub(in crate::shell) const RESOLVE_PATIENCE: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(200);

/// A membership of a thousand members with a thousand bytes each.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Why a process with empty data does not start.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum JoinError {
    #[error(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs: {0}"
    )]
    NoAnswer(String),
    #[error("error validating peerURLs {members}: {mismatch}")]
    Mismatch { members: String, mismatch: Mismatch },
    #[error(
        "member {0} has already been bootstrapped: it belongs to the cluster and has run before, so its data was lost \
         or is elsewhere. Remove it from the cluster, add a new member, and start that with \
         --initial-cluster-state=existing"
    )]
    StartedBefore(MemberId),
    #[error(
        "member {0} has been removed from this cluster. Add a new member, and start that with \
         --initial-cluster-state=existing"
    )]
    Removed(MemberId),
    #[error("stopped while asking the members of --initial-cluster")]
    Interrupted,
}

/// Which member of which cluster this process is to be.
///
/// # Errors
/// [`JoinError`].
pub(in crate::shell) fn join(
    plan: &Bootstrap,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<(MemberId, Cluster), JoinError> {
    let started = Instant::now();
    let mut resolved = Addresses::until(started + RESOLVE_PATIENCE);
    loop {
        let (mut mismatched, mut failures) = (None, Vec::new());
        for (url, answer) in ask_all(&plan.others) {
            match answer {
                Ok(cluster) => {
                    let found = find_joining(&cluster, &plan.members, &plan.peer_urls, |a, b| {
                        resolved.are_same(a, b)
                    });
                    match found {
                        Ok(member) => {
                            tracing::info!(%member, cluster = %cluster.id(), asked = %url, "joining a cluster that runs");
                            return Ok((member, cluster));
                        }
                        Err(mismatch) => {
                            let is_final = matches!(mismatch, Mismatch::StartedBefore(_));
                            let members = describe(&cluster);
                            let error = JoinError::Mismatch { members, mismatch };
                            if is_final {
                                return Err(error);
                            }
                            mismatched = Some(error);
                        }
                    }
                }
                Err(reason) => failures.push(format!("{url}: {reason}")),
            }
        }
        let elapsed = started.elapsed();
        match mismatched {
            Some(error) if MISMATCH_PATIENCE <= elapsed => return Err(error),
            Some(_) => {}
            None => {
                let reasons = failures.join("; ");
                if PATIENCE <= elapsed {
                    return Err(JoinError::NoAnswer(reasons));
                }
                tracing::warn!(reasons, "no member of --initial-cluster answers yet");
            }
        }
        std::thread::sleep(PAUSE);
        if is_interrupted() {
            return Err(JoinError::Interrupted);
        }
    }
}

/// Whether this process may begin as a new member of a new cluster, as far as the others can tell. One
/// that does not answer tells nothing.
///
/// # Errors
/// When the member has run before.
pub(in crate::shell) fn check_new(
    others: &[Url],
    cluster: ClusterId,
    member: MemberId,
) -> Result<(), JoinError> {
    for (url, answer) in ask_all(others) {
        let Ok(known) = answer else { continue };
        if known.id() != cluster {
            tracing::error!(
                %url, its_cluster = %known.id(), our_cluster = %cluster,
                "a member of --initial-cluster belongs to another cluster; --initial-cluster and \
                 --initial-cluster-token must be the same on all members"
            );
        } else if known.is_removed(member) {
            return Err(JoinError::Removed(member));
        } else if known.member(member).is_some_and(|member| !member.name.is_empty()) {
            return Err(JoinError::StartedBefore(member));
        }
    }
    Ok(())
}

/// As etcd prints members, in brief.
fn describe(cluster: &Cluster) -> String {
    let members = cluster.members().map(|member| {
        let learner = if member.learner { " learner" } else { "" };
        format!("{} {:?} [{}]{learner}", member.id, member.name, member.peer_urls.join(" "))
    });
    format!("{{ClusterID:{} Members:[{}]}}", cluster.id(), members.collect::<Vec<_>>().join(", "))
}

/// Asks all at once; comes back with the answers as they come.
fn ask_all(urls: &[Url]) -> impl Iterator<Item = (Url, Result<Cluster, String>)> {
    let (answers, inbox) = channel::bounded(urls.len().max(1));
    for url in urls {
        let (url, answers) = (url.clone(), answers.clone());
        let asking = move || {
            let answer = ask(&url).map_err(|error| error.to_string());
            // Whoever asked may have heard enough.
            answers.send((url, answer)).ok();
        };
        if let Err(error) = std::thread::Builder::new().name("join".to_owned()).spawn(asking) {
            tracing::warn!(%error, "cannot start a thread to ask a member");
        }
    }
    let deadline = Instant::now() + DIAL_TIMEOUT + ANSWER_TIMEOUT;
    std::iter::from_fn(move || inbox.recv_deadline(deadline).ok())
}

/// Asks one member who the members are.
fn ask(url: &Url) -> io::Result<Cluster> {
    let mut failure = io::Error::other("the name has no address");
    for address in url.authority().to_socket_addrs()? {
        match ask_address(address) {
            Ok(cluster) => return Ok(cluster),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn ask_address(address: SocketAddr) -> io::Result<Cluster> {
    let stream = TcpStream::connect_timeout(&address, DIAL_TIMEOUT)?;
    stream.set_nodelay(true)?;
    let mut asking = Asking {
        stream,
        decoder: FrameDecoder::new(HANDSHAKE_BYTES_MAX),
        deadline: Instant::now() + ANSWER_TIMEOUT,
    };
    let nobody =
        Identity { cluster: ClusterId(0), member: MemberId(0), incarnation: 0, peer_urls: Vec::new() };
    let mut outbox = BytesMut::from(&PREFACE[..]);
    put_message(&mut outbox, FrameKind::Hello, &nobody.hello(MemberId(0), Lane::Call));
    asking.stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    asking.stream.write_all(&outbox)?;
    let welcome = asking.expect(FrameKind::Welcome)?;
    nobody.check_welcome(MemberId(0), welcome).map_err(io::Error::other)?;
    asking.decoder.set_payload_bytes_max(ANSWER_BYTES_MAX);
    outbox.clear();
    let timeout_ms = u32::try_from(ANSWER_TIMEOUT.as_millis()).expect("seconds");
    let request = pb::CallRequest { id: 1, kind: CALL_MEMBERS, timeout_ms, body: Bytes::new() };
    put_message(&mut outbox, FrameKind::CallRequest, &request);
    asking.stream.write_all(&outbox)?;
    let response = pb::CallResponse::decode(asking.expect(FrameKind::CallResponse)?)?;
    if response.code != 0 {
        return Err(io::Error::other(response.reason));
    }
    Cluster::decode(response.body).map_err(|error| io::Error::other(error.0))
}

/// One connection, up to its deadline.
struct Asking {
    stream: TcpStream,
    decoder: FrameDecoder,
    deadline: Instant,
}

impl Asking {
    /// The payload of the next frame, which must be of this kind.
    fn expect(&mut self, kind: FrameKind) -> io::Result<Bytes> {
        let frame = self.next_frame()?;
        match frame.kind {
            found if found == kind => Ok(frame.payload),
            FrameKind::Refusal | FrameKind::Goodbye => {
                Err(io::Error::other(format!("refused: {}", Refusal::from_wire(frame.payload))))
            }
            found => Err(io::Error::other(format!("{found:?} frame instead of a {kind:?}"))),
        }
    }

    fn next_frame(&mut self) -> io::Result<Frame> {
        let mut bytes = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.take().map_err(io::Error::other)? {
                return Ok(frame);
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.decoder.push(&bytes[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::peer::Greeting;
    use crate::peer::handshake::Acquaintance;

    fn members(own_url: &str, own_name: &str) -> Cluster {
        let record = |id: u64, name: &str, url: &str| pb::MemberRecord {
            id,
            name: name.to_owned(),
            peer_urls: vec![url.to_owned()],
            ..Default::default()
        };
        let members = vec![record(1, "one", "http://127.0.0.1:1"), record(2, own_name, own_url)];
        let wire = pb::Membership { cluster_id: 7, members, removed: vec![9] };
        Cluster::decode(wire.encode_to_vec().into()).unwrap()
    }

    /// A member that answers calls with these bytes, on as many connections as come.
    fn member(answer: impl Fn(&mut Asking) + Send + 'static) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let deadline = Instant::now() + ANSWER_TIMEOUT;
                let decoder = FrameDecoder::new(HANDSHAKE_BYTES_MAX);
                answer(&mut Asking { stream: stream.unwrap(), decoder, deadline });
            }
        });
        url
    }

    fn honest(cluster: Cluster) -> impl Fn(&mut Asking) + Send {
        move |asking| {
            let own = Identity {
                cluster: ClusterId(7),
                member: MemberId(1),
                incarnation: 1,
                peer_urls: Vec::new(),
            };
            let hello = Greeting::read(asking.expect(FrameKind::Hello).unwrap()).unwrap();
            let welcome = own.welcome(&hello, Acquaintance::default()).unwrap();
            let mut outbox = BytesMut::from(&PREFACE[..]);
            put_message(&mut outbox, FrameKind::Welcome, &welcome);
            asking.stream.write_all(&outbox).unwrap();
            let call = pb::CallRequest::decode(asking.expect(FrameKind::CallRequest).unwrap()).unwrap();
            assert_eq!(call.kind, CALL_MEMBERS);
            let body = Bytes::from(cluster.encode());
            outbox.clear();
            let answer = pb::CallResponse { id: call.id, body, ..Default::default() };
            put_message(&mut outbox, FrameKind::CallResponse, &answer);
            asking.stream.write_all(&outbox).unwrap();
        }
    }

    fn plan(others: Vec<Url>, lists: &[&str]) -> Bootstrap {
        Bootstrap {
            state: crate::config::InitialClusterState::Existing,
            members: lists.iter().map(|url| vec![(*url).to_owned()]).collect(),
            peer_urls: vec!["http://localhost:2".to_owned()],
            others,
            token: String::new(),
        }
    }

    #[test]
    fn first_member_that_answers_tells_who_the_process_is_whoever_else_is_silent_or_babbles() {
        let silent = member(|asking| std::thread::sleep(asking.deadline - Instant::now()));
        let babbling = member(|asking| drop(asking.stream.write_all(b"HTTP/1.1 400 Bad Request\r\n")));
        let refusing = member(|asking| {
            let mut outbox = BytesMut::from(&PREFACE[..]);
            let refusal = Refusal::new(crate::peer::RefusalCode::Busy, "too many");
            put_message(&mut outbox, FrameKind::Refusal, &refusal.to_wire());
            asking.stream.write_all(&outbox).unwrap();
        });
        let cluster = members("http://127.0.0.1:2", "");
        let good = member(honest(cluster.clone()));
        let others = vec![silent, babbling, refusing, good];
        // The names differ, the addresses do not.
        let plan = plan(others, &["http://localhost:1", "http://localhost:2"]);
        assert_eq!(join(&plan, &|| false).unwrap(), (MemberId(2), cluster));
    }

    #[test]
    fn nobody_there_is_an_error_that_names_each_address_and_a_signal_ends_the_asking() {
        let nobody = Url::parse("http://127.0.0.1:1").unwrap();
        let answers: Vec<_> = ask_all(&[nobody.clone(), nobody.clone()]).collect();
        assert_eq!(answers.len(), 2);
        assert!(answers.iter().all(|(url, answer)| *url == nobody && answer.is_err()));
        let result = join(&plan(vec![nobody], &["http://127.0.0.1:1"]), &|| true);
        assert!(matches!(result, Err(JoinError::Interrupted)));
    }

    #[test]
    fn member_that_has_run_before_neither_joins_nor_begins_again() {
        let cluster = members("http://127.0.0.1:2", "two");
        let url = member(honest(cluster));
        let plan = plan(vec![url.clone()], &["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        let error = join(&plan, &|| false).unwrap_err().to_string();
        assert!(
            error.starts_with("error validating peerURLs {ClusterID:") && error.contains("started before")
        );
        let others = [url];
        let begin = |cluster, id| check_new(&others, ClusterId(cluster), MemberId(id));
        assert!(matches!(begin(7, 2), Err(JoinError::StartedBefore(MemberId(2)))));
        assert!(matches!(begin(7, 9), Err(JoinError::Removed(MemberId(9)))));
        assert!(begin(7, 5).is_ok(), "nobody they know");
        assert!(begin(8, 2).is_ok(), "the handshake keeps clusters apart, and says so on both sides");
    }
}
