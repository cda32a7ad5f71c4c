//! TLS on the client's side, and the certificates for a trial: a CA of its own and one certificate for servers on this
//! machine, made for each comparison and deleted with its directory.
//!
//! One cipher suite is offered, TLS 1.3 with AES-128-GCM and SHA-256, which both servers would choose on such a machine:
//! otherwise the two would be measured with different ones.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::client::Endpoint;

/// Certificates that servers are started with, and the CA that their clients believe.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    certificate: PathBuf,
    key: PathBuf,
    pub config: Arc<ClientConfig>,
}

impl Certificates {
    /// Makes them in a directory. Keys are ECDSA on P-256.
    pub(crate) fn make(directory: &Path) -> io::Result<Self> {
        let (certificate, key) = (directory.join("server.pem"), directory.join("server.key"));
        let made = || -> Result<_, rcgen::Error> {
            let mut authority = CertificateParams::default();
            authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            let authority_key = KeyPair::generate()?;
            let root = authority.self_signed(&authority_key)?;
            let mut params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
            // etcd dials itself, as a client.
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let server_key = KeyPair::generate()?;
            let server = params.signed_by(&server_key, &Issuer::new(authority, authority_key))?;
            Ok((root, server.pem(), server_key.serialize_pem()))
        };
        let (root, server, server_key) = made().map_err(io::Error::other)?;
        std::fs::write(&certificate, server)?;
        std::fs::write(&key, server_key)?;
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).map_err(io::Error::other)?;
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { certificate, key, config: Arc::new(config) })
    }

    /// What a server is told.
    pub(crate) fn flags(&self) -> [String; 2] {
        [format!("--cert-file={}", self.certificate.display()), format!("--key-file={}", self.key.display())]
    }
}

/// A connection that has not said anything.
pub(crate) fn begin(config: &Arc<ClientConfig>, endpoint: &Endpoint) -> io::Result<ClientConnection> {
    let name = ServerName::from(endpoint.address.ip());
    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)
}

/// What is asked by a connection outside the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

/// A socket that blocks, with TLS if the endpoint has it.
pub(crate) enum Blocking {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Blocking {
    /// Connects; each read and write takes `timeout` at most.
    pub(crate) fn connect(endpoint: &Endpoint, timeout: Duration, speaks: Speaks) -> io::Result<Self> {
        let address = endpoint.address.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeout))?;
        stream.set_read_timeout(Some(timeout))?;
        let Some(config) = &endpoint.tls else { return Ok(Self::Plain(stream)) };
        let mut config = Arc::clone(config);
        if speaks == Speaks::Http1 {
            Arc::make_mut(&mut config).alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        Ok(Self::Tls(Box::new(StreamOwned::new(begin(&config, endpoint)?, stream))))
    }

    pub(crate) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.set_read_timeout(Some(timeout)),
            Self::Tls(stream) => stream.sock.set_read_timeout(Some(timeout)),
        }
    }
}

impl Read for Blocking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Blocking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
