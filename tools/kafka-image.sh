#!/usr/bin/env bash
# Builds the image that the tests run brokers and registries from where apache/kafka cannot be pulled:
# Debian, a Java, and the jars of `esper dev`. Needs root, debootstrap and a Docker daemon.
# Usage: tools/kafka-image.sh NAME:TAG
set -euo pipefail
cd "$(dirname "$0")/.."

image="${1:?name the image, such as esper/kafka:4.2.1}"
fail() { echo "image: $*" >&2; exit 1; }
docker image inspect "$image" >/dev/null 2>&1 && exit 0
[ "$(id -u)" -eq 0 ] || fail "debootstrap needs root: sudo tools/kafka-image.sh $image"
command -v debootstrap >/dev/null || fail "install debootstrap first (apt-get install debootstrap)"

# The release that has Java 17, from where this machine's own packages come.
suite=bookworm
mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' | head -n 1)"
mirror="${mirror:-http://deb.debian.org/debian}"
[[ "$mirror" == *security* ]] && mirror="${mirror%-security/}"

echo "image: building $image from Debian $suite and the jars; usually 1 to 2 minutes (once)"
jars="$(.venv/bin/python -c 'import sys; from esper.dev.jars import fetched; print(fetched(lambda text: print(text, file=sys.stderr)).kafka.parent)')"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
debootstrap --variant=minbase --include=openjdk-17-jre-headless "$suite" "$work/root" "$mirror" >"$work/log" 2>&1 ||
    fail "debootstrap failed: $(tail -n 1 "$work/log")"
rm -rf "$work/root/var/cache/apt" "$work/root/var/lib/apt/lists" "$work/root/usr/share/doc" "$work/root/usr/share/locale"
mkdir -p "$work/root/opt/kafka"
# Where apache/kafka has its jars, so that one command starts either.
cp -r "$jars/kafka" "$work/root/opt/kafka/libs"
cp -r "$jars/registry" "$work/root/opt/registry"
tar -C "$work/root" -c . | docker import - "$image" >/dev/null
echo "image: $image is ready"
