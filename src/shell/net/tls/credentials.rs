//! What a side of this member shows and whom it believes, as of the files of now.
//!
//! The files are read once a second and compared (`refresh`, on a thread of its own); what has changed is put together
//! anew and takes the old one's place whole, for handshakes that begin from then on. Connections that there are stay.
//! Files that cannot be used leave everything as it is, and are told once.
//!
//! Resumption: tickets are of the settings that gave them, so a session never goes on past a change of files.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version};

use super::certificate::Facts;
use super::files::{Files, Pair};
use super::verify::{OfClients, OfServers, Revoked, Trust};
use crate::config::{CipherSuite, Security, TlsPolicy, TlsVersion};

/// Sessions of TLS 1.2 that can be resumed without a ticket.
const SESSIONS_MAX: usize = 1024;

/// Which protocols are offered to whoever asks for one by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) enum Protocols {
    /// HTTP/2 and HTTP/1.1.
    Http,
    /// The members' own.
    Peer,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
#[error("{flags}: {reason}")]
pub(in crate::shell) struct CredentialsError {
    flags: &'static str,
    reason: String,
}

/// See the module.
pub(in crate::shell) struct Credentials {
    security: Security,
    policy: TlsPolicy,
    protocols: Protocols,
    current: Mutex<Current>,
}

struct Current {
    files: Files,
    settings: Settings,
    /// What was told last about files that cannot be used.
    told: Option<String>,
}

#[derive(Clone)]
struct Settings {
    /// None: this side has no certificate.
    server: Option<Arc<ServerConfig>>,
    client: Arc<ClientConfig>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("security", &self.security).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// They cannot be used.
    pub(in crate::shell) fn load(
        security: &Security,
        policy: &TlsPolicy,
        protocols: Protocols,
    ) -> Result<Arc<Self>, CredentialsError> {
        let refused = |reason| CredentialsError { flags: security.flags, reason };
        let files = Files::read(security).map_err(refused)?;
        let settings = Settings::make(security, policy, protocols, &files).map_err(refused)?;
        Ok(Arc::new(Self {
            security: security.clone(),
            policy: policy.clone(),
            protocols,
            current: Mutex::new(Current { files, settings, told: None }),
        }))
    }

    /// Reads the files again.
    pub(in crate::shell) fn refresh(&self) {
        let made = Files::read(&self.security).and_then(|files| {
            if self.current().files == files {
                return Ok(None);
            }
            let settings = Settings::make(&self.security, &self.policy, self.protocols, &files)?;
            Ok(Some((files, settings)))
        });
        let flags = self.security.flags;
        let mut current = self.current();
        match made {
            Ok(None) => current.told = None,
            Ok(Some((files, settings))) => {
                (current.files, current.settings, current.told) = (files, settings, None);
                tracing::info!(
                    flags,
                    "certificates, keys or lists have changed; new connections use the new ones"
                );
            }
            Err(reason) => {
                if current.told.as_ref() != Some(&reason) {
                    tracing::error!(flags, reason, "changed files cannot be used; the old ones stay in use");
                }
                current.told = Some(reason);
            }
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None: this side has no certificate.
    pub(super) fn server(&self) -> Option<Arc<ServerConfig>> {
        self.current().settings.server.clone()
    }

    pub(super) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current().settings.client)
    }

    /// The common name of what is shown to those who are dialed, if there is one.
    pub(in crate::shell) fn shown_name(&self) -> Option<String> {
        let current = self.current();
        let files = current.files.client_pair.as_ref().or(current.files.pair.as_ref())?;
        let shown = certificates(&files.certificate).ok()?;
        Facts::read(shown.first()?).ok()?.common_name
    }

    /// Whether the common name of a certificate is a user's.
    pub(super) fn names_users(&self) -> bool {
        self.security.client_cert_auth
    }

    /// The name that certificates of those who are dialed have to be for, instead of the host of their URL.
    pub(super) fn server_name(&self) -> Option<&str> {
        self.security.server_name.as_deref()
    }
}

