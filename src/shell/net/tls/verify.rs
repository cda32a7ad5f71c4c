//! Whether the other side's certificate is believed: webpki's judgement, or that of `own_step`, and then the rules that
//! flags add: revoked serial numbers, allowed names.
//!
//! Compatibility: a revocation list counts by serial number alone, whoever issued the certificate, and without a look
//! at its signature or dates; all certificates that are shown are looked up.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::certificate::{Facts, bare};
use super::own_step;

/// Whom to believe.
pub(super) struct Trust {
    pub(super) trusted: Vec<CertificateDer<'static>>,
    pub(super) revoked: Revoked,
    /// One of these has to be the common name; empty: any.
    pub(super) common_names: Vec<String>,
    /// The certificate has to be for one of these; empty: for any.
    pub(super) hosts: Vec<String>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// Serial numbers that are not believed any more.
#[derive(Default)]
pub(super) struct Revoked(BTreeSet<Vec<u8>>);

impl Revoked {
    /// Reads a list as DER.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn read(der: &[u8]) -> Result<Self, String> {
        let (rest, list) = CertificateRevocationList::from_der(der)
            .map_err(|_| "no revocation list in DER (PEM is not taken, as with etcd)".to_owned())?;
        if !rest.is_empty() {
            return Err("bytes behind the revocation list".to_owned());
        }
        let serials = list.iter_revoked_certificates().map(|entry| bare(entry.raw_serial()).to_vec());
        Ok(Self(serials.collect()))
    }
}

/// A rule of this file, as `rustls` carries errors.
#[derive(Debug)]
struct Rule(String);

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Rule {}

fn rule(text: String) -> Error {
    CertificateError::Other(OtherError(Arc::new(Rule(text)))).into()
}

impl Trust {
    /// The pool that webpki reads.
    ///
    /// # Errors
    /// A certificate in it cannot be read.
    pub(super) fn roots(&self) -> Result<Arc<RootCertStore>, Error> {
        let mut roots = RootCertStore::empty();
        for trusted in &self.trusted {
            roots.add(trusted.clone())?;
        }
        Ok(Arc::new(roots))
    }

    /// The rules that flags add, about a chain that is believed.
    fn check(&self, leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        let facts = Facts::read(leaf).map_err(rule)?;
        if !self.revoked.0.is_empty() {
            let mut serials = vec![facts.serial.clone()];
            for other in others {
                serials.push(Facts::read(other).map_err(rule)?.serial);
            }
            if let Some(serial) = serials.iter().find(|serial| self.revoked.0.contains(*serial)) {
                let serial: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
                return Err(rule(format!("transport: certificate serial {serial} revoked")));
            }
        }
        let name = facts.common_name.as_deref().unwrap_or_default();
        if !self.common_names.is_empty() && !self.common_names.iter().any(|allowed| allowed == name) {
            return Err(rule(format!("client certificate authentication failed: common name {name:?}")));
        }
        if !self.hosts.is_empty() && !self.hosts.iter().any(|host| facts.is_for(host)) {
            return Err(rule(
                "client certificate authentication failed: for none of the allowed hosts".into(),
            ));
        }
        Ok(())
    }

    fn verify_tls12(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if own_step::is_old(leaf) {
            own_step::verify_handshake(message, leaf, signed, &self.algorithms)?;
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if own_step::is_old(leaf) {
            own_step::verify_handshake(message, leaf, signed, &self.algorithms)?;
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }
}

/// Judges those who dial.
pub(super) struct OfClients {
    trust: Arc<Trust>,
    webpki: Arc<dyn ClientCertVerifier>,
}

impl OfClients {
    /// # Errors
    /// The pool is empty, or cannot be read.
    pub(super) fn new(trust: &Arc<Trust>, provider: &Arc<CryptoProvider>) -> Result<Arc<Self>, String> {
        let roots = trust.roots().map_err(|error| error.to_string())?;
        let webpki = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
        let webpki = webpki.map_err(|error| error.to_string())?;
        Ok(Arc::new(Self { trust: Arc::clone(trust), webpki }))
    }
}

impl fmt::Debug for OfClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfClients").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for OfClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if own_step::concerns(leaf) {
            own_step::verify(leaf, &self.trust.trusted, &self.trust.algorithms, now, true)?;
        } else {
            self.webpki.verify_client_cert(leaf, others, now)?;
        }
        self.trust.check(leaf, others)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.verify_tls12(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.verify_tls13(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

/// Judges those who were dialed.
pub(super) struct OfServers {
    trust: Arc<Trust>,
    judge: Judge,
}

/// Who judges the chain of somebody who was dialed.
enum Judge {
    Webpki(Arc<WebPkiServerVerifier>),
    /// Anybody is believed (`--peer-auto-tls`).
    Anybody,
    /// Nobody is: there is no pool.
    Nobody,
}

impl OfServers {
    /// # Errors
    /// The pool is empty, or cannot be read.
    pub(super) fn new(trust: &Arc<Trust>, provider: &Arc<CryptoProvider>) -> Result<Arc<Self>, String> {
        let roots = trust.roots().map_err(|error| error.to_string())?;
        let webpki = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
        let webpki = webpki.map_err(|error| error.to_string())?;
        Ok(Arc::new(Self { trust: Arc::clone(trust), judge: Judge::Webpki(webpki) }))
    }

    pub(super) fn believing_anybody(trust: &Arc<Trust>) -> Arc<Self> {
        Arc::new(Self { trust: Arc::clone(trust), judge: Judge::Anybody })
    }

    pub(super) fn believing_nobody(trust: &Arc<Trust>) -> Arc<Self> {
        Arc::new(Self { trust: Arc::clone(trust), judge: Judge::Nobody })
    }
}

impl fmt::Debug for OfServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfServers").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for OfServers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.judge {
            Judge::Anybody => {}
            Judge::Nobody => return Err(CertificateError::UnknownIssuer.into()),
            Judge::Webpki(_) if own_step::concerns(leaf) => {
                own_step::verify(leaf, &self.trust.trusted, &self.trust.algorithms, now, false)?;
                let facts = Facts::read(leaf).map_err(rule)?;
                if !facts.is_for(&name.to_str()) {
                    return Err(CertificateError::NotValidForName.into());
                }
            }
            Judge::Webpki(webpki) => {
                webpki.verify_server_cert(leaf, others, name, ocsp, now)?;
            }
        }
        self.trust.check(leaf, others)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.verify_tls12(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.verify_tls13(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}
