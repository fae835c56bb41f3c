#!/usr/bin/env bash
# Makes .venv with everything that Esper needs, at the versions of constraints.txt.
# TORCH_INDEX: a package index for torch alone, such as one with builds for the CPU only.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-python3}"
fail() { echo "set-up: $*" >&2; exit 1; }

command -v "$PYTHON" >/dev/null || fail "there is no $PYTHON; install Python 3.11 or newer, or name one: make setup PYTHON=python3.12"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$PYTHON" --version) is too old; name Python 3.11 or newer: make setup PYTHON=python3.12"
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "this Python cannot make environments; install python3-venv (sudo apt-get install python3-venv)"

echo "set-up: making .venv and installing PyTorch and the rest; usually 1 to 3 minutes, some 5 GB (once)"
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
install() { .venv/bin/uv pip install --quiet --python .venv/bin/python --constraint constraints.txt "$@"; }
if [ -n "${TORCH_INDEX:-}" ]; then
    echo "set-up: torch comes from TORCH_INDEX"
    install --no-deps --reinstall-package torch --default-index "$TORCH_INDEX" torch
fi
install --editable '.[dev]'
touch .venv/complete
echo "set-up: .venv is ready"
