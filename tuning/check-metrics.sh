#!/bin/sh
# Whether a member tells all that etcd's Grafana dashboard and alert rules ask for.
#
#   tuning/check-metrics.sh [http://127.0.0.1:2379/metrics]
#
# Prints what is missing and ends with 1 if anything is. Series of peers need a cluster, and
# grpc_server_handling_seconds needs --metrics=extensive. With promtool on PATH its complaints are printed too, but
# for those about names that are etcd's own.
set -eu

url=${1:-http://127.0.0.1:2379/metrics}
page=$(mktemp)
trap 'rm -f "$page"' EXIT
curl --silent --show-error --fail --max-time 10 --output "$page" "$url"

missing=0
for series in \
    etcd_disk_backend_commit_duration_seconds_bucket \
    etcd_disk_wal_fsync_duration_seconds_bucket \
    etcd_mvcc_db_total_size_in_bytes \
    etcd_mvcc_db_total_size_in_use_in_bytes \
    etcd_network_client_grpc_received_bytes_total \
    etcd_network_client_grpc_sent_bytes_total \
    etcd_network_peer_received_bytes_total \
    etcd_network_peer_round_trip_time_seconds_bucket \
    etcd_network_peer_sent_bytes_total \
    etcd_network_peer_sent_failures_total \
    etcd_server_has_leader \
    etcd_server_leader_changes_seen_total \
    etcd_server_proposals_applied_total \
    etcd_server_proposals_committed_total \
    etcd_server_proposals_failed_total \
    etcd_server_proposals_pending \
    etcd_server_quota_backend_bytes \
    grpc_server_handled_total \
    grpc_server_handling_seconds_bucket \
    grpc_server_started_total \
    process_resident_memory_bytes
do
    if ! grep -q "^$series[{ ]" "$page"; then
        echo "missing: $series"
        missing=1
    fi
done

if command -v promtool >/dev/null; then
    promtool check metrics <"$page" 2>&1 |
        grep -v '^etcd_.*\("_total" suffix\|use base unit "seconds"\)' || true
fi
[ "$missing" -eq 0 ] && echo "all series of dashboard and alerts are there"
exit "$missing"
