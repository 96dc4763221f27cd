#!/usr/bin/env python3
"""compare_llama_bench.py - greta and builds of llama-bench on the same files, in turn.

    bench/compare_llama_bench.py --greta build/greta --model m.gguf --threads 1,2 \\
        --llama-bench 'llama.cpp=/path/llama-bench' --llama-bench 'ik=/path/llama-bench -rtr 1'

Every program is given by its path; nothing of others is built or fetched here. A round runs each
engine once, one process each, and a probe of the machine (greta bench --probe) stands before,
between and after them, so each run has the read bandwidth and the arithmetic peaks right before
and right after it. Shares are against the mean of the two. Rounds follow each other A B C, A B C,
...; ratios are taken within a round, and medians are over rounds: a machine that becomes slower
favours nobody.

What a share counts is the same for all engines, computed by greta from the file: for decode the
bytes of all matmul weights, one embedding row and the KV that is seen; for prefill the
multiply-adds of all matmuls. --lock FILE holds an exclusive lock of FILE during each round, for
machines where other jobs take a shared one.
"""
import argparse
import contextlib
import fcntl
import json
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

TIMEOUT = 3600  # seconds a run may take


class Failed(Exception):
    """A run that gave no figure; the text says why."""


def answer(command):
    """The JSON that a command prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT,
                              stdin=subprocess.DEVNULL)
    except OSError as error:
        raise Failed(f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]}: no answer in {TIMEOUT} s") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise Failed(f"{command[0]}: exit {done.returncode}: {last}")
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise Failed(f"{command[0]}: its answer is not JSON") from error


class Case:
    """pp512, tg64 or tg64@d2048; batch sizes are greta's alone: tg64@b8."""

    def __init__(self, text):
        match = re.fullmatch(r"(pp|tg)(\d+)(?:@d(\d+))?(?:@b(\d+))?", text)
        if not match or (match[1] == "pp" and (match[3] or match[4])):
            raise argparse.ArgumentTypeError(f"{text} is not like pp512, tg64 or tg64@d2048")
        self.text = text
        self.is_prefill = match[1] == "pp"
        self.n = int(match[2])
        self.depth, self.batch = int(match[3] or 0), int(match[4] or 1)


class Greta:
    def __init__(self, path, arguments=(), n_probe=3):
        self.label, self.path, self.arguments = "greta", str(path), list(arguments)
        self.n_probe = n_probe

    def probe(self, threads):
        """Bytes and operations per second: read, int8, fma; medians of n_probe."""
        told = answer([self.path, "bench", "--probe", "--threads", str(threads), "--repeat",
                       str(self.n_probe), "--json", *self.arguments])
        return {name: told["machine"][name]["per_second"]["median"]
                for name in ("read", "int8", "fma")}

    def run(self, model, threads, case):
        """What greta says of one case, and the tokens per second of it."""
        command = [self.path, "bench", str(model), "--threads", str(threads), "--repeat", "1",
                   "--json", *self.arguments]
        if case.is_prefill:
            told = answer([*command, "--prompt", str(case.n), "--gen", "0"])
            part = told["prefill"]
        else:
            told = answer([*command, "--prompt", "0", "--gen", str(case.n), "--depth",
                           str(case.depth), "--batch", str(case.batch)])
            part = told["decode"][0]
        return told, part, part["tokens_per_second"]["median"]


class LlamaBench:
    """`LABEL=PATH ARGUMENTS`; without LABEL= the path is the label."""

    def __init__(self, text):
        label, equals, command = text.partition("=")
        words = shlex.split(command if equals else text)
        if not words:
            raise argparse.ArgumentTypeError("no path of llama-bench is given")
        self.path, self.arguments = words[0], words[1:]
        self.label = label if equals else " ".join(words)
        self.help = None

    def knows(self, option):
        if self.help is None:
            try:
                done = subprocess.run([self.path, "--help"], capture_output=True, text=True)
            except OSError as error:
                raise Failed(f"{self.path}: {error.strerror}") from error
            self.help = done.stdout + done.stderr
        return re.search(rf"^\s+{option}[, ]", self.help, re.M) is not None

    def run(self, model, threads, case):
        command = [self.path, "-m", str(model), "-t", str(threads), "-r", "1", "-o", "json",
                   *self.arguments]
        if case.batch > 1:
            raise Failed("llama-bench decodes one sequence")
        if case.depth and not self.knows("-d"):
            raise Failed("this llama-bench has no -d")
        command += ["-p", str(case.n), "-n", "0"] if case.is_prefill else [
            "-p", "0", "-n", str(case.n)]
        command += ["-d", str(case.depth)] if case.depth else []
        told = [run for run in answer(command)
                if (run["n_prompt"], run["n_gen"]) == ((case.n, 0) if case.is_prefill
                                                       else (0, case.n))]
        if len(told) != 1:
            raise Failed("llama-bench did not run the case once")
        return told[0]["avg_ts"]


@contextlib.contextmanager
def locked(path):
    if path is None:
        yield
        return
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def share_of(part, case, rate, around):
    """Share of what the machine gave around the run; None: greta said nothing of this case."""
    mean = {name: (around[0][name] + around[1][name]) / 2 for name in around[0]}
    if case.is_prefill:
        seconds = case.n / rate
        return {name: part[f"ops_{name}"] / seconds / mean[name]
                for name in ("int8", "fma") if part[f"ops_{name}"]}
    seconds = case.n * case.batch / rate
    return {"read": (part["bytes_weights"] + part["bytes_kv"]) / seconds / mean["read"]}


