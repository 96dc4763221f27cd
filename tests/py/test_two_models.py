"""Traces of two models that hold the same weights in two types, from outside: types made by the
gguf package, what the weights do by NumPy, and scales that were searched for, as llama.cpp does.

In make check tiny models; GRETA_LONG=1 (`make check-long`) takes SmolLM2's weights as well.
"""
import json
import os
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from command import answer, cli, refused  # noqa: F401

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))
import greta_trace as gt  # noqa: E402

LONG = os.environ.get("GRETA_LONG") == "1"
SHAPE = ("--shape", "tiny-32", "--layers", 2, "--vocab", 300, "--ff", 160)
TOKENS = "5,9,100,7,33"


def values(tensor):
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def retype(source, target, wanted, quantize=gguf.quants.quantize):
    """The model in `source` with every matrix in the type `wanted`."""
    reader = gguf.GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, arch)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            sub = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=sub)
    for tensor in reader.tensors:
        kind = wanted if len(tensor.shape) > 1 else tensor.tensor_type
        data = quantize(values(tensor), kind)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def traced(cli, model, path):  # noqa: F811
    answer(cli("trace", "-m", model, "--tokens", TOKENS, "-n", 0, "--sample", "all", "-o", path,
               "--force"))
    return path


def compared(cli, a, b, folder, code=0):  # noqa: F811
    for side, model in (("a", a), ("b", b)):
        traced(cli, model, folder / f"{side}.jsonl")
    done = cli("compare", "-m", a, "--model-b", b, folder / "a.jsonl", folder / "b.jsonl", "--json")
    assert done.returncode == code, (done.stdout or done.stderr)[-800:]
    return json.loads(done.stdout)


def check_policy(found):
    assert found["verdict"] == "aligned" and "policy" in found["why"]
    policy = [op for op in found["ops"] if op["is_policy"]]
    assert {op["stage"] for op in policy} >= {"embed", "q", "v", "wo_out", "gate", "mlp_out"}
    assert all(op["bucket"] == "P_precision_policy" and op["state"] == "CONFIRMED" for op in policy)
    assert not any(op["is_fault"] for op in found["ops"])
    assert found["judged"]["healthy"] == found["judged"]["records"] == found["judged"]["replayed"]
    assert found["judged"]["gap_max"] <= 2**-45 and found["judged"]["forward_passes"] <= 4


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_types_of_the_gguf_package(cli, mkmodel, tmp_path, kind):  # noqa: F811
    source = mkmodel("--type", "F32", *SHAPE)
    a = retype(source, tmp_path / "a.gguf", gguf.GGMLQuantizationType[kind])
    b = retype(source, tmp_path / "b.gguf", gguf.GGMLQuantizationType.F16)
    found = compared(cli, a, b, tmp_path)
    check_policy(found)
    relations = {w["b"]["tensor"]: w["relation"] for w in found["weights"]}
    assert all(relation == ("equal" if "norm" in name else "rounded")
               for name, relation in relations.items()) and len(relations) == 2 * 9 + 2
    model_a, model_b = ({t.name: values(t).astype(np.float64) for t in gguf.GGUFReader(f).tensors}
                        for f in (a, b))
    for w in found["weights"]:
        x, y = model_a[w["a"]["tensor"]], model_b[w["b"]["tensor"]]
        apart = np.linalg.norm(x - y) / max(np.linalg.norm(x), np.linalg.norm(y))
        assert np.isclose(w["relative"], apart, rtol=1e-6, atol=0) and w["outside"] == 0
    check_weights_term(found, gt.read(tmp_path / "a.jsonl"), model_a, model_b)


def check_weights_term(found, trace, model_a, model_b):
    """policy_weights is (W_A - W_B) x, with x the row of run A: codes times scales."""
    rows = {(r["stage"], r["layer"], r["position"]): r for r in trace.records if r["kind"] == "row"}
    n = 0
    for op in found["ops"]:
        layer = -1 if op["layer"] is None else op["layer"]
        r = rows.get((op["stage"], layer, op["position"]))
        if not op["is_policy"] or not r:
            continue
        name = r["weight"][0]["tensor"]
        apart = model_a[name] - model_b[name]
        if op["stage"] == "embed":
            want = apart[r["token"]]
        else:
            read = r["in"][0]
            x = trace.values(rows[read["stage"], read["layer"], op["position"]]["out"][0])
            x = (x[0].reshape(-1, 32) * x[1][:, None].astype(np.float64)).ravel() \
                if isinstance(x, tuple) else x.astype(np.float64)
            want = apart @ x
        term = op["terms"]["policy_weights"]
        assert np.isclose(term["norm"], np.linalg.norm(want), rtol=1e-5), op["stage"]
        assert np.isclose(term["max"], np.abs(want).max(), rtol=1e-5), op["stage"]
        n += 1
    assert n >= 8


