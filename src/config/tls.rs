//! TLS: what each side shows, whom it believes, and which versions are spoken.
//!
//! Files are named here and read elsewhere. Which addresses are encrypted is said by the scheme of their URLs.
//!
//! Compatibility: etcd's flags, rules and most texts. That a CA alone makes certificates of clients required is
//! etcd's rule too.

use std::path::PathBuf;

use super::cipher_suites::{self, CipherSuite};
use super::listener::Listener;
use super::parse::{Refused, Settings};

/// Everything about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// Addresses for clients and for metrics.
    pub client: Security,
    /// Connections between members.
    pub peer: Security,
    pub policy: TlsPolicy,
    /// Life of a certificate that is made here.
    pub self_signed_years: u32,
    /// Cipher suites that were named and cannot be spoken.
    left_out: Vec<&'static str>,
}

/// A certificate and its key, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// One side's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// What to blame when its files are wrong.
    pub flags: &'static str,
    /// What it shows; None: nothing, and it cannot be dialed by TLS.
    pub pair: Option<PairFiles>,
    /// What it shows when it dials; None: the same.
    pub client_pair: Option<PairFiles>,
    /// Whoever dials must show a certificate, whose common name is a user.
    pub client_cert_auth: bool,
    /// Whom it believes; None: whom the host believes.
    pub trusted_ca: Option<PathBuf>,
    /// Serial numbers that are not believed any more.
    pub revoked: Option<PathBuf>,
    /// One of these has to be the common name of the other side; empty: any.
    pub allowed_common_names: Vec<String>,
    /// The other side's certificate has to be for one of these; empty: any.
    pub allowed_hosts: Vec<String>,
    /// Without a pair: make one that signs itself.
    pub makes_pair: bool,
    /// Whoever answers is believed: certificates that sign themselves prove nothing.
    pub believes_anybody: bool,
    /// A certificate has to be for the address that it comes from.
    pub checks_address: bool,
    /// The name that certificates of those who are dialed have to be for, instead of the host of their URL.
    pub server_name: Option<String>,
}

/// What is spoken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPolicy {
    pub min: TlsVersion,
    pub max: TlsVersion,
    /// Of TLS 1.2; None: all that are known.
    pub cipher_suites: Option<Vec<CipherSuite>>,
}

/// Versions, the older one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

impl Security {
    /// Whether whoever dials must show a certificate.
    #[must_use]
    pub fn asks_for_certificates(&self) -> bool {
        self.client_cert_auth || self.trusted_ca.is_some()
    }

    /// A side that shows nothing and believes whom the host believes. `flags` are to blame for its files.
    pub(super) fn none(flags: &'static str) -> Self {
        Self {
            flags,
            pair: None,
            client_pair: None,
            client_cert_auth: false,
            trusted_ca: None,
            revoked: None,
            allowed_common_names: Vec::new(),
            allowed_hosts: Vec::new(),
            makes_pair: false,
            believes_anybody: false,
            checks_address: false,
            server_name: None,
        }
    }

    /// Whether it has a certificate, or is to make one.
    fn has_pair(&self) -> bool {
        self.pair.is_some() || self.makes_pair
    }
}

impl TlsPolicy {
    fn read(settings: &Settings) -> Result<(Self, Vec<&'static str>), Refused> {
        let version = |flag| match settings.text(flag) {
            "" => Ok(None),
            "TLS1.2" => Ok(Some(TlsVersion::Tls12)),
            "TLS1.3" => Ok(Some(TlsVersion::Tls13)),
            other => Err(settings.invalid(
                flag,
                &format!("unexpected TLS version {other:?} (must be one of: TLS1.2, TLS1.3)"),
            )),
        };
        let min = version("tls-min-version")?.unwrap_or(TlsVersion::Tls12);
        let max = version("tls-max-version")?.unwrap_or(TlsVersion::Tls13);
        if max < min {
            return Err(Refused::contradiction(format!(
                "min version ({}) is greater than max version ({})",
                settings.text("tls-min-version"),
                settings.text("tls-max-version")
            )));
        }
        if min == TlsVersion::Tls13 && !settings.text("cipher-suites").is_empty() {
            return Err(Refused::contradiction(
                "cipher suites cannot be configured when only TLS1.3 is enabled",
            ));
        }
        let (cipher_suites, left_out) = cipher_suites::read(settings)?;
        Ok((Self { min, max, cipher_suites }, left_out))
    }
}

pub(super) fn path(settings: &Settings, flag: &str) -> Option<PathBuf> {
    Some(settings.text(flag)).filter(|text| !text.is_empty()).map(PathBuf::from)
}

