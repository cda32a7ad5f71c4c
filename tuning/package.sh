#!/usr/bin/env bash
# Makes a Debian package of this checkout: program, unit, user, directories, manual page and completions.
#
#   tuning/package.sh            builds target/debian/pinion_*.deb
#   tuning/package.sh --check    and then unpacks it, looks whether everything is there, and runs what was unpacked
#
# Needs cargo-deb (`cargo install --locked cargo-deb`) and, for --check, dpkg-deb and curl.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'package.sh: %s\n' "$*" >&2; exit 1; }

check=false
case ${1:-} in
    --check) check=true ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit ;;
    '') ;;
    *) die "unknown: $1 (--check or nothing)" ;;
esac
cargo deb --version > /dev/null 2>&1 || die 'cargo-deb is missing: cargo install --locked cargo-deb'

target=${CARGO_TARGET_DIR:-target}
cargo build --release --locked --package pinion
program=$target/release/pinion
extra=target/package # as Cargo.toml has it
mkdir -p "$extra"
"$program" man | gzip --best --no-name > "$extra/pinion.1.gz"
for shell in bash zsh fish; do "$program" completion $shell > "$extra/pinion.$shell"; done
package=$(cargo deb --no-build --no-strip --package pinion | tail -n 1)
printf '%s\n' "$package"
$check || exit 0

dir=$(mktemp -d)
member=
end() {
    [ -z "$member" ] || kill "$member" 2> /dev/null || true
    rm -rf "$dir"
}
trap end EXIT
dpkg-deb --extract "$package" "$dir/tree"
dpkg-deb --control "$package" "$dir/control"
for file in usr/bin/pinion lib/systemd/system/pinion.service etc/pinion/pinion.env \
    usr/share/man/man1/pinion.1.gz usr/share/bash-completion/completions/pinion \
    usr/share/zsh/vendor-completions/_pinion usr/share/fish/vendor_completions.d/pinion.fish \
    usr/share/doc/pinion/examples/pinion.env; do
    [ -e "$dir/tree/$file" ] || [ -e "$dir/tree/usr/$file" ] || die "the package lacks $file"
done
grep -q '^/etc/pinion/pinion.env$' "$dir/control/conffiles" || die 'pinion.env is no configuration file'
for script in postinst postrm; do sh -n "$dir/control/$script"; done

# Its own flags, but for where things are: whoever checks has other servers.
port=$((20000 + $$ % 10000))
set -a
# shellcheck disable=SC1091
. "$dir/tree/etc/pinion/pinion.env"
ETCD_DATA_DIR=$dir/data
ETCD_LISTEN_CLIENT_URLS=http://127.0.0.1:$port ETCD_ADVERTISE_CLIENT_URLS=http://127.0.0.1:$port
ETCD_LISTEN_PEER_URLS=http://127.0.0.1:$((port + 1)) ETCD_INITIAL_ADVERTISE_PEER_URLS=http://127.0.0.1:$((port + 1))
ETCD_INITIAL_CLUSTER=default=http://127.0.0.1:$((port + 1))
set +a
"$dir/tree/usr/bin/pinion" > "$dir/log" 2>&1 &
member=$!
for _ in $(seq 300); do
    if curl --silent --max-time 2 "http://127.0.0.1:$port/health" | grep -q true; then
        printf 'the package has all files, and what it holds serves\n'
        exit 0
    fi
    kill -0 "$member" 2> /dev/null || { cat "$dir/log" >&2; die 'the member ended'; }
    sleep 0.1
done
cat "$dir/log" >&2
die 'the member does not serve'
