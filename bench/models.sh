#!/bin/sh
# models.sh - writes the models of bench/goals.sh: the shapes of SmolLM2-135M and Llama-3.2-1B with
# random weights, in every type that is measured. About 15 GB; a file that is there is kept.
#
# The embedding is also the head, as in the models of these shapes. It has the type that llama.cpp's
# quantiser gives it: Q8_0 in a Q8_0 file, Q6_K in Q4_0 and Q4_K_M files, and Q8_0 where the rows
# of the 135m shape (576) do not fit Q6_K. All engines read the same file.
set -e
if [ $# -lt 2 ]; then
    echo "usage: bench/models.sh MKMODEL FOLDER [SHAPE ...]" >&2
    exit 2
fi
mkmodel=$1
folder=$2
shift 2
mkdir -p "$folder"

write() { # shape, type, type of the embedding
    file=$folder/$1-$2.gguf
    if [ ! -f "$file" ]; then
        "$mkmodel" --out "$file.partial" --shape "$1" --type "$2" --embd-type "$3" >/dev/null
        mv "$file.partial" "$file"
        echo "$file"
    fi
}

for shape in ${*:-135m 1b}; do
    six=Q6_K
    [ "$shape" = 135m ] && six=Q8_0
    write "$shape" Q8_0 Q8_0
    write "$shape" Q4_0 "$six"
    write "$shape" Q4_K_M "$six"
    for type in F32 F16 BF16; do
        write "$shape" $type $type
    done
done