def round_run(engines, model, threads, case, part):
    """One run of each engine: a list of {engine, rate, before, after} or {engine, failed}."""
    greta, runs = engines[0], []
    before = greta.probe(threads)
    for engine in engines:
        run = {"engine": engine.label, "before": before}
        try:
            if engine is greta:
                told, fresh, run["rate"] = engine.run(model, threads, case)
                part.update(fresh)
                run["cpu"], run["kernels"] = told["cpu"], told["kernels"]
                run["own_share"] = fresh.get("share", {}).get("median")
            else:
                run["rate"] = engine.run(model, threads, case)
        except Failed as failure:
            run["failed"] = str(failure)
        before = run["after"] = greta.probe(threads)
        runs.append(run)
    return runs


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def compare(engines, model, threads, case, options):
    """All rounds of one case. engines[0] is greta; --rounds and --lock come with the options."""
    rounds, part = [], {}
    for i in range(options.rounds):
        progress(f"{Path(model).name} {threads} threads {case.text}: round {i + 1} of "
                 f"{options.rounds}")
        with locked(options.lock):
            rounds.append(round_run(engines, model, threads, case, part))
    progress("")
    for run in (run for runs in rounds for run in runs):
        if "rate" in run and part:
            run["share"] = share_of(part, case, run["rate"], (run["before"], run["after"]))
    return {"model": str(model), "threads": threads, "case": case.text, "rounds": rounds}


def spread(values):
    values = sorted(values)
    return {"median": statistics.median(values), "min": values[0], "max": values[-1]}


def summary(result):
    """Per engine: rate, share, and its ratio to greta's rate of the same round."""
    table = {}
    for runs in result["rounds"]:
        own = runs[0].get("rate")
        for run in runs:
            row = table.setdefault(run["engine"], {"rate": [], "ratio": [], "shares": {}})
            if "failed" in run:
                row["failed"] = run["failed"]
                continue
            row["rate"].append(run["rate"])
            if own:
                row["ratio"].append(own / run["rate"])
            for name, share in run.get("share", {}).items():
                row["shares"].setdefault(name, []).append(share)
    for row in table.values():
        row["rate"] = spread(row["rate"]) if row["rate"] else None
        row["ratio"] = spread(row["ratio"]) if row["ratio"] else None
        row["shares"] = {name: spread(values) for name, values in row["shares"].items()}
    return table


def around_text(result):
    """The machine during the rounds."""
    reads = [run[side]["read"] / 1e9 for runs in result["rounds"] for run in runs
             for side in ("before", "after")]
    s = spread(reads)
    return f"read {s['median']:.1f} GB/s ({s['min']:.1f} to {s['max']:.1f})"


def show(result, out=sys.stdout):
    print(f"{Path(result['model']).name}, threads {result['threads']}, {result['case']}; "
          f"{around_text(result)}", file=out)
    for label, row in summary(result).items():
        if row["rate"] is None:
            print(f"  {label:16} {row['failed']}", file=out)
            continue
        rate, shares = row["rate"], ""
        for name, s in row["shares"].items():
            shares += f"  {name} {s['median']:.3f} ({s['min']:.3f} to {s['max']:.3f})"
        ratio = "" if label == "greta" or not row["ratio"] else (
            f"  greta is {row['ratio']['median']:.2f}x "
            f"({row['ratio']['min']:.2f} to {row['ratio']['max']:.2f})")
        print(f"  {label:16} {rate['median']:9.2f} tokens/s ({rate['min']:.2f} to "
              f"{rate['max']:.2f}){shares}{ratio}", file=out)
    out.flush()


def options_add(parser):
    """What goals.py takes too."""
    parser.add_argument("--greta", required=True, type=Path, help="the program greta")
    parser.add_argument("--llama-bench", action="append", default=[], type=LlamaBench,
                        metavar="[LABEL=]PATH [ARGUMENTS]", help="repeatable")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--probes", type=int, default=3, help="of the machine, between two runs")
    parser.add_argument("--lock", metavar="FILE", help="hold an exclusive lock in each round")
    parser.add_argument("--json", metavar="FILE", help="write all runs here")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options_add(parser)
    parser.add_argument("--model", action="append", required=True, type=Path)
    parser.add_argument("--threads", default="1,2", help="list; default 1,2")
    parser.add_argument("--case", default="pp512,tg64,tg64@d2048",
                        type=lambda text: [Case(part) for part in text.split(",")],
                        help="list; default pp512,tg64,tg64@d2048")
    options = parser.parse_args()
    if options.rounds < 1 or options.probes < 1:
        parser.error("--rounds and --probes are at least 1")
    greta = Greta(options.greta, n_probe=options.probes)
    engines, results = [greta, *options.llama_bench], []
    try:
        for model in options.model:
            for threads in map(int, options.threads.split(",")):
                for case in options.case:
                    results.append(compare(engines, model, threads, case, options))
                    show(results[-1])
    except Failed as failure:
        sys.exit(f"compare_llama_bench: {failure}")
    finally:
        if options.json:
            Path(options.json).write_text(json.dumps(
                [{**result, "summary": summary(result)} for result in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
