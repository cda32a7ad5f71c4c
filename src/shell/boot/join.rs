//! What a process with empty data asks the members it is told of, before anything else runs.
//!
//! To join (`--initial-cluster-state=existing`) it must learn who it is: the others know which member has
//! its addresses. To begin a cluster (`new`) it must make sure that it has not begun it before: a member
//! that lost its data and starts anew under its old id would have forgotten what it voted and
//! acknowledged.
//!
//! Bounds: `DIAL_TIMEOUT` and `ANSWER_TIMEOUT` an address, `ANSWER_BYTES_MAX` an answer; a join gives up
//! after `PATIENCE`.

use std::io;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_lite::io::{AsyncReadExt as _, AsyncWriteExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use prost::Message as _;

use crate::config::{Bootstrap, Url};
use crate::membership::{Cluster, Mismatch, find_joining};
use crate::pb::peer as pb;
use crate::peer::frame::put_message;
use crate::peer::{
    Frame, FrameDecoder, FrameKind, HANDSHAKE_BYTES_MAX, Lane, PREFACE, PeerIdentity, Refusal,
};
use crate::shell::net::addresses::{Addresses, RESOLVE_PATIENCE};
use crate::shell::net::tls::TlsConnector;
use crate::shell::net::{Dialer, Stream, within};
use crate::shell::raft::CALL_MEMBERS;
use crate::shell::runtime::waiting::Waiting;
use crate::types::{ClusterId, FormatLevel, MemberId};

const DIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// From the connection to the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a process that wants to join asks when nobody answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same while somebody answers and the lists differ: a member that lags may not know of the change yet.
const MISMATCH_PATIENCE: Duration = Duration::from_secs(3);

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
    #[error(
        "the cluster writes format level {level}, and this process reads up to {level_max}: start {} \
         as the new member, without a lower --format-level-max", level.releases()
    )]
    FormatLevel { level: FormatLevel, level_max: FormatLevel },
    #[error("stopped while asking the members of --initial-cluster")]
    Interrupted,
}

