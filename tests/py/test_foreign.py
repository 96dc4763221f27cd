"""Traces of another engine (tests/oracle/engine.py, NumPy) beside ours: bits differ in nearly every
row, and nobody is accused; a fault in the other engine is.

GRETA_LONG=1 (`make check-long`) runs every case, else a spread of them.
"""
import itertools
import json
import os

import engine
import greta_trace
import numpy as np
import pytest
from command import cli  # noqa: F401 (a fixture)
from test_oracle import random_ids

MODELS = {
    "llama": ["--type", "F32"], "q8": ["--type", "Q8_0"], "q4k": ["--type", "Q4_K"],
    "qwen2": ["--arch", "qwen2", "--type", "Q4_0"], "qwen3": ["--arch", "qwen3", "--type", "F16"],
    "gemma2": ["--arch", "gemma2", "--type", "BF16", "--window", 9],
    "gemma3": ["--arch", "gemma3", "--type", "Q6_K", "--window", 9, "--layers", 7],
    "phi3": ["--arch", "phi3", "--type", "Q5_0"],
}
CONTRACTS = [("f32", "f32"), ("q8", "f16"), ("f32", "f16"), ("q8", "f32")]
CASES = list(itertools.product(MODELS, CONTRACTS, (13, 22)))
LONG = os.environ.get("GRETA_LONG") == "1"


def ours(cli, path, ids, out, act, kv):  # noqa: F811
    done = cli("trace", "-m", path, "--tokens", ",".join(map(str, ids)), "-o", out, "--force", "-n",
               0, "--sample", "all", "--act", act, "--kv", kv)
    assert done.returncode == 0, done.stderr
    with open(out) as lines:
        return json.loads(lines.readline())


