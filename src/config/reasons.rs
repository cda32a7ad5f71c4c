//! Why flags of etcd are refused, or have no effect: what whoever gives one is told.

pub(super) const NO_BBOLT: &str = "there is no bbolt file";
pub(super) const NO_GATEWAY_CLIENT: &str =
    "the JSON gateway is part of the member and opens no connection to it";
pub(super) const NO_PROXY: &str = "there is no v2 proxy, which etcd has dropped";
pub(super) const NO_V2_DISCOVERY: &str =
    "there is no v2 discovery, which etcd has dropped; use --discovery-endpoints and --discovery-token";
pub(super) const NO_PROFILES: &str = "there is no pprof, which is Go's; use perf";
pub(super) const WAITS_ANYWAY: &str =
    "clients are let in once this member has caught up, however long that takes";
pub(super) const NO_TRACING: &str = "nothing is traced; --enable-distributed-tracing is refused";
pub(super) const SYNCS_ANYWAY: &str =
    "every acknowledged write is synced, which is what makes it acknowledged";
