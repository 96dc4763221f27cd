#!/bin/sh
# run.sh BUILD VENV [pytest options...] - GRETA against Hugging Face transformers, tests/hf.
#
# The packages go into a virtual environment of their own, VENV; one that is there with the pinned
# versions is used as it stands, so that a cache can serve many
# builds. Free space is looked at first: torch from PyPI brings CUDA and unpacks to 6 GB, and while
# it is unpacked the downloads lie beside it. HF_PIP_OPTIONS goes to pip, for an index with CPU-only
# builds of torch (1 GB). Not part of `make check`.
set -eu

build=$1
venv=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
pinned=$here/requirements.txt
needed_gb=10

has_pinned() {
    "$venv/bin/python" - "$pinned" 2>/dev/null <<'EOF'
import importlib.metadata as metadata
import sys

for line in open(sys.argv[1]):
    name, _, version = line.split("#")[0].strip().partition("==")
    if name and metadata.version(name).split("+")[0] != version:
        sys.exit(f"{name} is {metadata.version(name)}, not {version}")
EOF
}

if ! has_pinned; then
    if [ "${GRETA_OFFLINE:-0}" = 1 ]; then
        echo "check-hf: $venv lacks packages of $pinned, and GRETA_OFFLINE=1" >&2
        exit 1
    fi
    mkdir -p "$venv"
    free_gb=$(df -Pk "$venv" | awk 'NR == 2 { print int($4 / 1048576) }')
    if [ "$free_gb" -lt "$needed_gb" ] && [ -z "${HF_PIP_OPTIONS:-}" ]; then
        echo "check-hf: $venv has $free_gb GB free (at least $needed_gb GB); name a folder with" \
            "room by HF_VENV=..., or an index with CPU builds of torch in HF_PIP_OPTIONS" >&2
        exit 1
    fi
    echo "check-hf: installing torch and transformers into $venv (about 6 GB, some minutes)"
    python3 -m venv "$venv"
    # shellcheck disable=SC2086 # the options are meant to be split
    "$venv/bin/python" -m pip install -q --no-cache-dir --disable-pip-version-check \
        ${HF_PIP_OPTIONS:-} -r "$pinned"
    has_pinned || { echo "check-hf: $venv is not what $pinned says" >&2; exit 1; }
fi

mkdir -p "$build/tmp"
GRETA_BIN=$(cd "$build" && pwd)/greta
GRETA_TMP=$(cd "$build/tmp" && pwd)
export GRETA_BIN GRETA_TMP
# Nothing is looked up on the hub: the models are made here.
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TRANSFORMERS_VERBOSITY=error
exec "$venv/bin/python" -m pytest -q -p no:cacheprovider --tb=short --show-capture=no \
    "$here" "$@"
