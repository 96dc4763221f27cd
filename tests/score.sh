#!/bin/sh
# score.sh BUILD JOBS [PART] [flags of greta score] - the exam on tiny models of every family,
# written into BUILD/score; it goes on where it was stopped. PART is one of
#
#     planted   the catalogue in three models, in every mode; every second kind as rows of a batch
#     real      bugs that happened, in every model that can carry them
#     benign    other arithmetic in twelve models, and traces of the NumPy engine beside ours
#     device    the CPU against devices with one mistake each, in six models
#     big       every twelfth kind in SmolLM2, layers 0, 15 and 29, where it has been pulled
#
# Without one all five are sat and the table is printed; README.md and docs/score.md show it
# (tools/score_readme.py).
set -eu
build=$1 jobs=$2
shift 2
here=$(dirname "$0")
folder=$build/score
mkdir -p "$folder"
part=${1:-all}
case $part in
planted | real | benign | device | big | all) [ $# -eq 0 ] || shift ;;
*) part=all ;;
esac

model() { # NAME OPTIONS...
    [ -f "$folder/$1.gguf" ] || "$build/tools/mkmodel" --out "$folder/$1.gguf" \
        $(echo "$2") >"$folder/$1.txt" # the options are meant to be split
}

model llama-q8_0 \
    "--type Q8_0 --layers 4 --vocab 301 --ff 1120 --rope-factors --heads 6 --heads-kv 3"
model gemma2-q5_1 "--arch gemma2 --type Q5_1 --layers 4 --window 9 --heads 6 --heads-kv 3"
model qwen3moe-q4_k "--arch qwen3moe --type Q4_K --ff 256 --layers 3"
model qwen2-q4_0 "--arch qwen2 --type Q4_0 --layers 3 --heads 6 --heads-kv 3"
model qwen3-f16 "--arch qwen3 --type F16 --layers 3 --untied --heads 6 --heads-kv 2"
model gemma3-q6_k "--arch gemma3 --type Q6_K --layers 7 --window 9 --heads 6 --heads-kv 3"
model phi3-q5_0 "--arch phi3 --type Q5_0 --layers 3 --ctx-original 40"
model llama-f32 "--type F32 --layers 3 --heads 6 --heads-kv 3"
model llama-q4_k "--type Q4_K --ff 256"
model llama-q3_k "--type Q3_K --ff 256"
model llama-bf16 "--type BF16"
model qwen2-iq4_nl "--arch qwen2 --type IQ4_NL"
model qwen3moe-q4_1 "--arch qwen3moe --type Q4_1"
model llama-vocab-65600 "--type Q8_0 --vocab 65600 --layers 2" # rows past 2^16

list() { # NAMES... -> paths with commas
    for name; do printf '%s%s' "${comma-}" "$folder/$name.gguf"; comma=,; done
    unset comma
}

planted=$(list llama-q8_0 gemma2-q5_1 qwen3moe-q4_k)
real=$(list llama-q8_0 gemma2-q5_1 qwen3moe-q4_k qwen2-q4_0 qwen3-f16 gemma3-q6_k phi3-q5_0 \
    llama-f32)
benign=$(list llama-q8_0 gemma2-q5_1 qwen2-q4_0 qwen3-f16 gemma3-q6_k phi3-q5_0 llama-f32 \
    llama-q4_k llama-q3_k llama-bf16 qwen2-iq4_nl qwen3moe-q4_1)

sit() { # PART MODELS flags: the table of a part is not printed, that of all is
    part_name=$1 models=$2
    shift 2
    echo "score: $part_name" >&2
    "$build/greta" score -m "$models" --jobs "$jobs" --threads 1 --out "$folder" "$@" \
        >"$folder/last.txt"
}

if [ $part = real ] || [ $part = all ]; then
    sit real "$real" --seed 11 --sorts real "$@"
fi
if [ $part = benign ] || [ $part = all ]; then
    for seed in 11 12 13 14 15 16; do # other tokens each
        sit "benign, seed $seed" "$benign" --seed $seed --sorts benign --modes engine "$@"
    done
    python=$build/venv/bin/python3
    [ -x "$python" ] || python=python3
    "$python" "$here/oracle/foreign.py" "$build/greta" "$folder"
    sit foreign "$benign" --seed 11 --sorts benign --modes foreign --foreign "$folder/foreign" "$@"
fi
device=$(list llama-q8_0 gemma2-q5_1 qwen3moe-q4_k qwen3-f16 llama-f32 llama-vocab-65600)
faults=fault,stack,outside,clean
if [ $part = device ] || [ $part = all ]; then
    for seed in 11 12; do
        sit "device, seed $seed" "$device" --seed $seed --modes device --sorts $faults "$@"
    done
fi
if [ $part = planted ] || [ $part = all ]; then
    sit planted "$planted" --seed 11 --modes fresh,warm,engine,reuse --sorts $faults "$@"
fi
smollm2=${GRETA_SMOLLM2:-$HOME/.cache/greta/smollm2-135m.gguf}
if { [ $part = big ] || [ $part = all ]; } && [ -f "$smollm2" ]; then
    sit big "$smollm2" --seed 11 --layers 0,15,29 --one-of 12 --modes fresh,engine \
        --sorts fault,outside,clean "$@"
fi
if [ $part = planted ] || [ $part = all ]; then
    sit batches "$planted" --seed 11 --modes batch --one-of 2 --sorts $faults "$@"
fi
cat "$folder/last.txt"
