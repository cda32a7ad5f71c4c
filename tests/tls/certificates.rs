//! Members' certificates and their flags, as a cluster is started with them.

use pinion_kit::tls::{Authority, Holder};
use pinion_kit::{Launch, WorkDir};

/// A member whose peers come by TLS.
pub fn with_peer_tls(launch: &mut Launch, holder: &Holder, authority: &Authority) {
    let url = format!("https://127.0.0.1:{}", launch.peer_port);
    let [certificate, key] = holder.flags("peer-cert-file", "peer-key-file");
    launch.flags.extend([
        format!("--listen-peer-urls={url}"),
        format!("--initial-advertise-peer-urls={url}"),
        certificate,
        key,
        format!("--peer-trusted-ca-file={}", authority.certificate.display()),
        "--peer-client-cert-auth".to_owned(),
    ]);
}

/// Members of these names in directories of their own, not started.
pub fn launches(work: &WorkDir, count: usize) -> Vec<Launch> {
    (0..count)
        .map(|number| Launch::new(work.join(&format!("m{number}"))).named(&format!("m{number}")))
        .collect()
}

/// Tells all of them who they are, by https.
pub fn list_all(launches: &mut [Launch]) {
    let listed: Vec<String> =
        launches.iter().map(|each| format!("{}=https://127.0.0.1:{}", each.name, each.peer_port)).collect();
    launches.iter_mut().for_each(|each| each.initial_cluster = Some(listed.join(",")));
}
