//! TLS, by `rustls` with aws-lc-rs: who this member is to others, whom it believes, and how a connection begins.
//!
//! ```text
//! config::Security ─ files::read ─► Files ─ Credentials::new ─► ServerConfig, ClientConfig
//!                        ▲ each second, by a thread        (the next handshake takes the newest)
//! socket ─► handshake ─► jobs on helper threads ─► Session, inside Stream, where records are cut and joined
//! ```
//!
//! A handshake signs and verifies, which takes a millisecond with RSA and cannot be cut. So its steps run on helper
//! threads (`handshakes`), and an executor only carries bytes. Records are encrypted and decrypted on the executor.
//!
//! Compatibility: a certificate that Go takes is taken (`own_step` lists where webpki would not); what etcd reads
//! anew at each handshake is read anew when it changes, and the pool of CAs too, which etcd reads once.

mod certificate;
mod credentials;
mod files;
mod handshake;
mod handshakes;
mod own_step;
mod remote_name;
pub(in crate::shell) mod self_signed;
mod session;
mod verify;

pub(in crate::shell) use credentials::{Credentials, CredentialsError, Protocols};
pub(in crate::shell) use handshake::{HandshakeError, TlsAcceptor, TlsConnector, is_tls};
pub(in crate::shell) use handshakes::Handshakes;
pub(super) use session::Session;
