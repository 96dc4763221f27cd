"""foreign.py GRETA DIR: traces of the NumPy engine for `greta score --foreign DIR/foreign`.

For every model DIR/NAME.gguf that the benign part of the exam asks, the NumPy engine runs prompts
drawn by the model's name under each pair of contracts, and writes its own traces to
DIR/foreign/NAME/. The header of a trace says what the run was of; what it says of the model is
taken from a trace of GRETA's of the same file, as a reader would. A trace that is there stays.
"""
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import engine  # noqa: E402

MODELS = """llama-q8_0 gemma2-q5_1 qwen2-q4_0 qwen3-f16 gemma3-q6_k phi3-q5_0 llama-f32
            llama-q4_k""".split()
CONTRACTS = [("f32", "f32"), ("q8", "f16"), ("f32", "f16"), ("q8", "f32")]
LENGTHS = (11, 19)


def header_of(greta, model, ids, act, kv):
    """What a trace of ours says of the model."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "ours.jsonl"
        subprocess.run([greta, "trace", "-m", str(model), "--tokens", ",".join(map(str, ids)),
                        "-o", str(path), "-n", "0", "--act", act, "--kv", kv, "--threads", "1"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(path) as lines:
            return json.loads(lines.readline())


def main():
    greta, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    for name in MODELS:
        model, out = folder / f"{name}.gguf", folder / "foreign" / name
        out.mkdir(parents=True, exist_ok=True)
        for number, (n, (act, kv)) in enumerate((n, c) for n in LENGTHS for c in CONTRACTS):
            path = out / f"{n}-{act}-{kv}.jsonl"
            if path.exists():
                continue
            pick = random.Random(f"{name} {number}")
            ids = [pick.randrange(300) for _ in range(n)]
            header = header_of(greta, model, ids, act, kv)
            part = out / f"{path.name}.part"
            engine.Engine(model, ids, act, kv).write(part, {**header, "stages": "all"})
            os.replace(f"{part}.blob", f"{path}.blob")
            os.replace(part, path)


main()
