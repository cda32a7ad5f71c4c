#!/bin/sh
# Puts, gets and watchers through a proxy, beside etcd's own, in front of one member.
#
#   bench/proxy.sh ETCD [MEMBER]      ETCD: an etcd that has `grpc-proxy`; MEMBER: the server behind (default: ETCD)
#
# Needs target/release/pinion and target/release/pinion-bench. Server and proxy share a core, the client has the other.
# Each line of pinion-bench names what it measured; the proxies take turns, ROUNDS times (3).
set -eu
etcd=$1
member=${2:-$etcd}
here=$(cd "$(dirname "$0")/.." && pwd)
pinion=${PINION:-$here/target/release/pinion}
bench=${BENCH:-$here/target/release/pinion-bench}
work=$(mktemp -d)
server_cpu=${SERVER_CPU:-0}
client_cpu=${CLIENT_CPU:-1}
watchers=${WATCHERS:-10000}
member_port=${MEMBER_PORT:-23700}
proxy_port=$((member_port + 10))
pids=

cleanup() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT INT TERM

# Waits until the port takes connections.
await() {
    tries=0
    until curl -s -o "$work/page" "http://127.0.0.1:$1/health"; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { echo "nobody answers at $1" >&2; exit 2; }
        sleep 0.05
    done
}

taskset -c "$server_cpu" "$member" --data-dir "$work/member" --name m \
    --listen-client-urls "http://127.0.0.1:$member_port" --advertise-client-urls "http://127.0.0.1:$member_port" \
    --listen-peer-urls "http://127.0.0.1:$((member_port + 1))" \
    --initial-advertise-peer-urls "http://127.0.0.1:$((member_port + 1))" \
    --initial-cluster "m=http://127.0.0.1:$((member_port + 1))" >"$work/member.log" 2>&1 &
member_pid=$!
pids="$pids $member_pid"
await "$member_port"

measure() {
    name=$1
    program=$2
    port=$3
    taskset -c "$server_cpu" "$program" grpc-proxy start --endpoints="127.0.0.1:$member_port" \
        --listen-addr="127.0.0.1:$port" --advertise-client-url="127.0.0.1:$port" >"$work/$name.log" 2>&1 &
    proxy_pid=$!
    pids="$pids $proxy_pid"
    await "$port"
    for scenario in put get; do
        echo "== $name: $scenario, 16 connections x 32"
        "$bench" run "$scenario" --endpoint "127.0.0.1:$port" --connections 16 --in-flight 32 --duration 5s --fill \
            --pin "$client_cpu"
    done
    echo "== $name: $watchers watchers of one range"
    "$bench" watch fan-out --endpoint "127.0.0.1:$port" --watchers "$watchers" --streams 100 --connections 10 \
        --server-pid "$proxy_pid" --pin "$client_cpu" || echo "$name: the watchers were not told well"
    kill "$proxy_pid"
    wait "$proxy_pid" 2>/dev/null || true
}

round=0
while [ $round -lt "${ROUNDS:-3}" ]; do
    round=$((round + 1))
    echo "=== round $round"
    measure pinion "$pinion" "$proxy_port"
    measure etcd "$etcd" "$((proxy_port + 1))"
done
