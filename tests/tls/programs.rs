//! Programs that people use, as a test runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pinion_kit::tls::{Authority, Holder};
use pinion_kit::{Launch, Server, WorkDir, free_port, installed};

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

/// What a program wrote, and whether it ended well. It has 20 s.
pub async fn run(program: &Path, args: &[String], input: &'static str) -> (bool, String) {
    let mut command = Command::new("timeout");
    command.arg("20").arg(program).args(args).env("ETCDCTL_API", "3");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let done = tokio::task::spawn_blocking(move || {
        use std::io::Write as _;
        let mut child = command.spawn().unwrap();
        // It may have ended without reading.
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        child.wait_with_output().unwrap()
    });
    let output = done.await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

/// The `etcdctl` of 3.4 and that of 3.5, as far as they are there.
pub fn etcdctls() -> Vec<PathBuf> {
    let newer = PathBuf::from("/opt/etcd35/usr/bin/etcdctl");
    installed("etcdctl").into_iter().chain(Some(newer).filter(|path| path.is_file())).collect()
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