def searched(x, kind):
    """Q4_0 with scales that serve a weighted error: 19 scales are tried, codes are those of the one
    tried, and the scale is fitted to them (as llama.cpp's quantisers with an importance matrix)."""
    if kind != gguf.GGMLQuantizationType.Q4_0:
        return gguf.quants.quantize(x, kind)
    rng = np.random.default_rng(1)
    v = x.reshape(-1, 32).astype(np.float64)
    weight = rng.exponential(size=v.shape) ** 4 * np.sqrt(np.mean(v * v) + v * v)
    most = np.take_along_axis(v, np.abs(v).argmax(1)[:, None], 1)
    best = np.full((len(v), 1), -1.0)
    codes, scale = np.zeros_like(v), np.zeros_like(best)
    for step in range(-9, 10):
        tried = np.clip(np.rint(v * (-(8 + 0.1 * step) / most)), -8, 7)
        along = (weight * v * tried).sum(1, keepdims=True)
        size = (weight * tried * tried).sum(1, keepdims=True)
        gain = along * along / size
        better = gain > best
        best = np.where(better, gain, best)
        codes, scale = np.where(better, tried, codes), np.where(better, along / size, scale)
    q = (codes + 8).astype(np.uint8)
    packed = q[:, :16] | q[:, 16:] << 4
    blocks = np.concatenate([scale.astype(np.float16).view(np.uint8), packed], axis=1)
    return blocks.reshape(*x.shape[:-1], -1)


def test_searched_scales_are_no_other_weights(cli, mkmodel, tmp_path):  # noqa: F811
    b = mkmodel("--type", "F32", *SHAPE)
    a = retype(b, tmp_path / "a.gguf", gguf.GGMLQuantizationType.Q4_0, searched)
    found = compared(cli, a, b, tmp_path)
    check_policy(found)
    matrices = [w for w in found["weights"] if "norm" not in w["b"]["tensor"]]
    assert {w["relation"] for w in matrices} == {"searched"}
    assert "not all rounded to nearest" in found["why"]
    share = max(w["outside"] / w["values"] for w in matrices)
    assert 0.01 < share < 0.08 and max(w["largest"] for w in matrices) < 12


def test_a_fine_tune_is_other_weights(cli, mkmodel, tmp_path):  # noqa: F811
    """Of Q8_0 a change by a hundredth of the weights shows; the first op that reads it is named."""
    rng = np.random.default_rng(2)
    source = mkmodel("--type", "F32", *SHAPE)

    def tuned(x, kind):
        spread = x.std() if x.ndim > 1 and x.shape[0] == 160 else 0  # gate and up
        return gguf.quants.quantize((x + 0.01 * spread * rng.normal(size=x.shape))
                                    .astype(np.float32), kind)

    a = retype(source, tmp_path / "a.gguf", gguf.GGMLQuantizationType.Q8_0)
    b = retype(source, tmp_path / "b.gguf", gguf.GGMLQuantizationType.F32, tuned)
    found = compared(cli, a, b, tmp_path, code=1)
    first = next(op for op in found["ops"] if op["is_fault"])
    assert (first["stage"], first["layer"], first["bucket"]) == ("gate", 0, "V_weights_differ")
    assert {w["b"]["tensor"].split(".")[2] for w in found["weights"] if w["relation"] == "other"} \
        == {"ffn_gate", "ffn_up"}


def test_what_is_refused(cli, mkmodel, tmp_path):  # noqa: F811
    a, b = mkmodel("--type", "F16", *SHAPE), mkmodel("--type", "F16", "--heads", 1, *SHAPE)
    trace = traced(cli, a, tmp_path / "a.jsonl")
    refused(cli("compare", "--model-b", b, trace, trace), 2, "--model-b needs -m")
    found = compared(cli, a, b, tmp_path, code=6)
    assert found["why"] == "the two are not one model: n_head is 3 and 1" and found["weights"] == []


@pytest.mark.skipif(not LONG, reason="in make check-long")
@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_smollm2(cli, smollm2, tmp_path, kind):  # noqa: F811
    """A real model's weights: as F16, and in blocks made of the F16."""
    b = retype(smollm2, tmp_path / "b.gguf", gguf.GGMLQuantizationType.F16)
    a = retype(b, tmp_path / "a.gguf", gguf.GGMLQuantizationType[kind])
    found = compared(cli, a, b, tmp_path)
    check_policy(found)
    assert {w["relation"] for w in found["weights"]} == {"equal", "rounded"}
    found = compared(cli, smollm2, b, tmp_path)  # the file as it is pulled: it is what F16 was of
    check_policy(found)
    assert {w["relation"] for w in found["weights"]} == {"equal", "rounded"}
