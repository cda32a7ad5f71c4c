//! Who may talk to whom: what the dialer says, and what the acceptor makes of it.
//!
//! The acceptor compares the Hello with its own [`PeerIdentity`] and with what it knows of the sender.
//! Both sides log a refusal, each with the same text, so that either operator finds the cause.
//!
//! A member id is used by one process at a time. Which one, its *incarnation* tells, which grows from
//! start to start: while connections of one incarnation are open, an older one is refused, and a
//! newer one replaces it, whichever side dialed. When none is open any incarnation is welcome, so a clock that
//! went back between two starts locks nobody out.
//!
//! A member says which format level it reads (`types::format`). One that does not read what the cluster
//! writes is refused before it is sent any of it; the leader raises the level once all read the next.
//!
//! This is no authentication: whoever reaches the peer port and knows the cluster's id can take part.
//! Compatibility: `VERSION_MIN` and `VERSION_MAX` are the versions of the conversation that this
//! version speaks; the highest common one is used. A field that the other side does not know is skipped by
//! it, and one that is missing is 0: release 0.1.0 says no format level and so reads level 0.

use bytes::Bytes;
use prost::Message as _;

use super::lane::Lane;
use crate::pb::peer as pb;
use crate::types::{ClusterId, FormatLevel, MemberId};

/// Oldest version of the conversation that this version speaks.
pub const VERSION_MIN: u32 = 1;

/// Newest one.
pub const VERSION_MAX: u32 = 1;

/// Largest payload before a connection is accepted.
pub const HANDSHAKE_BYTES_MAX: usize = 16 * 1024;

/// Longest text of another process that goes into our log, in bytes.
const TEXT_BYTES_MAX: usize = 512;

/// URLs that a Hello may tell, or a Welcome of another member.
pub const PEER_URLS_MAX: usize = 16;

/// What a Welcome tells of other members: half of what there is room for.
const MOVED_BYTES_MAX: usize = HANDSHAKE_BYTES_MAX / 2;

/// Why a connection is refused or ended. The numbers are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum RefusalCode {
    /// No common version of the conversation.
    Version = 1,
    OtherCluster = 2,
    /// The sender was removed from the cluster.
    Removed = 3,
    /// The acceptor is another member than the sender wanted.
    WrongRecipient = 4,
    /// The sender dialed itself.
    OwnConnection = 5,
    /// Another process runs as this member.
    DuplicateIdentity = 6,
    /// Not a Hello, or one that contradicts itself.
    Malformed = 7,
    /// The acceptor has as many connections as it takes.
    Busy = 8,
    /// The acceptor is about to stop.
    Stopping = 9,
    /// A newer connection took over.
    Replaced = 10,
    /// The receiver of a stream wants it no more, or its sender gives up.
    Aborted = 11,
    /// The cluster writes a format level that one of the two does not read.
    FormatLevel = 12,
    /// One of the two has begun anew since they met.
    OtherLife = 13,
    /// A code of a later version.
    Unknown = 0,
}

const CODES: [RefusalCode; 13] = [
    RefusalCode::Version,
    RefusalCode::OtherCluster,
    RefusalCode::Removed,
    RefusalCode::WrongRecipient,
    RefusalCode::OwnConnection,
    RefusalCode::DuplicateIdentity,
    RefusalCode::Malformed,
    RefusalCode::Busy,
    RefusalCode::Stopping,
    RefusalCode::Replaced,
    RefusalCode::Aborted,
    RefusalCode::FormatLevel,
    RefusalCode::OtherLife,
];

/// A no, with its reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    pub code: RefusalCode,
    pub reason: String,
}

impl Refusal {
    #[must_use]
    pub fn new(code: RefusalCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// Whether another process than the one that was looked for says no: its word is not that one's.
    #[must_use]
    pub fn is_of_stranger(&self) -> bool {
        matches!(
            self.code,
            RefusalCode::OtherCluster | RefusalCode::WrongRecipient | RefusalCode::OwnConnection
        )
    }

    /// As it is sent.
    #[must_use]
    pub fn to_wire(&self) -> pb::Refusal {
        pb::Refusal { code: self.code as u32, reason: shortened(self.reason.clone()) }
    }

    /// As it was received. What cannot be read is a refusal all the same.
    #[must_use]
    pub fn from_wire(payload: Bytes) -> Self {
        match pb::Refusal::decode(payload) {
            Ok(wire) => Self {
                code: CODES
                    .into_iter()
                    .find(|code| *code as u32 == wire.code)
                    .unwrap_or(RefusalCode::Unknown),
                reason: shortened(wire.reason),
            },
            Err(_) => Self::new(RefusalCode::Unknown, "refused without a readable reason"),
        }
    }
}

/// Who a process is, as it tells others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    pub cluster: ClusterId,
    /// 0: none yet.
    pub member: MemberId,
    pub incarnation: u64,
    /// Where it can be dialed.
    pub peer_urls: Vec<String>,
    /// The highest format level that it reads.
    pub format_level_max: FormatLevel,
}

