//! Finding out who begins a cluster, for a process whose data directory is empty: before anything else
//! runs, and up to a signal.

pub(super) mod clients;
mod dns_client;
mod grpc;
mod service;
mod srv;
mod stop;

pub(super) use stop::Stop;

use crate::config::{Config, FirstMembers, InitialCluster, MemberUrls};
use crate::shell::runtime::waiting::Waiting;

/// Why it is not known who begins the cluster.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiscoveryError {
    #[error(transparent)]
    Srv(#[from] srv::FindError),
    #[error(transparent)]
    Service(#[from] service::ServiceError),
}

/// The members that begin the cluster.
pub(super) struct Found {
    members: MemberUrls,
    token: String,
    source: String,
}

impl Found {
    pub(super) fn first_members(&self) -> FirstMembers<'_> {
        FirstMembers { members: &self.members, token: &self.token, source: &self.source }
    }
}

/// Asks whoever is configured to know.
///
/// # Errors
/// [`DiscoveryError`], whose text says what to do.
pub(super) async fn find(
    config: &Config,
    waiting: &Waiting,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<Found, DiscoveryError> {
    let stop = Stop::new(is_interrupted, waiting);
    let (name, urls) = (&config.process.name, &config.process.initial_advertise_peer_urls);
    let token = config.cluster.initial_cluster_token.clone();
    match &config.cluster.initial_cluster {
        InitialCluster::Listed(members) => {
            Ok(Found { members: members.clone(), token, source: "--initial-cluster".to_owned() })
        }
        InitialCluster::Srv(discovery) => {
            let members = srv::find(discovery, name, urls, &stop).await?;
            Ok(Found { members, token, source: format!("--discovery-srv={}", discovery.domain) })
        }
        InitialCluster::Service(discovery) => {
            let members = service::find(discovery, &config.process.tls.policy, name, urls, &stop).await?;
            let token = discovery.token.clone();
            Ok(Found { members, token, source: "the discovery service".to_owned() })
        }
    }
}
