"""GRETA's side: a trace as matrices by stage, and how two such sides are compared.

The measure is norm(difference) / norm(reference) over all positions of a stage, at most 1e-5: both
sides run their own pass, so that a stage carries what the stages before it differ by. Chosen
experts are compared as integers. Both sides must name the same stages, or a stage that GRETA forgot
would be equal to nothing.
"""
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))
import tracefile  # noqa: E402

LIMIT = 1e-5
PLAIN = ["--kv", "f32", "--act", "f32"]
STORED = {"k_cache": "k_rope", "v_cache": "v"}   # what the cache must hold, bit for bit
KINDS = ["gguf", "folder"]                       # of files that GRETA reads a model from
figures = []                                     # lines for the end of the session (conftest.py)
TURNED = ("q", "k", "q_rope", "k_rope")          # stages in the order of the rows of q and k


class Side:
    """stage {(name, layer): (n, width)}, position {(name, layer): [...]}, ids, trace."""

    def __init__(self, path):
        self.trace = tracefile.Trace(path)
        self.stage, self.position = {}, {}
        for key, op in self.trace.rows.items():
            self.stage[key] = self.trace.outputs(op)
            self.position[key] = sorted(op)
        tokens = self.trace.rows["q", 0]
        self.ids = [tokens[p]["token"] for p in sorted(tokens)]


class Refused(Exception):
    """GRETA's exit status and what it said."""

    def __init__(self, status, message):
        super().__init__(f"exit {status}: {message}")
        self.status, self.message = status, message.split(": ", 2)[-1]


def call(greta, *arguments):
    done = subprocess.run([str(greta), *map(str, arguments)], capture_output=True)
    if done.returncode:
        raise Refused(done.returncode, done.stderr.decode(errors="replace").strip())
    return done.stdout


def id_list(ids):
    return ",".join(map(str, ids))


def traced(greta, model, out, ids, n_decode, n_ctx, *options):
    call(greta, "trace", "-m", model, "--tokens", id_list(ids), "-n", n_decode, "--ctx", n_ctx,
         "--sample", "all", "-o", out, "--force", *PLAIN, *options)
    side = Side(out)
    Path(f"{out}.blob").unlink()
    return side


def all_logits(greta, model, out, ids, n_ctx, *options):
    """Logits of every position, (n, n_vocab): a trace has those that were asked for."""
    call(greta, "run", "-m", model, "--tokens", id_list(ids), "-n", 0, "--ctx", n_ctx, "--top", 0,
         "--logits", "all", "--logits-out", out, "--force", "--json", *PLAIN, *options)
    return np.fromfile(out, "<f4").reshape(len(ids), -1)


def ratio(values, reference):
    """norm(difference) / norm(reference)."""
    reference = reference.astype(np.float64)
    if values.shape != reference.shape:
        raise AssertionError(f"shape {values.shape}, expected {reference.shape}")
    return np.linalg.norm(values - reference) / np.linalg.norm(reference)


def compare(side, reference):
    """{(stage, layer): ratio}; an expert that was chosen differently counts as 1."""
    check_stored(side)
    ours = {key for key in side.stage if key[0] not in STORED}
    if ours != set(reference):
        raise AssertionError(f"stages on one side only: {sorted(ours ^ set(reference))}")
    found = {}
    for key, value in side.stage.items():
        if key in reference:
            expected = reference[key][side.position[key]]
            if key[0] == "expert_ids":
                found[key] = float((value != expected).mean())
            else:
                found[key] = ratio(value, expected)
    return found


def check_stored(side):
    for (name, layer), value in side.stage.items():
        if name in STORED:
            written = side.stage[STORED[name], layer]
            if not np.array_equal(value.view(np.uint32), written.view(np.uint32)):
                raise AssertionError(f"{name} {layer} is not what {STORED[name]} wrote")


def order():
    """Stage names in order of execution, as docs/trace-format.md lists them."""
    text = (Path(__file__).resolve().parents[2] / "docs/trace-format.md").read_text()
    listed = text.split("Stages, in execution order", 1)[1].split("\n## ", 1)[0]
    return [name for line in listed.split("`")[1::2] for name in line.split()]


def first_over(found, limit=LIMIT):
    """(stage, layer) of the first one over the limit in order of execution, or None."""
    rank = {name: i for i, name in enumerate(order())}
    n_layer = max(layer for _, layer in found)
    # embed and embed_scaled stand before the layers, the others without a layer behind them.
    place = {key: (key[1] if key[1] >= 0 else -1 if key[0].startswith("embed") else n_layer + 1,
                   rank[key[0]]) for key in found}
    over = [key for key, value in found.items() if not value <= limit]
    return min(over, key=place.get, default=None)


def report(name, found):
    worst = max(found, key=found.get)
    figures.append(f"{name:42}{len(found):4} stages, worst {found[worst]:.2e} at {worst[0]} "
                   f"{worst[1]}, logits {found['logits', -1]:.2e}")
