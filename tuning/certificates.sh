#!/usr/bin/env bash
# A CA and certificates for a trial cluster, by openssl.
#
#   tuning/certificates.sh DIR [HOST...]
#
# DIR gets ca.pem and ca.key; server.pem and peer.pem with their keys, for localhost, the loopback addresses and
# each HOST (a name or an address); and client.pem with its key, whose common name is root. What is there stays:
# delete a file pair to have it made anew, which members that run take up within a second.
#
# Keys lie there unencrypted, the CA's too: for a trial, not for serving.
set -euo pipefail

[ $# -ge 1 ] && [ "${1#-}" = "$1" ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
command -v openssl >/dev/null || { echo "$0: openssl is needed (Debian: apt-get install openssl)" >&2; exit 1; }
dir=$1
shift
mkdir -p "$dir"
umask 077

names=DNS:localhost,IP:127.0.0.1,IP:::1
for host in "$@"; do
    case $host in
    *[!0-9.]*) case $host in *:*) names+=,IP:$host ;; *) names+=,DNS:$host ;; esac ;;
    *) names+=,IP:$host ;;
    esac
done

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

if [ ! -e "$dir/ca.pem" ]; then
    key "$dir/ca.key"
    openssl req -x509 -new -key "$dir/ca.key" -days 3650 -subj "/CN=pinion trial CA" -out "$dir/ca.pem" \
        -addext keyUsage=critical,keyCertSign,cRLSign
fi

# NAME COMMON-NAME PURPOSES
issue() {
    [ ! -e "$dir/$1.pem" ] || return 0
    local extensions=extendedKeyUsage=$3
    [ "$1" = client ] || extensions+=$'\n'subjectAltName=$names
    key "$dir/$1.key"
    openssl req -new -key "$dir/$1.key" -subj "/CN=$2" |
        openssl x509 -req -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -days 365 -set_serial "0x$(openssl rand -hex 15)" \
            -extfile <(printf 'basicConstraints=CA:FALSE\n%s\n' "$extensions") -out "$dir/$1.new" 2>/dev/null
    # Whole, or not under its name.
    mv "$dir/$1.new" "$dir/$1.pem"
}

issue server server serverAuth,clientAuth
issue peer peer serverAuth,clientAuth
issue client root clientAuth
chmod 644 "$dir"/*.pem
