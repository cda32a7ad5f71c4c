//! The one table of series: name, type, labels, buckets and meaning, in the order of a scrape.
//!
//! Meanings say what is measured here. Where etcd's name says more than that, the meaning says what stands in its
//! place; `LEFT_OUT` says what is absent, and why.

use std::fmt::Write as _;

/// What a series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One series.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    /// Upper bounds of a histogram's buckets.
    pub(super) bounds: &'static [f64],
    pub(super) help: &'static str,
}

/// So many bounds, each so many times the one before. Decimal steps are written out, since etcd's text is compared.
const fn exponential<const N: usize>(first: f64, factor: f64) -> [f64; N] {
    let mut bounds = [first; N];
    let mut at = 1;
    while at < N {
        bounds[at] = bounds[at - 1] * factor;
        at += 1;
    }
    bounds
}

static NONE: [f64; 0] = [];
static MS_14: [f64; 14] = exponential(0.001, 2.0);
static TENTH_MS_16: [f64; 16] = exponential(0.0001, 2.0);
static TENTH_MS_20: [f64; 20] = exponential(0.0001, 2.0);
static CS_15: [f64; 15] = exponential(0.01, 2.0);
static ONE_13: [f64; 13] = exponential(1.0, 2.0);
static ONE_24: [f64; 24] = exponential(1.0, 2.0);
static HUNDRED_14: [f64; 14] = exponential(100.0, 2.0);
static TEN_US_20: [f64; 20] = exponential(0.00001, 2.0);
static GROUP_REQUESTS: [f64; 14] = exponential(1.0, 2.0);
static GROUP_BYTES: [f64; 12] = exponential(256.0, 4.0);
static GRPC: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

macro_rules! series {
    ($($id:ident: $kind:ident $name:literal [$($label:literal)*] $bounds:ident $help:literal;)*) => {
        /// A series, by what it measures; the row says its name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Name {
            $($id,)*
        }

        static ROWS: &[Row] = &[$(Row {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            bounds: &$bounds,
            help: $help,
        },)*];
    };
}

