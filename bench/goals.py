#!/usr/bin/env python3
"""goals.py - the speed goals of GRETA, measured beside llama-bench: one table, met or not.

    bench/models.sh build/tools/mkmodel /tmp/models
    bench/goals.py --greta build/greta --models /tmp/models \\
        --llama-bench 'llama.cpp=/path/llama-bench' --llama-bench 'ik=/path/llama-bench -rtr 1'

A goal is a row of GOALS: what is run, which figure counts, and what it must reach. Shares are of
the read bandwidth or the arithmetic peak around each run (compare_llama_bench.py says how); the
best peer is the better one of this very run. --only takes a regular expression over the rows.
"""
import argparse
import json
import re
import sys
from pathlib import Path
from statistics import median
from types import SimpleNamespace

from compare_llama_bench import (Case, Failed, Greta, answer, compare, locked, options_add, show,
                                 summary)


def goal(model, threads, case, figure, least):
    return SimpleNamespace(model=model, threads=threads, case=case, figure=figure, goal=least,
                           name=f"{model} {case} threads {threads} {figure}")


GOALS = [
    goal("1b-Q8_0", 1, "tg64", "read", 0.90),
    goal("1b-Q4_0", 1, "tg64", "read", 0.85),
    goal("1b-Q4_K_M", 1, "tg64", "read", 0.85),
    goal("1b-Q8_0", 2, "tg64", "read", 0.95),
    goal("1b-Q4_0", 2, "tg64", "read", 0.90),
    goal("1b-Q4_K_M", 2, "tg64", "read", 0.90),
    goal("135m-Q8_0", 2, "tg64", "read", 0.80),
    goal("135m-Q4_0", 2, "tg64", "read", 0.80),
    goal("135m-Q4_K_M", 2, "tg64", "read", 0.80),
    goal("1b-Q4_0", 2, "tg64@d2048", "slower than at 0", 1.15),
    goal("1b-Q8_0", 2, "pp512", "int8", 0.50),
    goal("1b-Q4_0", 2, "pp512", "int8", 0.50),
    goal("1b-Q4_K_M", 2, "pp512", "int8", 0.50),
    goal("1b-F32", 2, "pp512", "fma", 0.80),
    goal("1b-F16", 2, "pp512", "fma", 0.80),
    goal("1b-BF16", 2, "pp512", "fma", 0.80),
    goal("1b-Q8_0", 2, "tg64@b8", "over one", 5.0),
    goal("1b-Q4_0", 2, "tg64@b8", "over one", 5.0),
    goal("1b-Q8_0", 2, "pp512", "traced statistics", 1.05),
    goal("135m-Q8_0", 2, "tg64", "traced statistics", 1.10),
    goal("1b-Q8_0", 2, "pp512", "every value kept", 1.10),
    goal("135m-Q8_0", 2, "tg64", "every value kept", 1.10),
]
TRACED = {"traced statistics": "stats", "every value kept": "full"}
AT_MOST = ("slower than at 0", *TRACED)


class Measured:
    """Comparisons that were made, each once, and what greta alone was asked."""

    def __init__(self, engines, options):
        self.engines, self.options = engines, options
        self.results, self.turns, self.alone = {}, [], []

    def compared(self, row, case):
        key = row.model, row.threads, case
        if key not in self.results:
            path = self.options.models / f"{row.model}.gguf"
            self.results[key] = compare(self.engines, path, row.threads, Case(case), self.options)
            show(self.results[key])
        return summary(self.results[key])

    def greta_alone(self, row, *arguments):
        path = self.options.models / f"{row.model}.gguf"
        with locked(self.options.lock):
            told = answer([str(self.options.greta), "bench", str(path), "--threads",
                           str(row.threads), "--repeat", str(self.options.rounds), "--json",
                           *arguments])
        self.alone.append(told)
        return told

    def slower(self, row):
        """Depth 0 and the case in turn, since bandwidth moves from one minute to the next."""
        path, ratios = self.options.models / f"{row.model}.gguf", {}
        once = SimpleNamespace(**{**vars(self.options), "rounds": 1})
        for _ in range(self.options.rounds):
            results = [compare(self.engines, path, row.threads, Case(case), once)
                       for case in (row.case.split("@")[0], row.case)]
            self.turns += results
            at_0, deep = (summary(result) for result in results)
            for label in deep:
                if deep[label]["rate"] and at_0[label]["rate"]:
                    ratio = at_0[label]["rate"]["median"] / deep[label]["rate"]["median"]
                    ratios.setdefault(label, []).append(ratio)
        return {label: median(of) for label, of in ratios.items()}

    def figures(self, row):
        """{label: figure} of a row; a peer that gave none is left out."""
        case = Case(row.case)
        sizes = ["--prompt", str(case.n if case.is_prefill else 0), "--gen",
                 str(0 if case.is_prefill else case.n)]
        if row.figure == "over one":
            told = self.greta_alone(row, *sizes, "--batch", f"1,{case.batch}")
            return {"greta": told["decode"][1]["over_one"]}
        if row.figure in TRACED:
            told = self.greta_alone(row, *sizes, "--trace", TRACED[row.figure])
            part = told["prefill"] if case.is_prefill else told["decode"][0]
            return {"greta": part["trace"]["slower"]["median"]}
        if row.figure == "slower than at 0":
            return self.slower(row)
        here = self.compared(row, row.case)
        return {label: one["shares"][row.figure]["median"] for label, one in here.items()
                if row.figure in one["shares"]}


def line_of(row, figures):
    """The row of the table; own: what greta reached."""
    own = figures.pop("greta", None)
    is_at_most = row.figure in AT_MOST
    best = (min if is_at_most else max)(figures.items(), key=lambda item: item[1], default=None)
    is_met = own is not None and (own <= row.goal if is_at_most else own >= row.goal)
    return (f"| {row.case} {row.model}, threads {row.threads}: {row.figure} | "
            f"{f'{best[1]:.3f} {best[0]}' if best else '-'} | "
            f"{'-' if own is None else f'{own:.3f}'} | {'<=' if is_at_most else '>='} "
            f"{row.goal:.2f} | {'met' if is_met else 'not met'} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options_add(parser)
    parser.add_argument("--models", type=Path, required=True, help="folder that models.sh filled")
    parser.add_argument("--only", default="", help="regular expression over the rows")
    options = parser.parse_args()
    rows = [row for row in GOALS if re.search(options.only, row.name)]
    greta = Greta(options.greta, n_probe=options.probes)
    measured = Measured([greta, *options.llama_bench], options)
    lines = []
    try:
        for row in rows:
            lines.append(line_of(row, measured.figures(row)))
            print(f"  {lines[-1]}", flush=True)
    except Failed as failure:
        sys.exit(f"goals: {failure}")
    finally:
        print("\n| case | best peer | greta | goal | |\n|---|---|---|---|---|")
        print("\n".join(lines))
        if options.json:
            Path(options.json).write_text(json.dumps(
                {"table": lines, "compared": [*measured.results.values(), *measured.turns],
                 "greta": measured.alone}, indent=1) + "\n")


if __name__ == "__main__":
    main()
