//! Members that programs come to by TLS.

use std::path::Path;

use pinion_kit::tls::{Authority, Holder};
use pinion_kit::{Launch, Server, WorkDir, free_port};

/// A member with an address for TLS beside its plain one, which tells whether it serves.
pub struct Secured {
    pub launch: Launch,
    pub port: u16,
    pub server: Server,
}

/// The flags of a member whose clients come by TLS too, at `port`.
pub fn secured(launch: Launch, port: u16, certificate: &Holder) -> Launch {
    let (plain, tls) = (launch.client_url(), format!("https://127.0.0.1:{port}"));
    let [certificate, key] = certificate.flags("cert-file", "key-file");
    launch
        .flag(format!("--listen-client-urls={plain},{tls}"))
        .flag(format!("--advertise-client-urls={plain},{tls}"))
        .flag(certificate)
        .flag(key)
}

impl Secured {
    /// One that asks for certificates of `authority`, with more flags.
    pub async fn start(work: &WorkDir, authority: &Authority, more: &[String]) -> Self {
        let port = free_port();
        let mut launch = secured(Launch::new(work.join("data")), port, &authority.issue("server"))
            .flag(format!("--trusted-ca-file={}", authority.certificate.display()));
        launch.flags.extend_from_slice(more);
        let server = launch.start().await;
        Self { launch, port, server }
    }
}

/// What `curl` and `etcdctl` are told to believe and show.
pub fn credentials(ca: &Path, holder: &Holder) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    [
        "--cacert".into(),
        path(ca),
        "--cert".into(),
        path(&holder.certificate),
        "--key".into(),
        path(&holder.key),
    ]
    .into()
}
