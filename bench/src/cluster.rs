//! Three members of one cluster on this machine: started together, asked who leads, hit and mended.
//!
//! Invariant: between two measurements every member answers a linearizable read and all name the same
//! leader, which is one of them.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::call;
use crate::client::Endpoint;
use crate::process::{Launch, ProcessError, Server, StopSignal};
use crate::sys;

/// How long the members may take to agree on a leader.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one question to a member may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks.
const POLL: Duration = Duration::from_millis(10);
const NAMES: [&str; 3] = ["m1", "m2", "m3"];

/// What went wrong with a cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("the members did not agree on a leader within {SETTLE_TIMEOUT:?}; last seen: {0}")]
    Unsettled(String),
}

/// Whom a scenario talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Leader,
    /// All members, connections in turn.
    Everyone,
    Followers,
}

/// A running cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub members: Vec<Server>,
    /// The leader's place in `members` when last looked at.
    pub leader: usize,
}

impl Cluster {
    /// Starts the members on fresh data under `directory`.
    pub(crate) fn start(launch: &Launch, directory: &Path) -> Result<Self, ClusterError> {
        let members = Server::start_together(launch, directory, &NAMES)?;
        let mut cluster = Self { members, leader: 0 };
        cluster.settle()?;
        Ok(cluster)
    }

    /// Waits until all members answer and name one of them as leader.
    pub(crate) fn settle(&mut self) -> Result<(), ClusterError> {
        let begin = Instant::now();
        loop {
            let mut votes = Vec::new();
            for server in &self.members {
                let answers = call::probe(&server.endpoint, CALL_TIMEOUT)
                    .and_then(|()| call::status(&server.endpoint, CALL_TIMEOUT));
                votes.push(answers.map_err(|error| error.to_string()));
            }
            if let Some(leader) = agreed_leader(&votes) {
                self.leader = leader;
                return Ok(());
            }
            if sys::is_interrupted() {
                return Err(ProcessError::Interrupted.into());
            }
            if SETTLE_TIMEOUT < begin.elapsed() {
                return Err(ClusterError::Unsettled(format!("{votes:x?}")));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Ends a member, or what is left of it, and starts it again on its data.
    pub(crate) fn restart(&mut self, slot: usize, signal: StopSignal) -> Result<(), ClusterError> {
        let member = self.members.remove(slot).restart(signal)?;
        self.members.insert(slot, member);
        self.settle()
    }

    /// The endpoints that a scenario uses.
    pub(crate) fn endpoints(&self, reach: Reach) -> Vec<Endpoint> {
        let is_wanted = |slot: usize| match reach {
            Reach::Leader => slot == self.leader,
            Reach::Everyone => true,
            Reach::Followers => slot != self.leader,
        };
        let members = self.members.iter().enumerate();
        members.filter(|(slot, _)| is_wanted(*slot)).map(|(_, server)| server.endpoint.clone()).collect()
    }
}

/// The place of the one leader that every member names; each vote is a member's own id and its leader's.
fn agreed_leader(votes: &[Result<(u64, u64), String>]) -> Option<usize> {
    let (_, leader) = votes.first()?.as_ref().ok()?;
    let is_agreed = votes.iter().all(|vote| vote.as_ref().is_ok_and(|(_, named)| named == leader));
    let place = votes.iter().position(|vote| vote.as_ref().is_ok_and(|(member, _)| member == leader));
    place.filter(|_| is_agreed && *leader != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_one_that_all_members_name_and_that_is_among_them() {
        let agreed = |votes: &[(u64, u64)]| {
            let votes: Vec<Result<(u64, u64), String>> = votes.iter().map(|vote| Ok(*vote)).collect();
            agreed_leader(&votes)
        };
        assert_eq!(agreed(&[(1, 2), (2, 2), (3, 2)]), Some(1));
        assert_eq!(agreed(&[(1, 2), (2, 2), (3, 0)]), None, "one knows of none");
        assert_eq!(agreed(&[(1, 2), (2, 2), (3, 3)]), None, "two leaders");
        assert_eq!(agreed(&[(1, 0), (2, 0), (3, 0)]), None, "nobody leads");
        assert_eq!(agreed(&[(1, 9), (2, 9), (3, 9)]), None, "it is gone");
        assert_eq!(agreed_leader(&[Ok((1, 1)), Err("silent".to_owned()), Ok((3, 1))]), None);
    }
}
