"""Pairs of full traces, by bench/pairs.py: what comparing them costs grows with them and no faster,
in memory hardly at all, and replay stays below four forward passes. No speed is asserted.

In make check tiny models: for equal pairs one with a very wide FFN, whose traces outgrow what may
be resident (220 MB a pair) at little cost, and for pairs that are judged, a common one.
GRETA_LONG=1 (`make check-long`) takes SmolLM2, 30 layers, over 32 and 512 tokens: 2.3 GB a pair.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench/pairs.py"
LONG = os.environ.get("GRETA_LONG") == "1"
TOKENS, TIMES = (32, 16) if LONG else (16, 8)
SHAPES = {"equal": ("--type", "Q8_0", "--layers", 1, "--ff", 65536),
          "differ": ("--type", "Q8_0", "--layers", 3)}
MIB = 2**20


@pytest.fixture(scope="module")
def pairs(request, tmp_path_factory):
    rows = {}
    for kind, shape in SHAPES.items():
        model = request.getfixturevalue("smollm2") if LONG else \
            request.getfixturevalue("mkmodel")(*shape)
        command = [sys.executable, SCRIPT, "-m", model, "--greta", os.environ["GRETA_BIN"],
                   "--only", kind, "--tokens", TOKENS, "--times", f"1,{TIMES}", "--repeat", 1,
                   "--json"]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        rows[kind] = json.loads(done.stdout)
    return rows


def test_the_pairs_are_what_they_are_called(pairs):
    for kind, (short, long) in pairs.items():
        assert long["tokens"] == TIMES * short["tokens"] == TIMES * TOKENS
        assert long["records"] > (TIMES - 1) * short["records"] > 0
        assert long["bytes"] > (TIMES - 1) * short["bytes"]
    assert all(row["differ"] == 0 for row in pairs["equal"])
    assert all(row["differ"] > row["records"] / 2 for row in pairs["differ"])


@pytest.mark.parametrize("kind, share", [("equal", 0.1), ("differ", 0.3)][:2 if LONG else 1])
def test_memory_does_not_follow_the_traces(pairs, kind, share):
    """Windows of 8 MiB of two files of each trace, and of what the traces grow by a share: heads of
    their records and, where ops are judged, the orders in which they are searched. Before, it was
    all of the files and 3 KB a record."""
    short, long = pairs[kind]
    grown = (long["bytes"] - short["bytes"]) / MIB
    assert grown > 2 * 40  # else the windows would hide it
    assert long["mib"] - short["mib"] < 40 + share * grown


def test_replay_costs_less_than_four_passes(pairs):
    assert all(row["forward_passes"] is None for row in pairs["equal"])
    for row in pairs["differ"]:  # each run's ops once, and those whose contracts differ once more
        assert 1.5 < row["forward_passes"] < 2.5


@pytest.mark.parametrize("kind", ["equal", "differ"])
def test_time_is_linear(pairs, kind):
    """Within a factor of two, attention included, whose work grows with the square."""
    short, long = pairs[kind]
    assert long["cpu_seconds"] < 2 * TIMES * max(short["cpu_seconds"], 0.05)
