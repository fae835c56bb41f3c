#!/usr/bin/env bash
# Unpacks Debian's package dataset-fashion-mnist into a cache folder, without root, unless it is there.
set -euo pipefail

package=dataset-fashion-mnist
system=/usr/share/datasets/fashion-mnist
cache="${XDG_CACHE_HOME:-$HOME/.cache}/esper/datasets"
for folder in "$system" "$cache/fashion-mnist"; do
    [ -e "$folder/train-images-idx3-ubyte.gz" ] && exit 0
done

fail() {
    echo "data: $*" >&2
    echo "data: install the package $package some other way, or train without it: make demo TASK=digits (esper train --task digits)" >&2
    exit 1
}
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "Fashion-MNIST comes from Debian's packages, and there is no apt here"

echo "data: fetching Fashion-MNIST (Debian's $package, 31 MB); usually 2 to 20 seconds (once)"
mkdir -p "$cache"
work="$(mktemp -d "$cache/fetch.XXXXXX")"
trap 'rm -rf "$work"' EXIT
cd "$work"

# apt needs no root when its caches and lists lie in a folder of ours. The system's lists are tried first.
fetch() {
    apt-get --quiet=2 -o APT::Sandbox::User="$(id -un)" -o Dir::Cache="$work/cache" -o Dir::Log="$work" "$@" >>apt.log 2>&1
}
own=(-o Dir::State="$work/state" -o Dir::State::Lists="$work/lists" -o Dir::State::status=/var/lib/dpkg/status
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
mkdir -p cache/archives/partial lists/partial state
if ! fetch download "$package"; then
    echo "data: apt's package lists are old or missing; reading new ones"
    fetch "${own[@]}" update || true # what could be read is enough, if the download then works
    fetch "${own[@]}" download "$package" || fail "apt-get could not download $package: $(grep -m1 '^E:' apt.log || tail -n1 apt.log)"
fi
dpkg-deb --extract "$package"_*.deb unpacked
rm -rf "$cache/fashion-mnist"
mv unpacked/usr/share/datasets/fashion-mnist "$cache/fashion-mnist"
echo "data: Fashion-MNIST is in $cache/fashion-mnist"
