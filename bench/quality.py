#!/usr/bin/env python3
"""What 8-bit activations and the f16 KV cache cost, beside llama.cpp on the same file.

    bench/quality.py -m MODEL --llama SOURCE --llama-lib FOLDER [-f FILE...] [--check N] [--json]

The yardstick is the forward pass with the file's weights as they are, f32 activations and an f32 KV
cache: greta with --act f32 --kv f32, itself held to a NumPy pass in f64 by tests/py/test_oracle.py,
and here for the first N positions with --check N. For every position x of every window it is
    KL(x) = sum over the vocabulary of p (log p - log q),  p of the yardstick, q of a side, in f64
Both programs are given the same ids in the same windows, each in an empty context. A ratio of mean
KLs comes with a 95 % bootstrap interval over runs of 64 positions, because neighbours are alike.
llama.cpp is the user's: its source folder for the headers, and the folder of its built libllama.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TEXT = ["tests/oracle/prose.txt", "prompts/*.txt", "README.md", "docs/*.md"]
N_POSITION_MIN = 2000
RUN, N_RESAMPLE = 64, 4000
YARDSTICK = ("greta", ["--act", "f32", "--kv", "f32"], None)
# Name: program, its options, and for llama.cpp's sides the side of ours with the same KV cache.
SIDES = {
    "greta": ("greta", [], None),
    "greta, KV f32": ("greta", ["--kv", "f32"], None),
    "greta, act f32": ("greta", ["--act", "f32"], None),
    "llama.cpp": ("llama", [], "greta"),
    "llama.cpp, no repack": ("llama", ["no-repack"], "greta"),
    "llama.cpp, no flash attention": ("llama", ["no-flash"], "greta"),
    "llama.cpp, KV f32, no flash attention": ("llama", ["kv-f32", "no-flash"], "greta, KV f32"),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-f", "--file", nargs="+", type=Path, help="text; default: our own")
    parser.add_argument("--greta", default=ROOT / "build/greta", type=Path)
    parser.add_argument("--llama", required=True, type=Path, help="source folder of llama.cpp")
    parser.add_argument("--llama-lib", required=True, type=Path, help="folder with libllama.so")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=12, help="how many at most")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(),
                        help="sides at once, each with one thread: they share no barrier")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="NAME",
                        help="some of: " + "; ".join(SIDES))
    parser.add_argument("--check", type=int, default=0, metavar="N", help="positions held to f64")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    needed = {SIDES[name][2] for name in args.sides} | set(args.sides)
    args.sides = {name: side for name, side in SIDES.items() if name in needed}
    return args


# ---- Logits -------------------------------------------------------------------------------------


def call(command, **options):
    done = subprocess.run([str(word) for word in command], stderr=subprocess.PIPE, **options)
    if done.returncode:
        sys.exit(f"quality: {command[0]}: exit {done.returncode}: {done.stderr.decode()[-2000:]}")
    return done.stdout


def windows_of(args):
    """Ids, (windows, window); each window begins with BOS where the model adds one."""
    def tokenize(*text):
        command = [args.greta, "tokenize", "-m", args.model, "--unknown-bytes", "drop", "--json"]
        return json.loads(call([*command, *text], stdout=subprocess.PIPE))

    files = args.file or [path for glob in TEXT for path in sorted(ROOT.glob(glob))]
    bos = tokenize("-p", "")
    ids = [id for path in files for id in tokenize("--no-bos", "-f", path)]
    room = args.window - len(bos)
    n = min(args.windows, len(ids) // room)
    if n * (args.window - 1) < N_POSITION_MIN:
        sys.exit(f"quality: {n} windows of the text's {len(ids)} tokens hold fewer than "
                 f"{N_POSITION_MIN} positions")
    return np.array([bos + ids[i * room : (i + 1) * room] for i in range(n)], "<i4")


def peer_build(args, folder):
    """peer_logits for the llama.cpp of the user."""
    program = folder / "peer_logits"
    include = [f"-I{args.llama / 'include'}", f"-I{args.llama / 'ggml/include'}"]
    library = args.llama_lib.resolve()
    call([os.environ.get("CC", "cc"), "-O2", *include, Path(__file__).with_name("peer_logits.c"),
          "-o", program, f"-L{library}", "-lllama", f"-Wl,-rpath,{library}"])
    return program


def logits(args, side, ids, folder):
    """Logits of a window on a side, mapped from a file of folder: (window, vocabulary) in f32."""
    program, options = side[:2]
    out = folder / f"{program}{'-'.join(options)}.logits"
    if program == "greta":
        call([args.greta, "run", "-m", args.model, "--tokens", ",".join(map(str, ids)), "-n", 0,
              "--threads", 1, "--logits", "all", "--logits-out", out, "--force",
              "--json", "--top", 0, *options], stdout=subprocess.DEVNULL)
    else:
        with open(out, "wb") as file:
            call([folder / "peer_logits", args.model, 1, *options],
                 input=ids.tobytes(), stdout=file)
    return np.memmap(out, "<f4", "r").reshape(len(ids), -1)


# ---- Measures -----------------------------------------------------------------------------------


def normalised(logits):
    """(x, c): x - c are the log-probabilities."""
    x = logits.astype(np.float64)
    x -= x.max()
    return x, np.log(np.exp(x).sum())


def measure(yardstick, sides, ids):
    """(KL, nll, same first choice) of every position but the last: (sides + 1, 3, positions)."""
    out = np.empty((len(sides) + 1, 3, len(ids) - 1))
    for position, target in enumerate(ids[1:]):
        x, x_sum = normalised(yardstick[position])
        p = np.exp(x - x_sum)
        for i, side in enumerate([yardstick, *sides]):
            y, y_sum = normalised(side[position])
            out[i, :, position] = (p @ (x - y) + (y_sum - x_sum), y_sum - y[target],
                                   p[y.argmax()] == p.max())
    return out


def ratio(kl, peer):
    """mean(kl) / mean(peer) and its interval; both (windows, positions)."""
    at = np.arange(0, kl.shape[1], RUN)
    sums = np.stack([np.add.reduceat(x, at, axis=1).ravel() for x in (kl, peer)])
    drawn = np.random.default_rng(1).integers(0, sums.shape[1], (N_RESAMPLE, sums.shape[1]))
    a, b = sums[:, drawn].sum(axis=-1)
    return [float(x) for x in (kl.mean() / peer.mean(), *np.quantile(a / b, [0.025, 0.975]))]


def shift(nll, exact):
    """Mean of nll - exact, and the standard error of it over runs of neighbours."""
    at = np.arange(0, nll.shape[1], RUN)
    size = np.add.reduceat(np.ones(nll.shape), at, axis=1).ravel()
    mean = (nll - exact).mean()
    off = np.add.reduceat(nll - exact - mean, at, axis=1).ravel()
    return float(mean), float(np.sqrt((off ** 2).sum()) / size.sum())


def check(args, ids, yardstick):
    """The yardstick beside the NumPy pass in f64."""
    sys.path.insert(0, str(ROOT / "tests/oracle"))
    import llama

    n = min(args.check, len(ids) - 1)
    model = llama.Model(args.model)
    exact = llama.forward(model, [llama.Sequence(model)], [ids[:n]])[0]
    error = np.linalg.norm(yardstick[:n] - exact) / np.linalg.norm(exact)
    kl = measure(exact, [yardstick[:n]], ids[:n])[1, 0]
    return {"positions": n, "relative_error": float(error), "kl_mean": float(kl.mean())}


def run(args):
    windows = windows_of(args)
    measured, checked = [], None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peer_build(args, folder)
        for i, ids in enumerate(windows):
            with ThreadPoolExecutor(args.jobs) as pool:
                yardstick, *sides = pool.map(lambda side: logits(args, side, ids, folder),
                                             [YARDSTICK, *args.sides.values()])
            measured.append(measure(yardstick, sides, ids))
            if args.check and not i:
                checked = check(args, ids, yardstick)
            print(f"\rwindow {i + 1}/{len(windows)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    # Each of the three is (sides + 1, windows, positions).
    kl, nll, same = np.stack(measured, axis=2).swapaxes(0, 1)
    rows = {}
    for i, (name, side) in enumerate([("yardstick", YARDSTICK), *args.sides.items()]):
        rows[name] = {"kl_mean": kl[i].mean(), "kl_99": np.quantile(kl[i], 0.99),
                      "kl_max": kl[i].max(), "top1": same[i].mean(),
                      "perplexity": np.exp(nll[i].mean()),
                      "nll_shift": shift(nll[i], nll[0])}
        if side[2]:
            rows[name]["ratio"] = ratio(kl[1 + list(args.sides).index(side[2])], kl[i])
    return {"model": Path(args.model).name, "windows": len(windows), "window": args.window,
            "positions": kl[0].size, "check": checked, "sides": rows}


def main():
    args = arguments()
    result = run(args)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{result['model']}: {result['positions']} positions, windows of {result['window']}")
    if result["check"]:
        print("yardstick beside f64: {positions} positions, relative error {relative_error:.2e}, "
              "mean KL {kl_mean:.2e}".format(**result["check"]))
    print(f"{'':38}{'mean KL':>10}{'99 %':>10}{'max':>10}{'top-1':>9}{'perplexity':>12}"
          "  greta / it, mean KL [95 %]")
    for name, row in result["sides"].items():
        line = "{kl_mean:10.3e}{kl_99:10.2e}{kl_max:10.2e}{top1:9.2%}{perplexity:12.5f}"
        part = "  {:.3f} [{:.3f}, {:.3f}]".format(*row["ratio"]) if "ratio" in row else ""
        print(f"{name:38}{line.format(**row)}{part}")


if __name__ == "__main__":
    main()