/// Which member of which cluster this process is to be.
///
/// # Errors
/// [`JoinError`].
pub(in crate::shell) async fn join(
    plan: &Bootstrap,
    tls: Option<&TlsConnector>,
    level_max: FormatLevel,
    waiting: &Waiting,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<(MemberId, Cluster), JoinError> {
    let started = Instant::now();
    let mut is_told = false;
    waiting.on("the members of --initial-cluster are asked who belongs to the cluster");
    let mut resolved = Addresses::until(started + RESOLVE_PATIENCE);
    loop {
        let (mut mismatched, mut failures) = (None, Vec::new());
        let mut answers = ask_all(&plan.others, tls);
        while let Some((url, answer)) = answers.next().await {
            match answer {
                Ok((_, level)) if level_max < level => {
                    return Err(JoinError::FormatLevel { level, level_max });
                }
                Ok((cluster, _)) => {
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
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(reasons, "no member of --initial-cluster answers yet");
                }
                waiting.on(format!("no member of --initial-cluster answers yet: {reasons}"));
            }
        }
        glommio::timer::sleep(PAUSE).await;
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
pub(in crate::shell) async fn check_new(
    others: &[Url],
    tls: Option<&TlsConnector>,
    cluster: ClusterId,
    member: MemberId,
) -> Result<(), JoinError> {
    let mut answers = ask_all(others, tls);
    while let Some((url, answer)) = answers.next().await {
        let Ok((known, _)) = answer else { continue };
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

/// The other members with a vote that answer and count `own` among the members, by name.
pub(in crate::shell) async fn answering(
    cluster: &Cluster,
    own: MemberId,
    tls: Option<&TlsConnector>,
) -> Vec<String> {
    let mut names = Vec::new();
    let mut asked: FuturesUnordered<_> = cluster
        .members()
        .filter(|member| member.id != own && !member.learner)
        .map(|member| {
            let urls: Vec<Url> = member.peer_urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
            async move {
                let mut answers = ask_all(&urls, tls);
                while let Some((_, answer)) = answers.next().await {
                    if answer
                        .is_ok_and(|(known, _)| known.id() == cluster.id() && known.member(own).is_some())
                    {
                        return Some(format!("{} {}", member.id, member.name));
                    }
                }
                None
            }
        })
        .collect();
    while let Some(answer) = asked.next().await {
        names.extend(answer);
    }
    names.sort();
    names
}

/// As etcd prints members, in brief.
fn describe(cluster: &Cluster) -> String {
    let members = cluster.members().map(|member| {
        let learner = if member.learner { " learner" } else { "" };
        format!("{} {:?} [{}]{learner}", member.id, member.name, member.peer_urls.join(" "))
    });
    format!("{{ClusterID:{} Members:[{}]}}", cluster.id(), members.collect::<Vec<_>>().join(", "))
}

/// What a member says: who the members are, and what they write.
type Told = (Cluster, FormatLevel);

/// Asks all at once; the answers come as they arrive.
fn ask_all(
    urls: &[Url],
    tls: Option<&TlsConnector>,
) -> FuturesUnordered<impl Future<Output = (Url, Result<Told, String>)> + use<>> {
    let ask = |url: &Url| {
        let (url, tls) = (url.clone(), tls.cloned());
        async move {
            let dialer = Dialer::new(DIAL_TIMEOUT, tls);
            let asked = async { dialer.dial(&url, async |stream| ask(stream).await).await };
            let answer = within(DIAL_TIMEOUT + ANSWER_TIMEOUT, asked).await;
            (url, answer.map_err(|error: io::Error| error.to_string()))
        }
    };
    urls.iter().map(ask).collect()
}

/// Asks one member who the members are.
async fn ask(stream: Stream) -> io::Result<Told> {
    stream.set_nodelay()?;
    let mut asking = Asking { stream, decoder: FrameDecoder::new(HANDSHAKE_BYTES_MAX) };
    within(ANSWER_TIMEOUT, asking.members()).await
}

/// One connection.
struct Asking {
    stream: Stream,
    decoder: FrameDecoder,
}

impl Asking {
    async fn members(&mut self) -> io::Result<Told> {
        let nobody = PeerIdentity {
            cluster: ClusterId(0),
            member: MemberId(0),
            incarnation: 0,
            peer_urls: Vec::new(),
            format_level_max: FormatLevel::HIGHEST,
        };
        let mut outbox = BytesMut::from(&PREFACE[..]);
        put_message(&mut outbox, FrameKind::Hello, &nobody.hello(MemberId(0), Lane::Call));
        self.stream.write_all(&outbox).await?;
        let welcome = self.expect(FrameKind::Welcome).await?;
        let welcome = nobody.check_welcome(MemberId(0), FormatLevel::LOWEST, welcome);
        let level = FormatLevel(welcome.map_err(io::Error::other)?.format_level);
        self.decoder.set_payload_bytes_max(ANSWER_BYTES_MAX);
        outbox.clear();
        let timeout_ms = u32::try_from(ANSWER_TIMEOUT.as_millis()).expect("seconds");
        let request = pb::CallRequest { id: 1, kind: CALL_MEMBERS, timeout_ms, body: Bytes::new() };
        put_message(&mut outbox, FrameKind::CallRequest, &request);
        self.stream.write_all(&outbox).await?;
        let response = pb::CallResponse::decode(self.expect(FrameKind::CallResponse).await?)?;
        if response.code != 0 {
            return Err(io::Error::other(response.reason));
        }
        let cluster = Cluster::decode(response.body).map_err(|error| io::Error::other(error.0))?;
        Ok((cluster, level))
    }

    /// The payload of the next frame, which must be of this kind.
    async fn expect(&mut self, kind: FrameKind) -> io::Result<Bytes> {
        let frame = self.next_frame().await?;
        match frame.kind {
            found if found == kind => Ok(frame.payload),
            FrameKind::Refusal | FrameKind::Goodbye => {
                Err(io::Error::other(format!("refused: {}", Refusal::from_wire(frame.payload))))
            }
            found => Err(io::Error::other(format!("{found:?} frame instead of a {kind:?}"))),
        }
    }

    async fn next_frame(&mut self) -> io::Result<Frame> {
        let mut bytes = vec![0; 4096];
        loop {
            if let Some(frame) = self.decoder.take().map_err(io::Error::other)? {
                return Ok(frame);
            }
            match self.stream.read(&mut bytes).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.decoder.push(&bytes[..read]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::peer::Greeting;
    use crate::peer::handshake::Acquaintance;
    use crate::shell::runtime::aside::run_aside;

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

    /// A member that speaks by blocking sockets.
    struct Member {
        stream: TcpStream,
        decoder: FrameDecoder,
    }

    impl Member {
        fn expect(&mut self, kind: FrameKind) -> Bytes {
            let mut bytes = [0; 4096];
            loop {
                if let Some(frame) = self.decoder.take().unwrap() {
                    assert_eq!(frame.kind, kind);
                    return frame.payload;
                }
                let read = self.stream.read(&mut bytes).unwrap();
                assert_ne!(read, 0, "the other side has gone");
                self.decoder.push(&bytes[..read]);
            }
        }

        fn say(&mut self, kind: FrameKind, message: &impl prost::Message) {
            let mut outbox = BytesMut::new();
            put_message(&mut outbox, kind, message);
            self.stream.write_all(&outbox).unwrap();
        }
    }

    /// A member that does this with each connection.
    fn member(answer: impl Fn(&mut Member) + Send + 'static) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                answer(&mut Member { stream, decoder: FrameDecoder::new(HANDSHAKE_BYTES_MAX) });
            }
        });
        url
    }

    fn honest(cluster: Cluster) -> impl Fn(&mut Member) + Send {
        move |member| {
            let own = PeerIdentity {
                cluster: ClusterId(7),
                member: MemberId(1),
                incarnation: 1,
                peer_urls: Vec::new(),
                format_level_max: FormatLevel::HIGHEST,
            };
            let hello = Greeting::read(member.expect(FrameKind::Hello)).unwrap();
            let welcome = own.welcome(&hello, Acquaintance::default()).unwrap();
            member.stream.write_all(&PREFACE[..]).unwrap();
            member.say(FrameKind::Welcome, &welcome);
            let call = pb::CallRequest::decode(member.expect(FrameKind::CallRequest)).unwrap();
            assert_eq!(call.kind, CALL_MEMBERS);
            let body = Bytes::from(cluster.encode());
            member
                .say(FrameKind::CallResponse, &pb::CallResponse { id: call.id, body, ..Default::default() });
        }
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        run_aside(work).unwrap()
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
        let silent = member(|member| drop(member.stream.read_to_end(&mut Vec::new())));
        let babbling = member(|member| drop(member.stream.write_all(b"HTTP/1.1 400 Bad Request\r\n")));
        let refusing = member(|member| {
            let refusal = Refusal::new(crate::peer::RefusalCode::Busy, "too many");
            member.stream.write_all(&PREFACE[..]).unwrap();
            member.say(FrameKind::Refusal, &refusal.to_wire());
        });
        let cluster = members("http://127.0.0.1:2", "");
        let good = member(honest(cluster.clone()));
        let others = vec![silent, babbling, refusing, good];
        // The names differ, the addresses do not.
        let plan = plan(others, &["http://localhost:1", "http://localhost:2"]);
        assert_eq!(
            run(join(&plan, None, FormatLevel::HIGHEST, &Waiting::default(), &|| false)).unwrap(),
            (MemberId(2), cluster)
        );
    }

    #[test]
    fn nobody_there_is_an_error_that_names_each_address_and_a_signal_ends_the_asking() {
        let nobody = Url::parse("http://127.0.0.1:1").unwrap();
        let answers: Vec<_> = run(ask_all(&[nobody.clone(), nobody.clone()], None).collect());
        assert_eq!(answers.len(), 2);
        assert!(answers.iter().all(|(url, answer)| *url == nobody && answer.is_err()));
        let plan = plan(vec![nobody], &["http://127.0.0.1:1"]);
        let result = run(join(&plan, None, FormatLevel::HIGHEST, &Waiting::default(), &|| true));
        assert!(matches!(result, Err(JoinError::Interrupted)));
    }

    #[test]
    fn member_that_has_run_before_neither_joins_nor_begins_again() {
        let cluster = members("http://127.0.0.1:2", "two");
        let url = member(honest(cluster));
        let plan = plan(vec![url.clone()], &["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        let error = run(join(&plan, None, FormatLevel::HIGHEST, &Waiting::default(), &|| false))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("error validating peerURLs {ClusterID:") && error.contains("started before")
        );
        let others = [url];
        let begin = |cluster, id| run(check_new(&others, None, ClusterId(cluster), MemberId(id)));
        assert!(matches!(begin(7, 2), Err(JoinError::StartedBefore(MemberId(2)))));
        assert!(matches!(begin(7, 9), Err(JoinError::Removed(MemberId(9)))));
        assert!(begin(7, 5).is_ok(), "nobody they know");
        assert!(begin(8, 2).is_ok(), "the handshake keeps clusters apart, and says so on both sides");
    }
}
