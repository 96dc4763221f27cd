#!/usr/bin/env python3
"""What comparing two full traces costs: time, bytes a second, memory, replay; over 1x to 4x tokens.

    bench/pairs.py -m MODEL [--greta GRETA] [--tokens 128] [--times 1,2,4]
                   [--only PAIR] [--keep DIR] [--json]

Two pairs of every length, all ops of all tokens with all values. `equal`: one prompt in chunks of
512 and of 64, which differ in no bit, compared without the model: what it costs to read, check and
pair. `differ`: KV cache in f16 and in f32, which differ nearly everywhere, with the model: every op
of every token is replayed. GB/s is bytes of both traces (records and values) over time, once by the
clock and once by CPU seconds (user + sys of all threads), which other programs disturb less.
Memory is the most that was resident, mapped pages included. `passes`: the work of all replays in
multiplications, over that of evaluating those tokens once (forward_passes of --json).

The files of 512 tokens of a 135M model take 1.1 GiB a trace; they lie in --keep, or in a temporary
folder that is removed. They are in the page cache when they are compared, if that is large enough.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = ROOT / "tests/peer/text.txt"
PAIRS = {"equal": ([], ["--chunk", "64"], False), "differ": ([], ["--kv", "f32"], True)}
ALIGNED = 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--greta", default=ROOT / "build/greta", type=Path)
    parser.add_argument("--tokens", type=int, default=128, help="of the shortest trace")
    parser.add_argument("--times", default="1,2,4", help="lengths, in multiples of it")
    parser.add_argument("--repeat", type=int, default=3, help="of the equal pair; the best counts")
    parser.add_argument("--only", choices=PAIRS, help="one of the two pairs")
    parser.add_argument("--keep", type=Path, help="folder for the traces; they stay")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def prompt(args, n):
    """n token ids of a text of ours, which is repeated if it is too short."""
    out = subprocess.run([args.greta, "tokenize", "-m", args.model, "-f", TEXT],
                         capture_output=True, text=True, check=True).stdout
    ids = [line.split()[0] for line in out.splitlines()]
    return ",".join((ids * (n // len(ids) + 1))[:n])


def trace(args, path, n, options):
    subprocess.run([args.greta, "trace", "-m", args.model, "--tokens", prompt(args, n), "-n", "0",
                    "--sample", "all", "--positions", "all", "--max-bytes", "64G", "-o", path,
                    "--force", *options], capture_output=True, check=True)


def measured(command):
    """JSON of the command, seconds by the clock, CPU seconds, MiB."""
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != ALIGNED:
            sys.exit(f"pairs: exit {child.returncode} of {' '.join(map(str, command))}")
        out.seek(0)
        return json.load(out), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def pair(args, folder, n, kind):
    *options, is_judged = PAIRS[kind]
    path = [folder / f"{kind}-{n}-{side}.jsonl" for side in "ab"]
    for side in range(2):
        trace(args, path[side], n, options[side])
    size = sum(Path(f"{p}{end}").stat().st_size for p in path for end in ("", ".blob"))
    command = [args.greta, "compare", *(["-m", args.model] if is_judged else []), "--json", *path]
    runs = [measured(command) for _ in range(1 if is_judged else args.repeat)]
    told = runs[0][0]
    seconds, cpu, memory = (min(run[i] for run in runs) for i in (1, 2, 3))
    if not args.keep:
        for p in path:
            p.unlink()
            Path(f"{p}.blob").unlink()
    judged = told["judged"] or {}
    return {"pair": kind, "tokens": n, "bytes": size, "records": told["paired"],
            "differ": told["differ"], "seconds": seconds, "cpu_seconds": cpu, "mib": memory,
            "gb_per_second": size / seconds / 1e9, "gb_per_cpu_second": size / cpu / 1e9,
            "forward_passes": judged.get("forward_passes")}


def main():
    args = arguments()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for kind in [args.only] if args.only else PAIRS:
            for times in args.times.split(","):
                rows.append(pair(args, folder, args.tokens * int(times), kind))
    if args.json:
        json.dump(rows, sys.stdout, indent=1)
        print()
        return
    print("pair    tokens     pairs   differ      GB    clock s    CPU s   GB/s  GB/CPU s    MiB "
          " passes")
    for r in rows:
        passes = f"{r['forward_passes']:.2f}" if r["forward_passes"] is not None else "-"
        print(f"{r['pair']:7} {r['tokens']:6} {r['records']:9} {r['differ']:8} "
              f"{r['bytes'] / 1e9:7.2f} {r['seconds']:10.2f} {r['cpu_seconds']:8.2f} "
              f"{r['gb_per_second']:6.2f} {r['gb_per_cpu_second']:9.2f} {r['mib']:6.0f} "
              f"{passes:>7}")


if __name__ == "__main__":
    main()