impl Settings {
    fn make(
        security: &Security,
        policy: &TlsPolicy,
        protocols: Protocols,
        files: &Files,
    ) -> Result<Self, String> {
        let provider = provider(policy);
        let versions = versions(policy);
        let trusted = match (&files.trusted, &security.trusted_ca) {
            (Some(pem), Some(path)) => {
                certificates(pem).map_err(|reason| format!("{}: {reason}", path.display()))?
            }
            _ => Vec::new(),
        };
        let revoked = match (&files.revoked, &security.revoked) {
            (Some(der), Some(path)) => {
                Revoked::read(der).map_err(|reason| format!("{}: {reason}", path.display()))?
            }
            _ => Revoked::default(),
        };
        let needs_system = trusted.is_empty() && !security.believes_anybody;
        let trust = Arc::new(Trust {
            trusted: if needs_system { system_roots() } else { trusted },
            revoked,
            common_names: security.allowed_common_names.clone(),
            hosts: security.allowed_hosts.clone(),
            algorithms: provider.signature_verification_algorithms,
        });
        let key = match &files.pair {
            Some(pair) => Some(Arc::new(certified(pair, &provider)?)),
            None => None,
        };
        let client_key = match &files.client_pair {
            Some(pair) => Some(Arc::new(certified(pair, &provider)?)),
            None => key.clone(),
        };
        let server = key.map(|key| {
            let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&versions)
                .map_err(|error| error.to_string())?;
            let builder = if security.asks_for_certificates() {
                builder.with_client_cert_verifier(OfClients::new(&trust, &provider)?)
            } else {
                builder.with_no_client_auth()
            };
            let mut server = builder.with_cert_resolver(Arc::new(Shown(key)));
            server.ticketer = Ticketer::new().map_err(|error| error.to_string())?;
            server.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
            if protocols == Protocols::Http {
                server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            }
            Ok::<_, String>(Arc::new(server))
        });
        let server = server.transpose()?;
        let of_servers = if security.believes_anybody {
            OfServers::believing_anybody(&trust)
        } else if trust.trusted.is_empty() {
            // A host without a pool of its own: nobody who is dialed can be believed.
            OfServers::believing_nobody(&trust)
        } else {
            OfServers::new(&trust, &provider)?
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(of_servers);
        let mut client = match client_key {
            Some(key) => builder.with_client_cert_resolver(Arc::new(Shown(key))),
            None => builder.with_no_client_auth(),
        };
        client.resumption = Resumption::in_memory_sessions(64);
        if protocols == Protocols::Http {
            client.alpn_protocols = vec![b"h2".to_vec()];
        }
        Ok(Self { server, client: Arc::new(client) })
    }
}

/// The one certificate of a side, whoever asks.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for Shown {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl rustls::client::ResolvesClientCert for Shown {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn provider(policy: &TlsPolicy) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    if let Some(suites) = &policy.cipher_suites {
        provider.cipher_suites.retain(|suite| match suite {
            // The flag is about TLS 1.2 alone.
            SupportedCipherSuite::Tls13(_) => true,
            SupportedCipherSuite::Tls12(_) => suites.contains(&CipherSuite(suite.suite().into())),
        });
    }
    Arc::new(provider)
}

fn versions(policy: &TlsPolicy) -> Vec<&'static SupportedProtocolVersion> {
    let both = [(TlsVersion::Tls12, &version::TLS12), (TlsVersion::Tls13, &version::TLS13)];
    let is_allowed = |version: &TlsVersion| policy.min <= *version && *version <= policy.max;
    both.into_iter().filter(|(version, _)| is_allowed(version)).map(|(_, known)| known).collect()
}

/// The certificates of a PEM file, at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| format!("no certificates in PEM: {error}"))?;
    if found.is_empty() {
        return Err("no certificate in PEM".to_owned());
    }
    Ok(found)
}

fn certified(pair: &Pair, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let chain = certificates(&pair.certificate)?;
    // The error may not show anything of the file.
    let key = PrivateKeyDer::from_pem_slice(&pair.key)
        .map_err(|_| "the key file has no unencrypted private key in PEM".to_owned())?;
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|_| "the key is of a kind that is not known (RSA, ECDSA or Ed25519)".to_owned())?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        Ok(()) => Ok(pair),
        // Whether they match cannot be told: an old form of certificate.
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(pair),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("private key does not match public key of the certificate".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// What this host believes.
fn system_roots() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::warn!(%error, "a CA of this host cannot be read");
    }
    found.certs
}
