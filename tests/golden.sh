#!/bin/sh
# golden.sh - holds this machine against the golden digests, with the programs beside this script.
#
# `make golden-kit` packs it with static programs, so that nothing needs to be installed: unpack
# anywhere and run. It prints the CPU and its kernel tables, checks the digests of each table, and
# runs a sample of the bit-exactness matrix (argument: its seed). Exit status 0: all bits are right.
set -u

here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d) || exit 4
trap 'rm -rf "$scratch"' EXIT
export GRETA_TOOLS="$here" GRETA_TMP="$scratch"
failed=0

run() {
    "$@" >"$scratch/out" || failed=1
    grep -v ' tensors, ' "$scratch/out" # what mkmodel says
}

grep -m 1 'model name' /proc/cpuinfo
grep -m 1 '^flags' /proc/cpuinfo | tr ' ' '\n' | grep -E '^(fma|f16c|avx|amx)' | tr '\n' ' '
echo
run "$here/golden_tool" check "$here/golden"
run "$here/matrix_tool" sample "${1:-1}"
if [ "$failed" = 0 ]; then
    echo "OK: every digest and every bit"
else
    echo "DIFFERENCES: see the lines that start with 'not ok' and those before them"
fi
exit "$failed"
