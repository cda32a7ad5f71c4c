#!/usr/bin/env bash
# A cluster on this machine, for trying it: builds Pinion, starts the members, says how to reach them,
# stops them at Ctrl-C. It restarts nobody, so that a member can be killed to see what happens; each
# member's own script starts it again.
#
#   tuning/cluster.sh [--members N] [--dir DIR] [--port PORT] [--tls] [-- more flags for every member]
#
# --tls: clients and members come by TLS, and show certificates; tuning/certificates.sh makes them in DIR/certificates.
#
# Not for serving: members that share a machine and a disk fail together, and take turns on its cores.
set -euo pipefail

members=3 dir=pinion-data port=2379 scheme=http
usage() {
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
}
while [ $# -gt 0 ]; do
    case $1 in
    --members | --dir | --port)
        [ $# -ge 2 ] || { echo "$0: $1 needs a value" >&2; exit 2; }
        declare "${1#--}=$2"
        shift 2
        ;;
    --tls) scheme=https; shift ;;
    --help | -h) usage; exit 0 ;;
    --) shift; break ;;
    *) usage >&2; exit 2 ;;
    esac
done
case $members in [1-9]) ;; *) echo "$0: --members $members: 1 to 9" >&2; exit 2 ;; esac
case $port in '' | *[!0-9]*) echo "$0: --port $port: a number" >&2; exit 2 ;; esac

# PINION names a binary that is built already.
pinion=${PINION:-}
if [ -z "$pinion" ]; then
    root=$(cd "$(dirname "$0")/.." && pwd)
    (cd "$root" && cargo build --release --bin pinion)
    pinion=${CARGO_TARGET_DIR:-$root/target}/release/pinion
fi
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

# Member 1 has PORT for clients and PORT+1 for members, member 2 PORT+10 and PORT+11, and so on.
client_url() { echo "$scheme://127.0.0.1:$((port + 10 * ($1 - 1)))"; }
peer_url() { echo "$scheme://127.0.0.1:$((port + 10 * ($1 - 1) + 1))"; }
initial='' endpoints=''
for ((i = 1; i <= members; i++)); do
    initial+=${initial:+,}m$i=$(peer_url "$i")
    endpoints+=${endpoints:+,}$scheme://127.0.0.1:$((port + 10 * (i - 1)))
done

security=() believed=''
if [ "$scheme" = https ]; then
    certificates=$dir/certificates
    "$(dirname "$0")/certificates.sh" "$certificates"
    security=(--cert-file="$certificates/server.pem" --key-file="$certificates/server.key"
        --trusted-ca-file="$certificates/ca.pem" --client-cert-auth
        --peer-cert-file="$certificates/peer.pem" --peer-key-file="$certificates/peer.key"
        --peer-trusted-ca-file="$certificates/ca.pem" --peer-client-cert-auth)
    believed="
  export ETCDCTL_CACERT=$certificates/ca.pem ETCDCTL_CERT=$certificates/client.pem ETCDCTL_KEY=$certificates/client.key"
fi

# What runs, by member: the process, and whether its end was told.
pids=()
stop() {
    trap - INT TERM
    echo
    echo "stopping"
    for pid in "${pids[@]}"; do
        kill -TERM "$pid" 2>/dev/null || true
    done
    wait
    exit 0
}
trap stop INT TERM

for ((i = 1; i <= members; i++)); do
    script=$dir/m$i.sh
    {
        echo '#!/bin/sh'
        printf 'exec'
        printf ' %q' "$pinion" --name="m$i" --data-dir="$dir/m$i" \
            --listen-client-urls="$(client_url "$i")" --advertise-client-urls="$(client_url "$i")" \
            --listen-peer-urls="$(peer_url "$i")" --initial-advertise-peer-urls="$(peer_url "$i")" \
            --initial-cluster="$initial" ${security[@]+"${security[@]}"} "$@"
        echo
    } >"$script"
    : >"$dir/m$i.log"
    # A session of its own: Ctrl-C is for this script, which then asks each member once.
    setsid sh "$script" >>"$dir/m$i.log" 2>&1 </dev/null &
    pids+=($!)
done

alive() { kill -0 "$1" 2>/dev/null; }

# Whether the member itself listens for clients. It does so once the cluster has taken it in and it can
# answer. That somebody answers on its port says nothing: it may be somebody else.
serves() {
    local hex inode fd
    hex=$(printf '%04X' $((port + 10 * ($1 - 1))))
    for inode in $(awk -v hex=":$hex" '$4 == "0A" && substr($2, length($2) - 4) == hex { print $10 }' /proc/net/tcp); do
        for fd in /proc/"${pids[$1 - 1]}"/fd/*; do
            [ "$(readlink "$fd")" != "socket:[$inode]" ] || return 0
        done
    done 2>/dev/null
    return 1
}

give_up() {
    trap - INT TERM
    for pid in "${pids[@]}"; do
        kill -TERM "$pid" 2>/dev/null || true
    done
    wait
    exit 1
}

# The members that have ended, each with the end of its log. Whether there is one.
report_ended() {
    local i found=1
    for ((i = 1; i <= members; i++)); do
        if ! alive "${pids[i - 1]}"; then
            echo "m$i has ended; $dir/m$i.log ends with:" >&2
            tail -n 3 "$dir/m$i.log" >&2
            found=0
        fi
    done
    return $found
}

tries=0
for ((i = 1; i <= members;)); do
    if report_ended; then
        give_up
    elif serves "$i"; then
        i=$((i + 1))
    elif [ "$tries" -ge 300 ]; then
        echo "m$i does not serve after 30 s; $dir/m$i.log ends with:" >&2
        tail -n 3 "$dir/m$i.log" >&2
        give_up
    else
        tries=$((tries + 1))
        sleep 0.1
    fi
done
if report_ended; then
    give_up
fi

echo "$members members serve; data, logs and a script for each are in $dir"
for ((i = 1; i <= members; i++)); do
    echo "  m$i  $(client_url "$i")  pid ${pids[i - 1]}"
done
cat <<END

In another terminal:
  export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=$endpoints$believed
  etcdctl endpoint status -w table
  etcdctl put greeting hello
  kill -9 ${pids[0]}; etcdctl put greeting again    # one member less
  sh $dir/m1.sh    # and it is back

Ctrl-C stops all that this script started. Started again, they have everything that was written.
END

left=$members
while [ "$left" -gt 0 ]; do
    code=0
    wait -n || code=$?
    left=0
    for ((i = 1; i <= members; i++)); do
        pid=${pids[i - 1]}
        if [ "$pid" != gone ] && alive "$pid"; then
            left=$((left + 1))
        elif [ "$pid" != gone ]; then
            pids[i - 1]=gone
            echo "m$i ended ($code); sh $dir/m$i.sh starts it again"
        fi
    done
done

echo "no member is left" >&2
exit 1
