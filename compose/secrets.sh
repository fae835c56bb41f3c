#!/usr/bin/env bash
# Makes what compose.yaml wants and no repository may hold: .env, and secrets/ with a certificate for the workers.
# What is there already stays as it is.
set -euo pipefail
cd "$(dirname "$0")"

random() { openssl rand -hex 24; }

if [ ! -e .env ]; then
    (umask 077 && printf '%s\n' "ESPER_WORKER_TOKEN=$(random)" "CLICKHOUSE_PASSWORD=$(random)" \
        "S3_ACCESS_KEY=esper" "S3_SECRET_KEY=$(random)" >.env)
    echo "compose: made compose/.env"
fi
if [ ! -e secrets/worker.crt ]; then
    # The folder is closed to others; the files are not, for in the containers they are read by another user.
    mkdir -p secrets
    chmod 700 secrets
    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=esper compose" \
        -keyout secrets/ca.key -out secrets/ca.crt 2>/dev/null
    openssl req -newkey rsa:2048 -nodes -subj "/CN=worker" -keyout secrets/worker.key -out secrets/worker.csr 2>/dev/null
    openssl x509 -req -in secrets/worker.csr -CA secrets/ca.crt -CAkey secrets/ca.key -CAcreateserial -days 3650 \
        -extfile <(printf 'subjectAltName=DNS:worker-1,DNS:worker-2,DNS:localhost,IP:127.0.0.1') \
        -out secrets/worker.crt 2>/dev/null
    rm secrets/worker.csr
    chmod 644 secrets/worker.key
    echo "compose: made compose/secrets/"
fi
