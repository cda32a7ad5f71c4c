//! Certificates for a test, and a client that shows one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams,
    SerialNumber, SignatureAlgorithm, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::{CallError, Client};
use crate::work_dir::WorkDir;

/// Who signs certificates.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub certificate: PathBuf,
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Holder {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub serial: SerialNumber,
}

impl Authority {
    pub fn new(work: &WorkDir, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = work.join(&format!("{name}.pem"));
        fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        let dir = certificate.parent().unwrap().to_owned();
        Self { dir, issuer: Issuer::new(params, key), certificate }
    }

    /// For this common name, for this host, for both sides.
    pub fn issue(&self, name: &str) -> Holder {
        self.issue_with(name, &PKCS_ECDSA_P256_SHA256, |_params| {})
    }

    /// The same with another kind of key, and something changed.
    pub fn issue_with(
        &self,
        name: &str,
        kind: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Holder {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(fresh()));
        change(&mut params);
        let key = KeyPair::generate_for(kind).unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let serial = params.serial_number.expect("it was set above");
        let file = |end| self.dir.join(format!("{name}-{}.{end}", fresh()));
        let holder = Holder { certificate: file("pem"), key: file("key"), serial };
        fs::write(&holder.certificate, signed.pem()).unwrap();
        fs::write(&holder.key, key.serialize_pem()).unwrap();
        holder
    }

    /// A revocation list with these, as DER.
    pub fn revoke(&self, holders: &[&Holder]) -> Vec<u8> {
        let revoked = holders.iter().map(|holder| RevokedCertParams {
            serial_number: holder.serial.clone(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2034, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

/// A number that no other certificate of this process has.
fn fresh() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static LAST: AtomicU64 = AtomicU64::new(1_000);
    LAST.fetch_add(1, Ordering::Relaxed)
}

impl Holder {
    /// Copies it over another one's files, certificate first, each whole.
    pub fn replace(&self, other: &Self) {
        for (from, to) in [(&self.certificate, &other.certificate), (&self.key, &other.key)] {
            replace(&fs::read(from).unwrap(), to);
        }
    }

    /// The flags of these names.
    pub fn flags(&self, certificate: &str, key: &str) -> [String; 2] {
        [format!("--{certificate}={}", self.certificate.display()), format!("--{key}={}", self.key.display())]
    }
}

/// Writes a file whole, as tools that rotate certificates do.
pub fn replace(bytes: &[u8], path: &Path) {
    let aside = path.with_extension("new");
    fs::write(&aside, bytes).unwrap();
    fs::rename(aside, path).unwrap();
}

/// A client's side of TLS that believes `ca` and shows `holder`.
pub fn client_config(ca: &Path, holder: Option<&Holder>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.unwrap().with_root_certificates(roots);
    let mut config = match holder {
        Some(holder) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(&holder.certificate).unwrap()],
                PrivateKeyDer::from_pem_file(&holder.key).unwrap(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// A connection by TLS.
pub async fn connect(port: u16, ca: &Path, holder: Option<&Holder>) -> Result<Client, CallError> {
    let io = |error: std::io::Error| CallError::Transport(error.to_string());
    let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(io)?;
    stream.set_nodelay(true).map_err(io)?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connector = TlsConnector::from(client_config(ca, holder));
    let stream = connector.connect(name, stream).await.map_err(io)?;
    Client::over(stream, &format!("127.0.0.1:{port}")).await
}
