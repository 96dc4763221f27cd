"""Both engines end to end on the same files: mean KL from the f32 forward, and perplexity.

bench/quality.py does the measuring. GRETA may not be found to diverge a tenth more than llama.cpp,
whose contracts round no less: the lower end of the ratio's 95 % interval stays below 1.1 (experts
that are chosen otherwise make heavy tails). Perplexities of a real model differ by at most half a
per cent. Those of random weights are of the order of the vocabulary or far above, and move by
chance: by at most five standard errors of the two shifts from the f32 forward.

Perplexities of real models are of a text that never changes (TEXT), in windows of 512 that begin
with BOS where the model adds one, which llama.cpp is asked too, and do not overlap.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import conftest
import numpy as np
import pytest
from test_peer_ops import MODELS

TEXT = [Path(__file__).resolve().parents[1] / "oracle/prose.txt",
        Path(__file__).with_name("text.txt")]
QUALITY = Path(__file__).resolve().parents[2] / "bench/quality.py"
REAL = [Path(name) for name in os.environ.get("GRETA_MODELS", "").split(":") if name]


def quality(model, *options):
    command = [sys.executable, QUALITY, "-m", model, "--greta", conftest.place("GRETA_BIN"),
               "--llama", conftest.place("PEER"), "--llama-lib", conftest.place("PEER_LIB"),
               "--windows", 5, "--sides", "greta", "llama.cpp", "--json", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]
    return json.loads(done.stdout)


def agree(name, found, margin):
    """margin: of perplexity, or None for what chance allows."""
    ours, theirs, exact = (found["sides"][side] for side in ("greta", "llama.cpp", "yardstick"))
    apart = np.log(ours["perplexity"] / theirs["perplexity"])
    error = np.hypot(ours["nll_shift"][1], theirs["nll_shift"][1])
    conftest.lines.append(
        f"  {name:18} KL {ours['kl_mean']:.3e} (greta) {theirs['kl_mean']:.3e} (llama.cpp), "
        f"perplexity {exact['perplexity']:.3f} (f32) {ours['perplexity']:.3f} "
        f"{theirs['perplexity']:.3f}: {np.expm1(apart):+.3%} +- {error:.3%}")
    margin = 5 * error if margin is None else margin
    assert theirs["ratio"][1] <= 1.1
    assert abs(apart) <= margin


@pytest.mark.parametrize("model", MODELS, ids=conftest.label)
def test_tiny(mkmodel, model):
    agree(conftest.label(model), quality(mkmodel(*model)), None)


REAL_MODELS = pytest.mark.parametrize("model", REAL, ids=lambda path: path.stem)


@REAL_MODELS
def test_real(model):
    agree(model.stem, quality(model, "--windows", 12, "-f", *TEXT), 0.005)


def peer_ids(model, text):
    """Ids of a text as llama.cpp makes them, with what it adds in front."""
    done = subprocess.run([conftest.place("PEER_RECORD"), model, "-", "1", "tokens"], input=text,
                          capture_output=True)
    assert done.returncode == 0, done.stderr[-800:]
    return np.frombuffer(done.stdout, "<i4").tolist()


@REAL_MODELS
def test_same_ids(model):
    """Both engines begin with BOS or neither does, and give these texts the same ids."""
    for text in (b"", b"Hello", b"  two  spaces\n\n\tand a tab, 12345 + 67.89", *(
            path.read_bytes() for path in TEXT)):
        command = [conftest.place("GRETA_BIN"), "tokenize", "-m", model, "--json", "-f", "-"]
        done = subprocess.run(command, input=text, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == peer_ids(model, text)
