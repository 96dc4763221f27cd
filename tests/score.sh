#!/bin/sh
# score.sh BUILD JOBS [flags of greta score] - the exam on tiny models of three families, written
# into BUILD/score; it goes on where it was stopped. README.md shows the table of
# `make score SCORE='--modes fresh,warm'`.
set -eu
build=$1 jobs=$2
shift 2
folder=$build/score
mkdir -p "$folder"

model() { # NAME OPTIONS...
    [ -f "$folder/$1.gguf" ] || "$build/tools/mkmodel" --out "$folder/$1.gguf" \
        $(echo "$2") >"$folder/$1.txt" # the options are meant to be split
}

model llama-q8_0 "--type Q8_0 --layers 4 --vocab 301 --ff 1120 --rope-factors"
model gemma2-q5_1 "--arch gemma2 --type Q5_1 --layers 4"
model qwen3moe-q4_k "--arch qwen3moe --type Q4_K --ff 256 --layers 3"
models=$folder/llama-q8_0.gguf,$folder/gemma2-q5_1.gguf,$folder/qwen3moe-q4_k.gguf
exec "$build/greta" score -m "$models" --seed 11 --jobs "$jobs" --threads 1 --out "$folder" "$@"