/// The word to an older one of two processes that run as `member`, or about it.
#[must_use]
pub fn duplicate_of_newer(member: MemberId) -> Refusal {
    let reason = format!("a process that started later runs as member {member}");
    Refusal::new(RefusalCode::DuplicateIdentity, reason)
}

/// A Hello that has the right form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    pub from: PeerIdentity,
    /// 0: whoever is there.
    pub to: MemberId,
    pub lane: Lane,
    pub release: String,
    /// The dialer's name for this connection.
    pub session: u64,
    /// The sender's.
    pub life: u64,
    /// The one in which it has met the receiver.
    pub to_life: u64,
    /// The connection may be used both ways.
    pub is_duplex: bool,
    /// The name under which the receiver asked for the connection, to send a stream over it; 0: it did not.
    pub stream: u64,
    versions: (u32, u32),
}

/// An acceptor's knowledge of a Hello's sender, beside its own identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Acquaintance {
    pub is_removed: bool,
    /// Of the connections that are open.
    pub incarnation: Option<u64>,
    /// The cluster's, as far as the acceptor has applied it.
    pub format_level: FormatLevel,
}

impl PeerIdentity {
    /// The Hello to `to`, for a connection without a name, of a member without a life that speaks one way.
    #[must_use]
    pub fn hello(&self, to: MemberId, lane: Lane) -> pb::Hello {
        pb::Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            cluster_id: self.cluster.0,
            from: self.member.0,
            to: to.0,
            lane: u32::from(lane as u8),
            incarnation: self.incarnation,
            release: release().to_owned(),
            peer_urls: self.peer_urls.clone(),
            session: 0,
            life: 0,
            to_life: 0,
            duplex: false,
            stream: 0,
            format_level_max: self.format_level_max.0,
        }
    }

    /// Whether the sender of `hello` may talk to this process. The answer names no session, no life and no other
    /// member, and is for one way.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub fn welcome(&self, hello: &Greeting, known: Acquaintance) -> Result<pb::Welcome, Refusal> {
        let from = &hello.from;
        let refuse = |code, reason: String| Err(Refusal::new(code, reason));
        // First of all: in another version the rest might mean something else.
        let version = hello.versions.1.min(VERSION_MAX);
        if version < hello.versions.0.max(VERSION_MIN) {
            return refuse(
                RefusalCode::Version,
                format!(
                    "member {} speaks versions {} to {} of the peer protocol, this one {VERSION_MIN} to {VERSION_MAX}",
                    from.member, hello.versions.0, hello.versions.1
                ),
            );
        }
        let is_nobody = from.member == MemberId(0);
        let is_bound = !is_nobody || from.cluster != ClusterId(0);
        if is_bound && from.cluster != self.cluster {
            return refuse(
                RefusalCode::OtherCluster,
                format!("cluster ID mismatch: {} is not {}", from.cluster, self.cluster),
            );
        }
        if known.is_removed {
            return refuse(
                RefusalCode::Removed,
                format!("member {} has been removed from the cluster", from.member),
            );
        }
        if hello.to != MemberId(0) && hello.to != self.member {
            return refuse(
                RefusalCode::WrongRecipient,
                format!(
                    "this is member {}, not {}: the name or address where {} is looked for leads here. Correct the \
                     name, or tell the cluster where that member is (member update)",
                    self.member, hello.to, hello.to
                ),
            );
        }
        if from.member == self.member {
            return if from.incarnation == self.incarnation {
                refuse(
                    RefusalCode::OwnConnection,
                    format!("member {} dialed itself: two members share a peer URL", from.member),
                )
            } else {
                refuse(
                    RefusalCode::DuplicateIdentity,
                    format!("another process runs as member {}", from.member),
                )
            };
        }
        if !is_nobody && known.incarnation.is_some_and(|known| from.incarnation < known) {
            return Err(duplicate_of_newer(from.member));
        }
        // A process without identity may ask who the members are, whatever it reads: a member that lost its
        // data must hear that it has run before. One that joins looks at the Welcome's level itself.
        if !is_nobody {
            check_format_level(from.member, &hello.release, from.format_level_max, known.format_level)?;
        }
        Ok(pb::Welcome {
            version,
            cluster_id: self.cluster.0,
            member: self.member.0,
            incarnation: self.incarnation,
            release: release().to_owned(),
            session: 0,
            life: 0,
            duplex: false,
            format_level_max: self.format_level_max.0,
            format_level: known.format_level.0,
            moved: Vec::new(),
        })
    }

    /// Whether the answer to our Hello comes from whom we wanted, and from a member that reads the cluster's
    /// format level as this process has applied it.
    ///
    /// # Errors
    /// Why not. An acceptor that follows these rules gives cause only by its release.
    pub fn check_welcome(
        &self,
        to: MemberId,
        format_level: FormatLevel,
        payload: Bytes,
    ) -> Result<pb::Welcome, Refusal> {
        let refuse = |code, reason: String| Err(Refusal::new(code, reason));
        let welcome = match pb::Welcome::decode(payload) {
            Ok(welcome) => welcome,
            Err(error) => return refuse(RefusalCode::Malformed, format!("Welcome does not decode: {error}")),
        };
        if !(VERSION_MIN..=VERSION_MAX).contains(&welcome.version) {
            return refuse(
                RefusalCode::Version,
                format!("welcomed in version {} of the peer protocol", welcome.version),
            );
        }
        if self.cluster != ClusterId(0) && welcome.cluster_id != self.cluster.0 {
            return refuse(
                RefusalCode::OtherCluster,
                format!("cluster ID mismatch: {} is not {}", ClusterId(welcome.cluster_id), self.cluster),
            );
        }
        if to != MemberId(0) && welcome.member != to.0 {
            return refuse(
                RefusalCode::WrongRecipient,
                format!(
                    "member {} answered, not {to}: the name or address where {to} is looked for leads there",
                    MemberId(welcome.member)
                ),
            );
        }
        let reads = FormatLevel(welcome.format_level_max);
        check_format_level(MemberId(welcome.member), &welcome.release, reads, format_level)?;
        Ok(welcome)
    }
}

