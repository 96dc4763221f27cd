"""Both engines end to end on the same files: mean KL from the f32 forward, and perplexity.

bench/quality.py does the measuring. GRETA's divergence may be at most a tenth above llama.cpp's,
whose contracts round no less, and where the two differ in perplexity it is by at most half a per
cent.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import conftest
import pytest
from test_peer_ops import TYPES

QUALITY = Path(__file__).resolve().parents[2] / "bench/quality.py"
REAL = [Path(name) for name in os.environ.get("GRETA_MODELS", "").split(":") if name]


def quality(model, *options):
    command = [sys.executable, QUALITY, "-m", model, "--greta", conftest.place("GRETA_BIN"),
               "--llama", conftest.place("PEER"), "--llama-lib", conftest.place("PEER_LIB"),
               "--windows", 5, "--sides", "greta", "llama.cpp", "--json", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]
    return json.loads(done.stdout)["sides"]


def agree(name, sides, margin):
    ours, theirs, exact = (sides[side] for side in ("greta", "llama.cpp", "yardstick"))
    apart = ours["perplexity"] / theirs["perplexity"] - 1
    conftest.lines.append(
        f"  {name:28} KL {ours['kl_mean']:.3e} (greta) {theirs['kl_mean']:.3e} (llama.cpp), "
        f"perplexity {exact['perplexity']:.3f} (f32) {ours['perplexity']:.3f} "
        f"{theirs['perplexity']:.3f}: {apart:+.3%}")
    assert ours["kl_mean"] <= 1.1 * theirs["kl_mean"]
    assert abs(apart) <= margin


@pytest.mark.parametrize("kind", TYPES)
def test_tiny(mkmodel, kind):
    agree(f"tiny {kind}", quality(mkmodel("--type", kind)), 0.005)


@pytest.mark.parametrize("model", REAL, ids=lambda path: path.stem)
def test_real(model):
    agree(model.stem, quality(model), 0.005)
