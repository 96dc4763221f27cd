#!/bin/sh
# run.sh BUILD PEER PEER_LIB [pytest options...] - GRETA beside a llama.cpp of the user, tests/peer.
#
# PEER is a source folder of llama.cpp, for its headers; PEER_LIB the folder of the shared libraries
# built from it ('': PEER/build/bin). The Python packages of llama-cpp-python bring both: its
# source distribution has vendor/llama.cpp, which is built by
#     cmake -S vendor/llama.cpp -B lc -DGGML_NATIVE=ON -DLLAMA_CURL=OFF && cmake --build lc -t llama
# Real models come from greta's cache when they were pulled. Not part of `make check`.
set -eu

build=$1
peer=$2
library=${3:-$peer/build/bin}
shift 3
here=$(cd "$(dirname "$0")" && pwd)

if [ ! -f "$peer/include/llama.h" ] || [ ! -f "$library/libllama.so" ]; then
    echo "check-peer: no llama.cpp in PEER=$peer (include/llama.h) with PEER_LIB=$library" \
        "(libllama.so)" >&2
    exit 2
fi
library=$(cd "$library" && pwd)
PEER=$(cd "$peer" && pwd)
PEER_RECORD=$build/tools/peer_record
${CC:-cc} -std=c11 -O2 -Wall -Wextra "-I$PEER/include" "-I$PEER/ggml/include" \
    "$here/peer_record.c" -o "$PEER_RECORD" "-L$library" -lllama -lggml -lggml-base \
    "-Wl,-rpath,$library"

mkdir -p "$build/tmp"
build=$(cd "$build" && pwd)
PEER_RECORD=$build/tools/peer_record
PEER_LIB=$library
GRETA_BIN=$build/greta
GRETA_TOOLS=$build/tools
GRETA_TMP=$build/tmp
cache=${XDG_CACHE_HOME:-$HOME/.cache}/greta
GRETA_MODELS=
for model in smollm2-135m gemma3-270m; do
    if [ -f "$cache/$model.gguf" ]; then
        GRETA_MODELS=$GRETA_MODELS:$cache/$model.gguf
    else
        echo "check-peer: $model is not in the cache; greta pull $model brings it" >&2
    fi
done
export PEER PEER_LIB PEER_RECORD GRETA_BIN GRETA_TOOLS GRETA_TMP GRETA_MODELS
exec "$build/venv/bin/python" -m pytest -q -p no:cacheprovider --tb=short --show-capture=no \
    "$here" "$@"
