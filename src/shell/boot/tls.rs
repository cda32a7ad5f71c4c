//! The certificates that a member starts with, and what it says about its encryption.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Address, Config, Listener, Security, TlsConfig};
use crate::shell::net::tls::{
    Credentials, CredentialsError, Handshakes, Protocols, TlsAcceptor, TlsConnector, self_signed,
};
use crate::shell::runtime::helpers::Helpers;

/// How often files are compared with what is in use.
const REFRESH: Duration = Duration::from_secs(1);

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum TlsError {
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("cannot make a certificate in {dir}: {source}")]
    SelfSigned { dir: String, source: std::io::Error },
}

/// See the module.
pub(in crate::shell) struct Tls {
    clients: Option<Arc<Credentials>>,
    peers: Option<Arc<Credentials>>,
}

impl Tls {
    /// Reads what the flags name, and makes what they ask to be made: for clients in `fixtures/<of_clients>`.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(in crate::shell) fn load(
        config: &Config,
        data_dir: &Path,
        of_clients: &str,
    ) -> Result<Self, TlsError> {
        let (process, tls) = (&config.process, &config.process.tls);
        let for_clients: Vec<&Listener> =
            [&process.listen_client, &process.listen_client_http, &process.listen_metrics]
                .into_iter()
                .flatten()
                .collect();
        let clients = Some(&tls.client).filter(|_| for_clients.iter().any(|each| each.encryption.has_tls()));
        let clients = clients
            .map(|security| load(security, tls, data_dir, of_clients, &for_clients, Protocols::Http))
            .transpose()?;
        // Who listens without TLS may dial with it.
        let peer = &tls.peer;
        let is_given = peer.pair.is_some() || peer.makes_pair || peer.asks_for_certificates();
        let for_peers: Vec<&Listener> = process.listen_peer.iter().collect();
        let peers = Some(peer)
            .filter(|_| is_given)
            .map(|security| load(security, tls, data_dir, "peer", &for_peers, Protocols::Peer))
            .transpose()?;
        Ok(Self { clients, peers })
    }

    /// How clients are met.
    pub(in crate::shell) fn client_acceptor(&self, handshakes: &Handshakes) -> Option<TlsAcceptor> {
        let credentials = Arc::clone(self.clients.as_ref()?);
        Some(TlsAcceptor::new(credentials, handshakes.clone(), false))
    }

    /// How members that dial are met.
    pub(in crate::shell) fn peer_acceptor(&self, handshakes: &Handshakes) -> Option<TlsAcceptor> {
        let credentials = Arc::clone(self.peers.as_ref()?);
        Some(TlsAcceptor::new(credentials, handshakes.clone(), true))
    }

    /// How members are dialed.
    pub(in crate::shell) fn connector(&self, handshakes: &Handshakes) -> Option<TlsConnector> {
        Some(TlsConnector::new(Arc::clone(self.peers.as_ref()?), handshakes.clone()))
    }

    /// Looks at the files from now on.
    pub(in crate::shell) fn keep_fresh(&self, helpers: &Helpers) {
        let kept: Vec<_> = [&self.clients, &self.peers].into_iter().flatten().cloned().collect();
        if kept.is_empty() {
            return;
        }
        helpers.run_in_background("certificates", move || {
            loop {
                std::thread::sleep(REFRESH);
                kept.iter().for_each(|credentials| credentials.refresh());
            }
        });
    }

    /// Says what is not encrypted, or encrypted and not authenticated.
    #[expect(clippy::unused_self, reason = "said when it is loaded")]
    pub(in crate::shell) fn tell(&self, config: &Config) {
        let process = &config.process;
        if process.listen_client.iter().any(|listener| listener.encryption.has_plain()) {
            tracing::warn!("serving client traffic insecurely; this is strongly discouraged!");
        }
        if process.listen_peer.iter().any(|listener| listener.encryption.has_plain()) {
            tracing::warn!(
                "connections between members are neither encrypted nor authenticated: whoever reaches a peer port can \
                 take part in the cluster. Keep these ports inside a network you trust, or use https peer URLs with \
                 --peer-cert-file, --peer-key-file, --peer-trusted-ca-file and --peer-client-cert-auth"
            );
        } else if !process.tls.peer.asks_for_certificates() {
            tracing::warn!(
                "connections between members are encrypted and not authenticated: whoever reaches a peer port can take \
                 part in the cluster. Give --peer-client-cert-auth and --peer-trusted-ca-file"
            );
        }
    }
}

fn load(
    security: &Security,
    tls: &TlsConfig,
    data_dir: &Path,
    name: &str,
    listeners: &[&Listener],
    protocols: Protocols,
) -> Result<Arc<Credentials>, TlsError> {
    let mut security = security.clone();
    if security.makes_pair {
        let dir = data_dir.join("fixtures").join(name);
        let host = |each: &&Listener| match &each.address {
            Address::Ip(address) => address.ip().to_string(),
            Address::Socket(_) => "localhost".to_owned(),
        };
        let mut hosts: Vec<String> = listeners.iter().map(host).collect();
        hosts.sort();
        hosts.dedup();
        let made = self_signed::ensure(&dir, &hosts, tls.self_signed_years);
        let dir = dir.display().to_string();
        security.pair = Some(made.map_err(|source| TlsError::SelfSigned { dir, source })?);
    }
    Ok(Credentials::load(&security, &tls.policy, protocols)?)
}
