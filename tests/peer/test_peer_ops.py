"""Both engines op by op on the same files: from recorded operands, inside the bound of a contract.

llama.cpp's nodes are judged by peer_ops.py, GRETA's trace by tests/oracle/judge.py; a model is of
every architecture and weight type that mkmodel writes. The engines are not compared with each
other: quantised logits differ where contracts do.
"""
import json
import subprocess

import conftest
import numpy as np
import peer_ops
import pytest

MODELS, TYPES = conftest.written_models(), conftest.written_types()
EVERYTHING = ["--untied", "--bias", "--rope-factors"]


def ids_of(n_vocab=300, n=conftest.N_TOKEN):
    return [int(i) for i in np.random.default_rng(n).integers(3, n_vocab, n)]


def none_over(found):
    over = {op: case for op, case in found.items() if not case[1] <= 1}
    assert not over


@pytest.mark.parametrize("context", conftest.CONTEXTS)
@pytest.mark.parametrize("model", MODELS, ids=conftest.label)
def test_peer(mkmodel, judged, model, context):
    found = judged(mkmodel(*model), ids_of(), context)
    assert {"MUL_MAT", "RMS_NORM", "ROPE", "SET_ROWS"} <= found.keys()
    none_over(found)


@pytest.mark.parametrize("context", conftest.CONTEXTS)
@pytest.mark.parametrize("kind", TYPES)
def test_peer_everything(mkmodel, judged, kind, context):
    none_over(judged(mkmodel("--type", kind, *EVERYTHING), ids_of(), context))


def judged_greta(model, out, *options):
    """{op: (ops, largest share)} of GRETA's trace of a model."""
    import judge
    import tracefile

    command = [conftest.place("GRETA_BIN"), "trace", "-m", model, "--tokens",
               ",".join(map(str, ids_of())), "-n", 2, "--sample", "all", "-o", out, "--force",
               "--ctx", 256, *options]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    one, found = judge.Judge(tracefile.Trace(out), model), {}
    for stage, layer in one.trace.rows:
        op, shares = one.judge(stage, layer)
        n, worst, name = found.get(op, (0, -1.0, ""))
        used = float(shares.max())
        found[op] = (n + 1, *((used, f"{stage} {layer}") if used > worst else (worst, name)))
    return found


@pytest.mark.parametrize("model", MODELS, ids=conftest.label)
def test_greta(mkmodel, scratch, model):
    found = judged_greta(mkmodel(*model), scratch / "greta.jsonl")
    conftest.note(f"{conftest.label(model)}:", found, conftest.ours)
    assert {"matmul", "rms_norm", "rope", "kv_store", "attention", "glu"} <= found.keys()
    none_over(found)


@pytest.mark.parametrize("kind", TYPES)
def test_greta_everything(mkmodel, scratch, kind):
    none_over(judged_greta(mkmodel("--type", kind, *EVERYTHING), scratch / "greta.jsonl"))


# ---- Seen red -----------------------------------------------------------------------------------


class Altered:
    """A node with one operand or parameter replaced; the result stays."""

    def __init__(self, node, **changes):
        self.__dict__.update(node.__dict__)
        self.__dict__.update(changes)

    number = peer_ops.Node.number


def with_number(node, i, value):
    params = node.params.copy()
    params[i:i + 1] = np.array([value], "<f4").view("<i4")
    return Altered(node, params=params)


def with_source(node, i, change):
    return Altered(node, src=[change(s) if k == i else s for k, s in enumerate(node.src)])


class OtherRows:
    """A weight whose first two rows are swapped."""

    def __init__(self, tensor):
        self.tensor_type, self.shape = tensor.tensor_type, tensor.shape
        self.data = tensor.data.copy()
        self.data[[0, 1]] = self.data[[1, 0]]


def one_value_off(x):
    """By 3 % of the largest: far under what a stale row or a wrong scale moves."""
    y = np.array(x)
    y.flat[y.size // 3] += np.abs(y).max() * np.asarray(0.03, y.dtype)
    return y


ALTERED = {
    "eps": ("RMS_NORM", lambda n: with_number(n, 0, 1e-3)),
    "rows of a weight": ("MUL_MAT", lambda n: with_source(n, 0, OtherRows)),
    "rows that meet a weight": ("MUL_MAT", lambda n: with_source(
        n, 1, lambda x: np.roll(x, 1, axis=2))),
    "base": ("ROPE", lambda n: with_number(n, 5, n.number(5) * 1.001)),
    "positions": ("ROPE", lambda n: with_source(n, 1, lambda p: p + 1)),
    "pairs": ("ROPE", lambda n: Altered(n, params=n.params ^ np.eye(16, dtype="<i4")[2] * 2)),
    "attention scale": ("SOFT_MAX", lambda n: with_number(n, 0, n.number(0) * 1.001)),
    "mask": ("SOFT_MAX", lambda n: with_source(n, 1, np.zeros_like)),
    "flash mask": ("FLASH_ATTN_EXT", lambda n: with_source(n, 3, np.zeros_like)),
    "flash scale": ("FLASH_ATTN_EXT", lambda n: with_number(n, 0, n.number(0) * 1.2)),
    "flash heads": ("FLASH_ATTN_EXT", lambda n: with_source(n, 0, lambda q: q[:, ::-1])),
    "gate and up": ("SWIGLU", lambda n: Altered(n, params=n.params + np.eye(
        16, dtype="<i4")[1])),
    "rows of a cache": ("SET_ROWS", lambda n: with_source(n, 1, lambda ids: ids + 1)),
    "rows of the embedding": ("GET_ROWS", lambda n: with_source(n, 1, lambda ids: ids ^ 1)),
    "one sum": ("ADD", lambda n: with_source(n, 0, one_value_off)),
    "one product": ("MUL", lambda n: with_source(n, 0, one_value_off)),
}


@pytest.mark.parametrize("what", ALTERED)
def test_notices(mkmodel, record, what):
    op, change = ALTERED[what]
    model = mkmodel("--type", "Q4_K")
    options = ["no-flash"] if op == "SOFT_MAX" else []
    path = record(model, ids_of(), options)
    node = next(n for n in peer_ops.nodes(path, model) if n.op == op)
    assert peer_ops.JUDGES[op](node).max() <= 1
    assert not peer_ops.JUDGES[op](change(node)).max() <= 1


def test_notices_one_value(mkmodel, record):
    """Where a dot reads floats. A quantised dot may hide it: its step at 256 values is wider."""
    model = mkmodel("--type", "F32")
    path = record(model, ids_of(), [])
    node = next(n for n in peer_ops.nodes(path, model) if n.op == "MUL_MAT")
    assert not peer_ops.mul_mat(with_source(node, 1, one_value_off)).max() <= 1


def test_refuses_unknown_ops(mkmodel, record):
    model = mkmodel("--type", "Q8_0")
    path = record(model, ids_of(), [])
    lines = path.read_text().splitlines()
    node = json.loads(lines[3])
    node["op"] = "SORCERY"
    path.write_text("\n".join(lines[:3] + [json.dumps(node)]))
    with pytest.raises(KeyError, match="SORCERY"):
        peer_ops.judge(path, model)
