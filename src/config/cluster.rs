//! What all members of a cluster must be started with alike.
//!
//! Two members that disagree here would derive different ids, elect at different speeds, or answer
//! the same request differently.
//!
//! Invariant of every value that `read` returns: `election_ms >= 5 * heartbeat_ms`, both above zero.
//! Compatibility: names, defaults, bounds and most texts are etcd's.

use super::discovery::InitialCluster;
use super::member_urls::MemberUrls;
use super::parse::{Refused, Settings};
use super::process::ProcessConfig;
use super::url::Url;

/// Largest `--max-request-bytes`. A request is in memory several times on its way (`ARCHITECTURE.md`, "What is
/// bounded, and where"), and two of the largest have to fit those bounds.
pub const REQUEST_BYTES_MAX_LIMIT: u32 = 64 * 1024 * 1024;

/// `--max-request-bytes` above which there is a warning, etcd's.
const REQUEST_BYTES_RECOMMENDED: u32 = 10 * 1024 * 1024;

/// Largest `--max-txn-ops`: with larger ones a single request would hold the store for too long.
pub const TXN_OPS_MAX_LIMIT: u32 = 65_536;

/// Largest `--election-timeout`, etcd's.
pub const ELECTION_MS_MAX: u32 = 50_000;

/// Largest `--max-learners`: members are counted by hand.
pub const LEARNERS_MAX_LIMIT: u32 = 1_000;

/// The same on all members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    pub initial_cluster: InitialCluster,
    pub initial_cluster_state: InitialClusterState,
    /// Goes into member and cluster ids.
    pub initial_cluster_token: String,
    /// One raft tick.
    pub heartbeat_ms: u32,
    pub election_ms: u32,
    /// The two above, where they were not given, are those of `--low-latency`.
    pub low_latency: bool,
    pub pre_vote: bool,
    /// Refuse membership changes that could cost the quorum.
    pub strict_reconfig_check: bool,
    /// Learners that the cluster may have when one is added here. Of the member that is asked.
    pub learners_max: u32,
    /// Go on as a cluster of this member alone.
    pub force_new_cluster: bool,
    /// The same although a quorum answers.
    pub force_new_cluster_against_quorum: bool,
    /// Operations of one transaction level at most.
    pub txn_ops_max: u32,
    /// Encoded write request at most.
    pub request_bytes_max: u32,
}

/// `--initial-cluster-state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialClusterState {
    New,
    Existing,
}

/// Who begins a cluster, wherever that was read.
#[derive(Debug, Clone, Copy)]
pub struct FirstMembers<'a> {
    pub members: &'a MemberUrls,
    /// Goes into member and cluster ids.
    pub token: &'a str,
    /// What to blame when they are wrong.
    pub source: &'a str,
}

/// What a member that has no data yet begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    pub state: InitialClusterState,
    /// The peer URLs of each member that is listed.
    pub members: Vec<Vec<String>>,
    /// This member's as they are listed, sorted as etcd sorts them before hashing.
    pub peer_urls: Vec<String>,
    /// Those of the others, to ask them.
    pub others: Vec<Url>,
    pub token: String,
}

impl ClusterConfig {
    pub(super) fn read(settings: &Settings, process: &ProcessConfig) -> Result<Self, Refused> {
        Ok(Self {
            initial_cluster: InitialCluster::read(settings, process)?,
            initial_cluster_state: settings.word(
                "initial-cluster-state",
                &[("new", InitialClusterState::New), ("existing", InitialClusterState::Existing)],
            )?,
            initial_cluster_token: settings.text("initial-cluster-token").to_owned(),
            heartbeat_ms: settings.number_u32("heartbeat-interval", 1, ELECTION_MS_MAX)?,
            election_ms: settings.number_u32("election-timeout", 1, u32::MAX)?,
            low_latency: settings.boolean("low-latency")?,
            pre_vote: settings.boolean("pre-vote")?,
            strict_reconfig_check: settings.boolean("strict-reconfig-check")?,
            learners_max: settings.number_u32("max-learners", 0, LEARNERS_MAX_LIMIT)?,
            force_new_cluster: settings.boolean("force-new-cluster")?,
            force_new_cluster_against_quorum: settings.boolean("force-new-cluster-against-quorum")?,
            txn_ops_max: settings.number_u32("max-txn-ops", 1, TXN_OPS_MAX_LIMIT)?,
            request_bytes_max: settings.number_u32("max-request-bytes", 1, REQUEST_BYTES_MAX_LIMIT)?,
        })
    }