series! {
    ClusterVersion: Gauge "etcd_cluster_version" ["cluster_version"] NONE "1 for the version of etcd's API that the cluster speaks.";
    LeaseGranted: Counter "etcd_debugging_lease_granted_total" [] NONE "Leases granted.";
    LeaseRenewed: Counter "etcd_debugging_lease_renewed_total" [] NONE "Renewals that this member answered as the leader.";
    LeaseRevoked: Counter "etcd_debugging_lease_revoked_total" [] NONE "Leases revoked, by clients or because they ended.";
    LeaseTtl: Histogram "etcd_debugging_lease_ttl_total" [] ONE_24 "Seconds for which leases were granted.";
    CompactRevision: Gauge "etcd_debugging_mvcc_compact_revision" [] NONE "The revision of the last compaction.";
    CurrentRevision: Gauge "etcd_debugging_mvcc_current_revision" [] NONE "The current revision.";
    CompactionKeys: Counter "etcd_debugging_mvcc_db_compaction_keys_total" [] NONE "Records that compactions removed.";
    CompactionLast: Gauge "etcd_debugging_mvcc_db_compaction_last" [] NONE "When the last compaction was complete, in seconds since 1970.";
    CompactionPause: Histogram "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds" [] ONE_13 "Milliseconds of each slice of a compaction, in which the store does nothing else.";
    CompactionTotal: Histogram "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds" [] HUNDRED_14 "Milliseconds from the first slice of a compaction to its last.";
    WatchEvents: Counter "etcd_debugging_mvcc_events_total" [] NONE "Events given to watchers.";
    Keys: Gauge "etcd_debugging_mvcc_keys_total" [] NONE "Keys that the revision index holds, with those deleted and not compacted yet.";
    PendingEvents: Gauge "etcd_debugging_mvcc_pending_events_total" [] NONE "Revisions that watchers which are behind have still to be told.";
    SlowWatchers: Gauge "etcd_debugging_mvcc_slow_watcher_total" [] NONE "Watchers that are behind and read history.";
    TotalPutSize: Gauge "etcd_debugging_mvcc_total_put_size_in_bytes" [] NONE "Bytes of keys and values put by requests of this member's log since its start.";
    WatchStreams: Gauge "etcd_debugging_mvcc_watch_stream_total" [] NONE "Open watch streams.";
    Watchers: Gauge "etcd_debugging_mvcc_watcher_total" [] NONE "Watchers of all streams.";
    Alarms: Gauge "etcd_debugging_server_alarms" ["server_id" "alarm_type"] NONE "1 while the alarm of that member is active.";
    LeaseExpired: Counter "etcd_debugging_server_lease_expired_total" [] NONE "Leases that ended because nobody renewed them.";
    SnapSave: Histogram "etcd_debugging_snap_save_total_duration_seconds" [] MS_14 "From the begin of a checkpoint until it is durable, while other work goes on.";
    BackendCommit: Histogram "etcd_disk_backend_commit_duration_seconds" [] MS_14 "There is no backend to commit to: how long the store takes to apply what was committed, a group of requests each.";
    WalFsync: Histogram "etcd_disk_wal_fsync_duration_seconds" [] MS_14 "How long the log takes to sync a group.";
    WalWriteBytes: Gauge "etcd_disk_wal_write_bytes_total" [] NONE "Bytes of entries written to the log.";
    WalWrite: Histogram "etcd_disk_wal_write_duration_seconds" [] MS_14 "How long the log takes to copy a group, before its sync.";
    DbSize: Gauge "etcd_mvcc_db_total_size_in_bytes" [] NONE "Bytes of memory that the key space holds, as the quota counts them.";
    DbSizeInUse: Gauge "etcd_mvcc_db_total_size_in_use_in_bytes" [] NONE "The same without what compactions have not given back yet.";
    Deletes: Counter "etcd_mvcc_delete_total" [] NONE "Keys deleted.";
    HashDuration: Histogram "etcd_mvcc_hash_duration_seconds" [] CS_15 "How long a hash of all data takes, in slices between other work.";
    HashRevDuration: Histogram "etcd_mvcc_hash_rev_duration_seconds" [] CS_15 "How long a hash at a revision takes, in slices between other work.";
    Puts: Counter "etcd_mvcc_put_total" [] NONE "Keys put.";
    Ranges: Counter "etcd_mvcc_range_total" [] NONE "Ranges answered outside of transactions.";
    Txns: Counter "etcd_mvcc_txn_total" [] NONE "Transactions applied.";
    ActivePeers: Gauge "etcd_network_active_peers" ["Local" "Remote"] NONE "1 while messages to that member get through.";
    ClientReceived: Counter "etcd_network_client_grpc_received_bytes_total" [] NONE "Bytes of messages from clients.";
    ClientSent: Counter "etcd_network_client_grpc_sent_bytes_total" [] NONE "Bytes of messages to clients.";
    DisconnectedPeers: Counter "etcd_network_disconnected_peers_total" ["Local" "Remote"] NONE "Times that messages to that member ceased to get through.";
    KnownPeers: Gauge "etcd_network_known_peers" ["Local" "Remote"] NONE "1 for every other member.";
    PeerReceived: Counter "etcd_network_peer_received_bytes_total" ["From"] NONE "Bytes from that member, on all connections.";
    PeerReceiveFailures: Counter "etcd_network_peer_received_failures_total" ["From"] NONE "Connections with that member that ended by a fault.";
    PeerRoundTrip: Histogram "etcd_network_peer_round_trip_time_seconds" ["To"] TENTH_MS_16 "From a call to that member to its answer, asked every few seconds.";
    PeerSent: Counter "etcd_network_peer_sent_bytes_total" ["To"] NONE "Bytes to that member, on all connections.";
    PeerSendFailures: Counter "etcd_network_peer_sent_failures_total" ["To"] NONE "Messages to that member that could not be sent.";
    SnapshotSendFailures: Counter "etcd_network_snapshot_send_failures" ["To"] NONE "Checkpoints that could not be sent to that member.";
    SnapshotSendSuccess: Counter "etcd_network_snapshot_send_success" ["To"] NONE "Checkpoints sent to that member.";
    ApplyDuration: Histogram "etcd_server_apply_duration_seconds" ["version" "op" "success"] TENTH_MS_20 "How long the store takes to apply one request.";
    ClientRequests: Counter "etcd_server_client_requests_total" ["type" "client_api_version"] NONE "Calls by the version of the API that the client says it speaks.";
    FeatureEnabled: Gauge "etcd_server_feature_enabled" ["name" "stage"] NONE "1 for each feature gate that is open, 0 for the others.";
    HasLeader: Gauge "etcd_server_has_leader" [] NONE "1 while this member knows a leader.";
    HealthFailures: Counter "etcd_server_health_failures" [] NONE "Answers of /health that this member is not well.";
    HealthSuccess: Counter "etcd_server_health_success" [] NONE "Answers of /health that this member is well.";
    HeartbeatFailures: Counter "etcd_server_heartbeat_send_failures_total" [] NONE "Heartbeats that this leader sent a tick late or more.";
    ServerId: Gauge "etcd_server_id" ["server_id"] NONE "1; the label is this member's id.";
    IsLeader: Gauge "etcd_server_is_leader" [] NONE "1 while this member leads.";
    IsLearner: Gauge "etcd_server_is_learner" [] NONE "1 while this member has no vote.";
    LeaderChanges: Counter "etcd_server_leader_changes_seen_total" [] NONE "Times that this member heard of another leader than before.";
    Applied: Gauge "etcd_server_proposals_applied_total" [] NONE "The index of the last log entry applied.";
    Committed: Gauge "etcd_server_proposals_committed_total" [] NONE "The index of the last log entry known to be committed.";
    ProposalsFailed: Counter "etcd_server_proposals_failed_total" [] NONE "Requests that this member could not bring to the log or to an outcome in time.";
    ProposalsPending: Gauge "etcd_server_proposals_pending" [] NONE "Requests of this member's clients on their way through the log.";
    Quota: Gauge "etcd_server_quota_backend_bytes" [] NONE "Bytes that the key space may take.";
    RangeDuration: Histogram "etcd_server_range_duration_seconds" ["success"] TENTH_MS_20 "How long the store takes to answer one range, but for long lists, which it reads in slices between other work.";
    ReadIndexesFailed: Counter "etcd_server_read_indexes_failed_total" [] NONE "Linearizable reads that could not be confirmed in time.";
    SlowApply: Counter "etcd_server_slow_apply_total" [] NONE "Requests that took the store 100 ms or longer.";
    SlowReadIndexes: Counter "etcd_server_slow_read_indexes_total" [] NONE "Rounds of linearizable reads that had to be asked again.";
    ServerVersion: Gauge "etcd_server_version" ["server_version"] NONE "1; the label is the version of etcd's API.";
    GrpcHandled: Counter "grpc_server_handled_total" ["grpc_type" "grpc_service" "grpc_method" "grpc_code"] NONE "Calls that have ended, by status.";
    GrpcHandlingSeconds: Histogram "grpc_server_handling_seconds" ["grpc_type" "grpc_service" "grpc_method"] GRPC "From a call's request headers to the end of its answer. With --metrics=extensive.";
    GrpcReceived: Counter "grpc_server_msg_received_total" ["grpc_type" "grpc_service" "grpc_method"] NONE "Messages of requests.";
    GrpcSent: Counter "grpc_server_msg_sent_total" ["grpc_type" "grpc_service" "grpc_method"] NONE "Messages of answers.";
    GrpcStarted: Counter "grpc_server_started_total" ["grpc_type" "grpc_service" "grpc_method"] NONE "Calls that have begun.";
    FdLimit: Gauge "os_fd_limit" [] NONE "File descriptors that this process may have.";
    FdUsed: Gauge "os_fd_used" [] NONE "File descriptors that this process has.";
    BuildInfo: Gauge "pinion_build_info" ["version"] NONE "1; the label is the version of Pinion.";
    ClientConnections: Gauge "pinion_client_connections" [] NONE "Connections of clients.";
    ClientAccepted: Counter "pinion_client_connections_accepted_total" [] NONE "Connections of clients taken in.";
    ClientEnded: Counter "pinion_client_connections_ended_total" ["reason"] NONE "Connections of clients that this member ended, by reason.";
    ClientTimeouts: Counter "pinion_client_timeouts_total" [] NONE "Calls answered that they took too long.";
    ClientUnsent: Gauge "pinion_client_unsent_bytes" ["of"] NONE "Bytes of answers that clients have not taken yet.";
    Commit: Histogram "pinion_commit_seconds" [] TEN_US_20 "From the moment when this leader hands entries to its log until they are committed: the longer of its own sync and what a quorum needs.";
    CoreBusy: Counter "pinion_core_busy_seconds_total" ["core" "roles"] NONE "Seconds in which the roles of one executor had work to do. Its rate is the busy share of the core.";
    ApplyLag: Gauge "pinion_apply_lag_entries" [] NONE "Log entries that are committed and not applied.";
    CheckpointBytes: Gauge "pinion_checkpoint_bytes" [] NONE "Bytes of the newest checkpoint.";
    FollowerLag: Gauge "pinion_follower_lag_entries" ["To"] NONE "Entries of this leader's log that the follower has not acknowledged.";
    GroupBytes: Histogram "pinion_group_bytes" [] GROUP_BYTES "Bytes of a log entry, which holds a group of requests.";
    GroupRequests: Histogram "pinion_group_requests" [] GROUP_REQUESTS "Requests in one group.";
    Leases: Gauge "pinion_leases" [] NONE "Leases that there are.";
    LoadByAddressRequests: Counter "pinion_load_by_address_requests_total" ["address"] NONE "Requests by the address of the client; the heaviest alone. A lower bound.";
    LoadByAddressBytes: Counter "pinion_load_by_address_bytes_total" ["address"] NONE "Bytes of requests and answers by the address of the client; the heaviest alone. A lower bound.";
    LoadByAddressChanged: Counter "pinion_load_by_address_changed_keys_total" ["address"] NONE "Keys changed by the address of the client; the heaviest alone. A lower bound.";
    LoadByPrefixRequests: Counter "pinion_load_by_prefix_requests_total" ["prefix"] NONE "Requests by the first segments of the key; the heaviest alone. A lower bound.";
    LoadByPrefixBytes: Counter "pinion_load_by_prefix_bytes_total" ["prefix"] NONE "Bytes of requests and answers by the first segments of the key; the heaviest alone. A lower bound.";
    LoadByPrefixChanged: Counter "pinion_load_by_prefix_changed_keys_total" ["prefix"] NONE "Keys changed by the first segments of the key; the heaviest alone. A lower bound.";
    Memory: Gauge "pinion_memory_bytes" ["owner"] NONE "Bytes of memory by what they are for, as far as their owners count them.";
    RingMessages: Gauge "pinion_ring_messages" ["to"] NONE "Messages that wait in the rings to a role.";
    RoleUp: Gauge "pinion_role_up" ["role"] NONE "1 for a role that answered this scrape in time. The series of one that did not are absent.";
    Sync: Histogram "pinion_sync_seconds" ["role"] TEN_US_20 "How long syncs take: of the log, a group each, and of the files that the checkpoint writer makes durable.";
    WatchLag: Histogram "pinion_watch_lag_seconds" [] TEN_US_20 "From the apply of a group to the moment when a shard has its events for its watchers' streams.";
    ProcessCpu: Counter "process_cpu_seconds_total" [] NONE "Seconds of processor time that this process has used.";
    ProcessMaxFds: Gauge "process_max_fds" [] NONE "File descriptors that this process may have.";
    ProcessNetworkReceive: Counter "process_network_receive_bytes_total" [] NONE "Bytes received by the network interfaces that this process sees.";
    ProcessNetworkTransmit: Counter "process_network_transmit_bytes_total" [] NONE "Bytes sent by the network interfaces that this process sees.";
    ProcessOpenFds: Gauge "process_open_fds" [] NONE "File descriptors that this process has.";
    ProcessResident: Gauge "process_resident_memory_bytes" [] NONE "Bytes of memory that this process has touched, with the log's mapped segments.";
    ProcessStart: Gauge "process_start_time_seconds" [] NONE "When this process started, in seconds since 1970.";
    ProcessVirtual: Gauge "process_virtual_memory_bytes" [] NONE "Bytes of addresses that this process has mapped.";
    ProcessVirtualMax: Gauge "process_virtual_memory_max_bytes" [] NONE "Bytes of addresses that this process may map; 2^64 for no bound.";
}

