#!/usr/bin/env bash
# Sees to it that a Docker daemon answers: where none does, and we are root on Debian, installs and starts one.
# With DOCKER_HOST set, that daemon has to answer; none is started.
set -euo pipefail

fail() { echo "docker: $*" >&2; exit 1; }
answers() { docker info >/dev/null 2>&1; }

answers && exit 0
[ -z "${DOCKER_HOST:-}" ] || fail "nothing answers at DOCKER_HOST=$DOCKER_HOST"
[ "$(id -u)" -eq 0 ] || fail "no daemon answers; start one, or let root install one: sudo tools/docker-engine.sh"
if ! command -v dockerd >/dev/null || ! command -v iptables >/dev/null; then
    command -v apt-get >/dev/null || fail "install Docker first"
    echo "docker: installing docker.io"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends docker.io iptables >/dev/null
    answers && exit 0 # the package's own service may have started it
fi
log=/var/log/esper-dockerd.log
echo "docker: starting dockerd; its log is $log"
nohup setsid dockerd >"$log" 2>&1 </dev/null &
for _ in $(seq 60); do
    answers && exit 0
    kill -0 $! 2>/dev/null || break
    sleep 0.5
done
fail "dockerd did not start: $(grep -v level=info "$log" | tail -n 1)"