    /// What an operator should know, for the log.
    pub(super) fn warnings(&self) -> Vec<String> {
        let bytes = self.request_bytes_max;
        let is_large = REQUEST_BYTES_RECOMMENDED < bytes;
        let warning = || {
            format!(
                "exceeded recommended request limit: --max-request-bytes={bytes}, recommended is at most \
                 {REQUEST_BYTES_RECOMMENDED}: a request of this size is in memory several times on its way"
            )
        };
        is_large.then(warning).into_iter().collect()
    }

    pub(super) fn validate(&self) -> Result<(), Refused> {
        let (heartbeat, election) = (self.heartbeat_ms, self.election_ms);
        if election > ELECTION_MS_MAX {
            return Err(Refused::contradiction(format!(
                "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_MS_MAX}ms"
            )));
        }
        if u64::from(election) < 5 * u64::from(heartbeat) {
            let profile = if self.low_latency { "; --low-latency sets whichever is not given" } else { "" };
            return Err(Refused::contradiction(format!(
                "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]{profile}"
            )));
        }
        Ok(())
    }

    /// Refuses what cannot begin with an empty data directory, before anybody is asked. With data these
    /// flags are ignored, so it is not part of `validate`.
    pub fn check_empty(&self) -> Result<(), Refused> {
        if self.force_new_cluster {
            return Err(Refused::contradiction(
                "--force-new-cluster goes on with the data that a member has, but the data directory is empty",
            ));
        }
        let is_existing = self.initial_cluster_state == InitialClusterState::Existing;
        if is_existing && matches!(self.initial_cluster, InitialCluster::Service(_)) {
            return Err(Refused::contradiction(
                "discovery URL should not be set when joining existing initial cluster: a discovery service knows \
                 only who began a cluster; list the members with --initial-cluster",
            ));
        }
        Ok(())
    }

    /// How to begin, for a member whose data directory is empty, with the members that were `found`.
    /// `same` tells whether two lists of URLs lead to the same place, when they are not the same texts.
    pub fn bootstrap(
        &self,
        process: &ProcessConfig,
        found: FirstMembers<'_>,
        same: impl FnOnce(&[String], &[String]) -> bool,
    ) -> Result<Bootstrap, Refused> {
        self.check_empty()?;
        let FirstMembers { members: initial, token, source } = found;
        let name = &process.name;
        let Some((_, listed)) = initial.iter().find(|(member, _)| member == name) else {
            return Err(Refused::contradiction(format!(
                "couldn't find local name {name:?} in the initial cluster configuration ({source})"
            )));
        };
        let mut listed: Vec<String> = listed.iter().map(ToString::to_string).collect();
        let mut own: Vec<String> =
            process.initial_advertise_peer_urls.iter().map(ToString::to_string).collect();
        listed.sort();
        own.sort();
        // Who joins is known already by the URLs that `member add` was given. The list has to be those
        // (`membership::find_joining`), and what this process advertises changes nothing.
        let begins = self.initial_cluster_state == InitialClusterState::New;
        if begins && listed != own && !same(&listed, &own) {
            if let Some(url) = listed.iter().find(|url| !own.contains(url)) {
                return Err(Refused::contradiction(format!(
                    "{source} has {name}={url} but missing from --initial-advertise-peer-urls={}",
                    own.join(",")
                )));
            }
            let url = own.iter().find(|url| !listed.contains(url));
            return Err(Refused::contradiction(format!(
                "--initial-advertise-peer-urls has {} but missing from {source}={name}={}",
                url.expect("lists without repetition that differ have a difference"),
                listed.join(&format!(",{name}="))
            )));
        }
        let urls = |urls: &[Url]| urls.iter().map(ToString::to_string).collect();
        let members = initial.iter().map(|(_, listed)| urls(listed)).collect();
        let others = initial.iter().filter(|(member, _)| member != name);
        let others: Vec<Url> = others.flat_map(|(_, listed)| listed.clone()).collect();
        if self.initial_cluster_state == InitialClusterState::Existing && others.is_empty() {
            return Err(Refused::contradiction(format!(
                "--initial-cluster-state=existing joins a cluster that runs, but {source} lists no other member to ask"
            )));
        }
        Ok(Bootstrap {
            state: self.initial_cluster_state,
            members,
            peer_urls: listed,
            others,
            token: token.to_owned(),
        })
    }
}