impl Name {
    pub(super) fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }
}

/// Series of etcd that measure nothing here, and why.
static LEFT_OUT: &[(&str, &str)] = &[
    (
        "etcd_debugging_disk_backend_commit_{rebalance,spill,write}_duration_seconds, etcd_disk_backend_snapshot_duration_seconds, etcd_mvcc_db_open_read_transactions",
        "there is no bbolt",
    ),
    (
        "etcd_disk_backend_defrag_duration_seconds, etcd_disk_defrag_inflight",
        "there is nothing to defragment",
    ),
    (
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
        "the index is compacted in the slices that etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds counts",
    ),
    ("etcd_debugging_store_*", "there is no second store; requests of v2 are counted by /v2/stats/store"),
    (
        "etcd_debugging_server_watch_send_loop_*",
        "no watch stream has a loop of its own; see pinion_watch_lag_seconds",
    ),
    (
        "etcd_debugging_snap_save_marshalling_duration_seconds, etcd_snap_fsync_duration_seconds, etcd_snap_db_*",
        "a checkpoint is written in slices; see etcd_debugging_snap_save_total_duration_seconds and pinion_sync_seconds",
    ),
    (
        "etcd_network_snapshot_receive_*, etcd_network_snapshot_send_inflights_total, etcd_network_snapshot_send_total_duration_seconds",
        "not counted yet",
    ),
    (
        "etcd_server_healthcheck, etcd_server_healthchecks_total, etcd_server_learner_promote_*, etcd_network_server_stream_failures_total, etcd_server_snapshot_apply_in_progress_total",
        "not counted yet",
    ),
    ("etcd_debugging_auth_revision", "not counted yet"),
    (
        "etcd_server_request_duration_seconds",
        "new in etcd 3.7 and not counted yet; see etcd_server_apply_duration_seconds",
    ),
    ("etcd_server_go_version, go_*, promhttp_*", "there is no Go"),
];

/// The table of all series, as `tuning/METRICS.md` has it.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\nWhat `/metrics` answers, on every client port and on `--listen-metrics-urls`. Made by `pinion --help-metrics`, from\n\
         the table that the member reports by; a test compares them.\n\n\
         | series | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for row in ROWS {
        let (name, kind, labels) = (row.name, row.kind.word(), row.labels.join(", "));
        let help = row.help.replace('|', "\\|");
        let _infallible = writeln!(text, "| `{name}` | {kind} | {labels} | {help} |");
    }
    text.push_str("\n## Series of etcd that are left out\n\n| series | why |\n|---|---|\n");
    for (names, why) in LEFT_OUT {
        let _infallible = writeln!(text, "| `{names}` | {why} |");
    }
    text
}

#[cfg(test)]
pub(super) fn rows() -> &'static [Row] {
    ROWS
}