/// The URLs that members have told, for a Welcome. Members for which there is no room are left out.
#[must_use]
pub fn moved_to_wire(moved: impl IntoIterator<Item = (MemberId, Vec<String>)>) -> Vec<pb::Whereabouts> {
    let mut room = MOVED_BYTES_MAX;
    let mut wire = Vec::new();
    for (member, mut peer_urls) in moved {
        peer_urls.truncate(PEER_URLS_MAX);
        let whereabouts = pb::Whereabouts { member: member.0, peer_urls };
        // Its key and length come on top.
        let bytes = whereabouts.encoded_len() + 4;
        if bytes <= room {
            room -= bytes;
            wire.push(whereabouts);
        }
    }
    wire
}

/// Where the acceptor says that other members are, as they have told it.
pub fn moved_from_wire(welcome: &pb::Welcome) -> impl Iterator<Item = (MemberId, &[String])> {
    welcome.moved.iter().map(|whereabouts| {
        let count = whereabouts.peer_urls.len().min(PEER_URLS_MAX);
        (MemberId(whereabouts.member), &whereabouts.peer_urls[..count])
    })
}

/// Whether a member that reads up to `reads` may take part in a cluster at `level`.
fn check_format_level(
    member: MemberId,
    release: &str,
    reads: FormatLevel,
    level: FormatLevel,
) -> Result<(), Refusal> {
    if level <= reads {
        return Ok(());
    }
    let reason = format!(
        "the cluster writes format level {level}, and member {member}, of release {release}, reads up to {reads}. \
         Update that member's binary first, to {}; if it is, its --format-level-max is too low",
        level.releases()
    );
    Err(Refusal::new(RefusalCode::FormatLevel, reason))
}

impl Greeting {
    /// Reads a Hello.
    ///
    /// # Errors
    /// When it has not the form of one; what its numbers mean to the receiver is `welcome`'s business.
    pub fn read(payload: Bytes) -> Result<Self, Refusal> {
        let malformed = |reason: String| Refusal::new(RefusalCode::Malformed, reason);
        let hello = pb::Hello::decode(payload)
            .map_err(|error| malformed(format!("Hello does not decode: {error}")))?;
        let versions = (hello.version_min, hello.version_max);
        if versions.0 == 0 || versions.1 < versions.0 {
            return Err(malformed("Hello without a range of versions".to_owned()));
        }
        let lane = Lane::from_number(hello.lane)
            .ok_or_else(|| malformed(format!("lane {} is unknown", hello.lane)))?;
        if hello.peer_urls.len() > PEER_URLS_MAX {
            return Err(malformed(format!("{} peer URLs", hello.peer_urls.len())));
        }
        if hello.from == 0 && lane != Lane::Call {
            return Err(malformed("only a member may do more than call".to_owned()));
        }
        if hello.to == 0 && lane != Lane::Call {
            return Err(malformed("only a call may be for whoever is there".to_owned()));
        }
        if hello.stream != 0 && lane != Lane::Bulk {
            return Err(malformed(format!("a stream on the lane {lane:?}")));
        }
        if hello.from != 0 && hello.cluster_id == 0 {
            return Err(malformed("a member without a cluster".to_owned()));
        }
        Ok(Self {
            from: PeerIdentity {
                cluster: ClusterId(hello.cluster_id),
                member: MemberId(hello.from),
                incarnation: hello.incarnation,
                peer_urls: hello.peer_urls,
                format_level_max: FormatLevel(hello.format_level_max),
            },
            to: MemberId(hello.to),
            lane,
            release: shortened(hello.release),
            session: hello.session,
            life: hello.life,
            to_life: hello.to_life,
            is_duplex: hello.duplex,
            stream: hello.stream,
            versions,
        })
    }
}

fn release() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Cuts a text that another process chose.
fn shortened(mut text: String) -> String {
    if TEXT_BYTES_MAX < text.len() {
        let end = (0..=TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