def judged(cli, *arguments):  # noqa: F811
    done = cli(*arguments, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def pair(cli, mkmodel, tmp_path):  # noqa: F811
    """pair(model, ids, act, kv, **engine's) -> model, our trace, the engine's trace."""
    def make(model, ids, act="f32", kv="f32", theirs=None, **options):
        path, a, b = mkmodel(*MODELS[model]), tmp_path / "a.jsonl", tmp_path / "b.jsonl"
        header = ours(cli, path, ids, a, act, kv)
        contract = theirs or (act, kv)
        engine.Engine(path, ids, *contract, **options).write(b, {**header, "stages": "all"})
        return path, a, b
    return make


def test_traces_follow_the_format(pair):
    _, _, b = pair("qwen2", random_ids(9, 300), "q8", "f16")
    trace = greta_trace.read(b)
    assert trace.status == "complete" and len(trace.records) > 9 * 17


@pytest.mark.parametrize("model, contract, n", CASES if LONG else CASES[::13])
def test_no_false_alarm(cli, pair, model, contract, n):  # noqa: F811
    path, a, b = pair(model, random_ids(n, 300), *contract)
    status, audit = judged(cli, "audit", b, "-m", path)
    assert status == 0, audit["why"]
    assert audit["judged"]["bounded"] == audit["judged"]["replayed"] > 0
    status, both = judged(cli, "compare", a, b, "-m", path)
    assert status == 0, both["why"]
    assert both["differ"] > 0 and both["judged"]["rounding"] > 0
    assert not any(op["is_fault"] for op in both["ops"])
    first = both["ops"][0]
    assert first["bucket"] == "R_rounding" and first["stage"] == both["first_difference"]["stage"]
    assert both["judged"]["gap_max"] <= 2**-45


@pytest.mark.parametrize("ours_is, theirs, stage", [
    (("q8", "f16"), ("f32", "f16"), "q"), (("f32", "f32"), ("f32", "f16"), "k_cache")])
def test_policy_is_policy(cli, pair, ours_is, theirs, stage):  # noqa: F811
    """What the two contracts make of one row is told as policy, beside what is rounding."""
    path, a, b = pair("q8", random_ids(13, 300), *ours_is, theirs)
    status, both = judged(cli, "compare", a, b, "-m", path)
    assert status == 0, both["why"]
    policy = [op["stage"] for op in both["ops"] if op["bucket"] == "P_precision_policy"]
    assert policy and policy[0] == stage
    assert not any(op["is_fault"] for op in both["ops"])


def scaled(stage, layer, factor, first=0):
    """Rows from `first` on, times a factor."""
    def fault(at, of, rows):
        if (at, of) == (stage, layer):
            rows = rows.copy()
            rows[first:] = rows[first:] * np.float32(factor)
        return rows
    return fault


@pytest.mark.parametrize("model, contract, stage, layer, factor", [
    ("llama", ("f32", "f32"), "attn_norm", 1, 1.001), ("q4k", ("q8", "f16"), "up", 1, 1.01),
    ("gemma2", ("f32", "f16"), "attn_out", 0, 0.5), ("phi3", ("q8", "f32"), "x_after_mlp", 1, 2),
])
def test_a_fault_is_theirs(cli, pair, model, contract, stage, layer, factor):  # noqa: F811
    path, a, b = pair(model, random_ids(13, 300), *contract,
                      fault=scaled(stage, layer, factor, first=5))
    status, audit = judged(cli, "audit", b, "-m", path)
    assert status == 1
    status, both = judged(cli, "compare", a, b, "-m", path)
    assert status == 1
    for found in (audit, both):
        fault = next(op for op in found["ops"] if op["is_fault"])
        assert (fault["stage"], fault["layer"], fault["position"]) == (stage, layer, 5)
    assert fault["wrong_sides"] == ["b"]


@pytest.mark.parametrize("claim, state", [("store_bf16", 0), ("", 0), ("f32", 1)])
def test_what_a_trace_claims_decides(cli, pair, claim, state):  # noqa: F811
    """Rows of attention in bfloat16: within that claim, benign without one, a fault if it claims
    f32. The trace says so itself; nothing else is told."""
    def narrow(at, layer, rows):
        if at != "attn_out":
            return rows
        bits = rows.view(np.uint32) + np.uint32(0x8000)
        return (bits & np.uint32(0xFFFF0000)).view(np.float32)
    path, a, b = pair("llama", random_ids(13, 300), fault=narrow, rounding=claim)
    status, audit = judged(cli, "audit", b, "-m", path)
    assert status == state, audit["why"]
    if claim == "":
        assert {op["bucket"] for op in audit["ops"]} == {"P_precision_policy"}
    elif claim != "f32":
        assert not audit["ops"]  # what it claims is known and kept: there is nothing to tell
    status, both = judged(cli, "compare", a, b, "-m", path)
    assert status == state, both["why"]


@pytest.mark.parametrize("claim, state", [("functions_fast", 0), ("", 0), ("f32", 1)])
def test_an_exponential_of_its_own(cli, pair, claim, state):  # noqa: F811
    """SiLU of an exponential that is off by 2^-17 of itself, some 60 ulp. An engine that claims f32
    claims functions as exact as ours: then it is a fault, told as what it is, a product of the
    activation that no hypothesis gives. One that claims nothing is told a policy."""
    def fast(at, layer, rows):
        signs = np.where(np.arange(rows.size).reshape(rows.shape) % 2, 1, -1)
        return rows * (1 + signs * 2.0**-17).astype(np.float32) if at == "act" else rows
    path, a, b = pair("llama", random_ids(13, 300), fault=fast, rounding=claim)
    status, audit = judged(cli, "audit", b, "-m", path)
    assert status == state, audit["why"]
    if claim == "":
        assert {op["bucket"] for op in audit["ops"]} == {"P_precision_policy"}
    elif claim != "f32":
        assert not audit["ops"]  # what it claims is known and kept: there is nothing to tell
    if claim == "f32":
        assert all(op["stage"] == "act" and op["state"] != "CONFIRMED" for op in audit["ops"])
    status, both = judged(cli, "compare", a, b, "-m", path)
    assert status == state, both["why"]


def test_a_promise_of_bits_is_held_to(cli, pair):  # noqa: F811
    """The same rows under a header that claims our arithmetic are not what it promises."""
    path, _, b = pair("llama", random_ids(13, 300), rounding="", arithmetic=2)
    status, audit = judged(cli, "audit", b, "-m", path)
    assert status == 1 and audit["judged"]["bounded"] == 0


# ---- isolate ------------------------------------------------------------------------------------


def one_ulp(stage, layer):
    def moved(at, of, rows):
        return np.nextafter(rows, np.float32(np.inf)) if (at, of) == (stage, layer) else rows
    return moved


@pytest.fixture
def isolated(cli, mkmodel, tmp_path):  # noqa: F811
    """isolated(decode's fault) -> exit code and analysis of two traces of the engine: all tokens
    prefilled, and the last one decoded."""
    def make(fault=None, model="q8", act="q8", kv="f16"):
        path, ids, folder = mkmodel(*MODELS[model]), random_ids(11, 300), tmp_path / "pair"
        folder.mkdir()
        header = {**ours(cli, path, ids, tmp_path / "ours.jsonl", act, kv), "stages": "all"}
        for name, of in (("prefill", None), ("decode", fault)):
            run = engine.Engine(path, ids, act, kv, fault=of, prompt_id="p")
            run.write(folder / f"{name}.jsonl", header, is_decoded=name == "decode")
        return judged(cli, "isolate", "--from", folder, "-m", path)
    return make


def test_isolate_on_equal_foreign_traces(isolated):
    status, found = isolated()
    prompt = found["prompts"][0]
    assert (status, prompt["state"]) == (0, "EQUAL"), prompt["answer"]["en"]
    assert prompt["sides"]["decode0"]["kernel"] == "numpy" and prompt["canaries"]["all_found"]


@pytest.mark.parametrize("stage, layer", [("k_rope", 1), ("up", 0)])
def test_isolate_tells_rounding_of_others(isolated, stage, layer):
    """One ulp in one op of the decode step, and all that follows from it: no bits are promised."""
    status, found = isolated(one_ulp(stage, layer))
    prompt = found["prompts"][0]
    assert not any(op["is_fault"] for op in prompt["ops"]), prompt["answer"]["en"]
    assert status == 0, prompt["answer"]["en"]


@pytest.mark.parametrize("fault, stage, layer", [
    (scaled("attn_norm", 1, 1.001, first=10), "attn_norm", 1),
    (scaled("mlp_out", 0, 1.05, first=10), "mlp_out", 0),
    (one_ulp("x_after_mlp", 1), "x_after_mlp", 1),  # a sum of two is rounded once, by anybody
])
def test_isolate_finds_faults_of_others(isolated, fault, stage, layer):
    status, found = isolated(fault)
    prompt = found["prompts"][0]
    assert status == 1, prompt["answer"]["en"]
    wrong = next(op for op in prompt["ops"] if op["is_fault"])
    assert (wrong["stage"], wrong["layer"]) == (stage, layer)
    assert wrong["wrong_sides"] == ["decode0"] and wrong["patch"] is None


def test_isolate_of_two_engines_is_no_pair(cli, mkmodel, tmp_path):  # noqa: F811
    """Our prefill against another engine's decode: compare is asked for that."""
    path, ids, folder = mkmodel(*MODELS["llama"]), random_ids(11, 300), tmp_path / "pair"
    folder.mkdir()
    done = cli("trace", "-m", path, "--tokens", ",".join(map(str, ids)), "-n", 0, "--sample", "all",
               "-o", folder / "prefill.jsonl", "--prompt-id", "p", "--act", "f32", "--kv", "f32")
    assert done.returncode == 0, done.stderr
    with open(folder / "prefill.jsonl") as lines:
        header = {**json.loads(lines.readline()), "stages": "all"}
    run = engine.Engine(path, ids, prompt_id="p")
    run.write(folder / "decode.jsonl", header, is_decoded=True)
    status, found = judged(cli, "isolate", "--from", folder, "-m", path)
    prompt = found["prompts"][0]
    assert (status, prompt["state"]) == (6, "NOT_COMPARABLE")
    assert "arithmetic" in [field["field"] for field in prompt["mismatch"]]