fn list(settings: &Settings, flag: &str) -> Vec<String> {
    let words = settings.text(flag).split(',').map(str::trim);
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Two files that come together.
pub(super) fn pair(settings: &Settings, certificate: &str, key: &str) -> Result<Option<PairFiles>, Refused> {
    match (path(settings, certificate), path(settings, key)) {
        (Some(certificate), Some(key)) => Ok(Some(PairFiles { certificate, key })),
        (None, None) => Ok(None),
        _ => Err(Refused::contradiction(format!(
            "KeyFile and CertFile must both be present[key: {}, cert: {}] (--{key}, --{certificate})",
            settings.text(key),
            settings.text(certificate)
        ))),
    }
}

impl TlsConfig {
    pub(super) fn read(settings: &Settings) -> Result<Self, Refused> {
        let (policy, left_out) = TlsPolicy::read(settings)?;
        let own = pair(settings, "cert-file", "key-file")?;
        let client = Security {
            makes_pair: settings.boolean("auto-tls")? && own.is_none(),
            pair: own,
            client_cert_auth: settings.boolean("client-cert-auth")?,
            trusted_ca: path(settings, "trusted-ca-file"),
            revoked: path(settings, "client-crl-file"),
            allowed_hosts: list(settings, "client-cert-allowed-hostname"),
            ..Security::none("--cert-file, --key-file, --trusted-ca-file, --client-crl-file")
        };
        let own = pair(settings, "peer-cert-file", "peer-key-file")?;
        let makes_pair = settings.boolean("peer-auto-tls")? && own.is_none();
        let domain = settings.text("discovery-srv");
        let trusted_ca = path(settings, "peer-trusted-ca-file");
        let peer = Security {
            flags: "--peer-cert-file, --peer-key-file, --peer-client-cert-file, --peer-client-key-file, \
                    --peer-trusted-ca-file, --peer-crl-file",
            makes_pair,
            pair: own,
            client_pair: pair(settings, "peer-client-cert-file", "peer-client-key-file")?,
            client_cert_auth: settings.boolean("peer-client-cert-auth")?,
            server_name: (trusted_ca.is_none() && !domain.is_empty())
                .then(|| domain.trim_end_matches('.').to_owned()),
            trusted_ca,
            revoked: path(settings, "peer-crl-file"),
            allowed_common_names: list(settings, "peer-cert-allowed-cn"),
            allowed_hosts: list(settings, "peer-cert-allowed-hostname"),
            believes_anybody: makes_pair,
            checks_address: !settings.boolean("peer-skip-client-san-verification")?,
        };
        if !peer.allowed_common_names.is_empty() && !peer.allowed_hosts.is_empty() {
            return Err(Refused::contradiction(
                "--peer-cert-allowed-cn and --peer-cert-allowed-hostname cannot both be given",
            ));
        }
        let self_signed_years = settings.number_u32("self-signed-cert-validity", 0, 100)?;
        if (client.makes_pair || peer.makes_pair) && self_signed_years == 0 {
            return Err(settings.invalid("self-signed-cert-validity", "must be greater than 0"));
        }
        Ok(Self { client, peer, policy, self_signed_years, left_out })
    }

    /// Refuses encrypted addresses without a certificate.
    pub(super) fn validate(
        &self,
        for_clients: &[&Listener],
        for_metrics: &[Listener],
        for_peers: &[Listener],
    ) -> Result<(), Refused> {
        let needs = |listener: &&Listener| listener.encryption.has_tls();
        if let Some(listener) = for_clients.iter().copied().find(|listener| needs(listener))
            && !self.client.has_pair()
        {
            return Err(Refused::contradiction(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {} with HTTPS scheme",
                listener.address.url(true)
            )));
        }
        if for_metrics.iter().any(|listener| needs(&listener)) && !self.client.has_pair() {
            return Err(Refused::contradiction(
                "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
            ));
        }
        if let Some(listener) = for_peers.iter().find(needs)
            && !self.peer.has_pair()
        {
            return Err(Refused::contradiction(format!(
                "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for peer url {} with \
                 HTTPS scheme",
                listener.address.url(true)
            )));
        }
        Ok(())
    }

    /// What is taken and most likely not what was meant.
    pub(super) fn warnings(
        &self,
        settings: &Settings,
        for_clients: &[&Listener],
        for_peers: &[Listener],
    ) -> Vec<String> {
        let mut warnings = Vec::new();
        for (auto, files) in [("auto-tls", "cert-file"), ("peer-auto-tls", "peer-cert-file")] {
            if settings.boolean(auto) == Ok(true) && !settings.text(files).is_empty() {
                warnings.push(format!("--{auto} is ignored, since --{files} is given"));
            }
        }
        if !self.left_out.is_empty() {
            warnings.push(format!(
                "{} has cipher suites that are not spoken here and are left out: {}",
                settings.source("cipher-suites"),
                self.left_out.join(", ")
            ));
        }
        for (side, security, listeners) in
            [("client", &self.client, for_clients.to_vec()), ("peer", &self.peer, for_peers.iter().collect())]
        {
            for listener in listeners.into_iter().filter(|listener| listener.encryption.has_plain()) {
                let url = listener.address.url(false);
                if security.has_pair() {
                    warnings.push(format!(
                        "The scheme of {side} url {url} is HTTP while key/cert files are presented. Ignored key/cert files."
                    ));
                }
                if security.client_cert_auth {
                    warnings.push(format!(
                        "The scheme of {side} url {url} is HTTP while client cert auth is enabled. Ignored client cert auth."
                    ));
                }
            }
        }
        warnings
    }
}
