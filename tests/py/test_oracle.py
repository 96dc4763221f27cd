"""The engine against the oracle (tests/oracle): logits, greedy text, and the int8 contract.

Tiny models of every weight type are judged offline; SmolLM2 adds size, real weights and text. Each
run of the program and each pass of the reference serves several tests: the passes are what costs.
Tolerances are those of the contract, not of what was seen; test_notices holds the oracle itself to
account: every change of the formula must be seen far outside of them.
"""
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blocks
import gguf
import judge
import llama
import numpy as np
import pytest
import tracefile
from tokenizers import Tokenizer, models, pre_tokenizers
from volume import either

FLOATS = ["F32", "F16", "BF16"]
BLOCKS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
          "MXFP4", "Q2_K", "Q3_K"]
EVERYTHING = ["--untied", "--bias", "--rope-factors"]
PLAIN_F32 = ["--act", "f32", "--kv", "f32"]
PROSE = Path(__file__).resolve().parents[1] / "oracle" / "prose.txt"

N_WINDOW = 3
WINDOW = either(376, 152)      # of the prose, in tokens: 1125 or 453 predictions
# Positions of each window that the reference computes: what costs most here.
COMPARED = either([376, 64, 64], [96, 16, 16])
N_STEP = 28                    # greedy steps per prompt
GAP = 0.01                     # top-1 gap of the reference under which greedy texts may part
PROMPTS = [
    "The capital of France is",
    "Once upon a time there was a small dragon who",
    "def fibonacci(n):\n    ",
    "Water boils at",
    "1, 2, 3, 4, 5, 6, 7,",
    "My favourite season is autumn, because",
    "Q: Why is the sky blue?\nA:",
    "The three most important rules of chess are",
    "El perro corre por la",
    "To make a good soup you need",
    "In 1969, the first astronauts",
    "<html>\n<head>\n<title>",
][::either(1, 4)]


# ---- Asking the program -------------------------------------------------------------------------


def id_list(ids):
    return ",".join(map(str, ids))


def run(greta, model, ids, n, *options):
    out = greta("run", "-m", model, "--tokens", id_list(ids), "-n", n, "--temp", 0, "--json",
                *options)
    return json.loads(out)


def run_logits(greta, model, ids, out, *options):
    """Logits of every position of ids, (len(ids), n_vocab) in f32."""
    run(greta, model, ids, 0, "--logits", "all", "--logits-out", out, "--force", *options)
    return np.fromfile(out, "<f4").reshape(len(ids), -1)


def side_by_side(function, items):
    """Results for all items, two runs at a time: with one thread each they share no barrier, which
    costs half as much on a busy machine as two threads in one run."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(function, items))


def random_ids(n, n_vocab):
    return [int(i) for i in np.random.default_rng(n).integers(3, n_vocab, n)]


def error_of(logits, reference):
    """norm(difference) / norm(reference): over all positions, and at the worst one."""
    difference = logits.astype(np.float64) - reference
    norm = lambda x: np.linalg.norm(x, axis=-1)
    return norm(difference.ravel()) / norm(reference.ravel()), (
        norm(difference) / norm(reference)).max()


def agree(logits, reference):
    assert np.isfinite(logits).all() and logits.shape == reference.shape
    overall, worst = error_of(logits, reference)
    print(f"relative error {overall:.2e}, at the worst position {worst:.2e}")
    assert overall <= 1e-5 and worst <= 2e-5


# ---- Tiny models: every weight type -------------------------------------------------------------


@pytest.mark.parametrize("options", [[], EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("kind", FLOATS + BLOCKS)
def test_tiny_logits(greta, mkmodel, scratch, kind, options):
    path = mkmodel("--type", kind, *options)
    model = llama.Model(path)
    ids = random_ids(80, model.n_vocab)
    logits = run_logits(greta, path, ids, scratch / "tiny.f32", *PLAIN_F32)
    agree(logits, llama.logits_of(model, [ids])[0])


@pytest.mark.parametrize("options", [
    ["--heads", 6, "--heads-kv", 6],
    ["--heads", 12, "--heads-kv", 3, "--head-dim", 32],
    ["--rope-base", 5e5, "--eps", 0.03],
    ["--layers", 7, "--ff", 32, "--vocab", 259],
    ["--gguf-version", 2, "--embd-type", "BF16"],
], ids=lambda o: "-".join(map(str, o)).replace("--", ""))
def test_tiny_shapes(greta, mkmodel, scratch, options):
    path = mkmodel("--type", "Q5_1", *options)
    model = llama.Model(path)
    ids = random_ids(70, model.n_vocab)
    logits = run_logits(greta, path, ids, scratch / "tiny.f32", *PLAIN_F32)
    agree(logits, llama.logits_of(model, [ids])[0])


def swap(model, a, b):
    tensors = model.tensors
    for layer in range(model.n_layer):
        a_name, b_name = f"blk.{layer}.{a}.weight", f"blk.{layer}.{b}.weight"
        tensors[a_name], tensors[b_name] = tensors[b_name], tensors[a_name]


def pair_halves(model):
    """Turning (i, i + head_dim / 2) is turning (2i, 2i + 1) of permuted rows of q and k."""
    half = model.head_dim // 2
    order = np.stack([np.arange(half), np.arange(half) + half], axis=1).ravel()
    for layer in range(model.n_layer):
        for part in ("q", "k"):
            for name in (f"blk.{layer}.attn_{part}.weight", f"blk.{layer}.attn_{part}.bias"):
                rows = model.weight(name)
                heads = rows.reshape(-1, model.head_dim, *rows.shape[1:])
                model.widened[name] = heads[:, order].reshape(rows.shape)


def turn_half(model):
    model.rope_dim //= 2
    model.rope_factors = model.rope_factors[:model.rope_dim // 2]


CHANGES = {
    "eps": lambda m: setattr(m, "rms_eps", m.rms_eps * 10),
    "rope base": lambda m: setattr(m, "rope_freq_base", m.rope_freq_base * 1.01),
    "no rope factors": lambda m: setattr(m, "rope_factors", None),
    "half of a head turns": turn_half,
    "half-split pairs": pair_halves,
    "attention scale": lambda m: setattr(m, "attention_scale", m.attention_scale * 1.01),
    "gate and up": lambda m: swap(m, "ffn_gate", "ffn_up"),
    "k and v": lambda m: swap(m, "attn_k", "attn_v"),
    "norms": lambda m: swap(m, "attn_norm", "ffn_norm"),
    "k bias": lambda m: m.tensors.pop("blk.1.attn_k.bias"),
    "v bias": lambda m: m.tensors.pop("blk.1.attn_v.bias"),
    "tied head": lambda m: setattr(m, "tied", True),
    "last layer": lambda m: setattr(m, "n_layer", m.n_layer - 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_notices(greta, mkmodel, scratch, change):
    """A reference that is wrong in one place disagrees, so an engine that is would."""
    path = mkmodel("--type", "Q4_1", *EVERYTHING)
    model = llama.Model(path)
    ids = random_ids(80, model.n_vocab)
    CHANGES[change](model)
    logits = run_logits(greta, path, ids, scratch / "tiny.f32", *PLAIN_F32)
    overall, worst = error_of(logits, llama.logits_of(model, [ids])[0])
    print(f"relative error {overall:.2e}, at the worst position {worst:.2e}")
    assert overall > 1e-4


def test_reference_decodes_as_it_prefills(mkmodel):
    """The oracle's own cache: token by token, in two parts and at once give the same logits."""
    model = llama.Model(mkmodel("--type", "Q5_K", *EVERYTHING))
    ids = random_ids(20, model.n_vocab)
    at_once = llama.logits_of(model, [ids, ids[:7]])
    sequence = llama.Sequence(model)
    parts = [ids[:11], *([i] for i in ids[11:])]
    in_parts = np.concatenate([llama.forward(model, [sequence], [p])[0] for p in parts])
    assert np.allclose(in_parts, at_once[0], rtol=1e-12, atol=1e-12)
    assert np.allclose(at_once[1], at_once[0][:7], rtol=1e-12, atol=1e-12)
    generated, gaps = llama.generate(model, ids, 3)
    logits = llama.logits_of(model, [ids + generated])[0][len(ids) - 1:-1]
    assert generated == [int(i) for i in logits.argmax(axis=1)] and min(gaps) > 0


@pytest.mark.parametrize("kind", BLOCKS)
def test_codes_decode_to_the_weights(mkmodel, kind):
    """blocks.decode, which judges the int8 contract, against the gguf package."""
    for tensor in llama.Model(mkmodel("--type", kind)).tensors.values():
        if tensor.tensor_type.name == kind:
            code, scale, minimum = blocks.decode(tensor)
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert np.array_equal((scale * code - minimum).astype(np.float32), values)


# ---- Every op by itself, from a full trace ------------------------------------------------------

LAYER_OPS = {
    "rms_norm": ["attn_norm", "ffn_norm"], "rope": ["q_rope", "k_rope"],
    "matmul": ["q", "k", "v", "wo_out", "gate", "up", "mlp_out"],
    "kv_store": ["k_cache", "v_cache"], "attention": ["attn_out"], "glu": ["act"],
    "add": ["x_after_attn", "x_after_mlp"],
    "quantize": ["attn_norm_q8", "attn_out_q8", "ffn_norm_q8", "act_q8"],
}
MODEL_OPS = {"embed": ["embed"], "rms_norm": ["final_norm"], "quantize": ["final_norm_q8"],
             "matmul": ["logits"]}


def ops_of(layers, is_quantised):
    """(stage, layer) -> kind of all ops that a trace must hold."""
    found = {}
    for table, where in [(MODEL_OPS, [-1]), (LAYER_OPS, layers)]:
        for kind, stages in table.items():
            if kind != "quantize" or is_quantised:
                found |= {(stage, layer): kind for stage in stages for layer in where}
    return found


def trace_of(greta, model, ids, out, *options):
    greta("trace", "-m", model, "--tokens", id_list(ids), "-n", 2, "-o", out, "--force",
          "--stages", "all", "--sample", "all", *options)
    return tracefile.Trace(out)


def judge_all(trace, path, expected, n_position):
    """Every op is there, at every position, and each within its bound."""
    one = judge.Judge(trace, path)
    seen, worst = {}, {}
    for key, op in trace.rows.items():
        seen[key], shares = one.judge(*key)
        assert len(op) == n_position or key[1] == -1, key
        worst[seen[key]] = max(worst.get(seen[key], 0), shares.max())
        assert shares.max() <= 1, (key, shares.max())
    print("largest share of the bound:", {k: f"{w:.2g}" for k, w in worst.items()})
    assert seen == expected


# make check has each type with one cache, in turn.
KINDS_AND_CACHES = [(kind, cache) for i, kind in enumerate(FLOATS + BLOCKS)
                    for k, cache in enumerate(["f16", "f32"]) if either(True, i % 2 == k)]


@pytest.mark.parametrize("kind, cache", KINDS_AND_CACHES)
def test_tiny_ops(greta, mkmodel, scratch, kind, cache):
    path = mkmodel("--type", kind, *EVERYTHING)
    ids = random_ids(20, 300)
    trace = trace_of(greta, path, ids, scratch / "tiny.jsonl", "--act", "q8", "--kv", cache)
    judge_all(trace, path, ops_of([0, 1], kind in BLOCKS), len(ids) + 2)


def flip(stage):
    """Changes the last bit of one recorded output."""
    def change(judge_, _):
        trace = judge_.trace
        at = trace.rows[stage][5]["out"][0].get("at", 0)
        trace.blob[at] ^= 1
    return change


def scale(attribute, factor):
    return lambda judge_, _: setattr(
        judge_.model, attribute, getattr(judge_.model, attribute) * factor)


JUDGE_CHANGES = {
    "row of the table": ("embed", flip(("embed", -1))),
    "sum": ("add", flip(("x_after_mlp", 1))),
    "cached value": ("kv_store", flip(("v_cache", 0))),
    "code": ("matmul", flip(("ffn_norm_q8", 0))),
    "edges": ("glu", lambda judge_, _: [
        r["in"].reverse() for r in judge_.trace.rows["act", 1].values()]),
    "eps": ("rms_norm", scale("rms_eps", 1.001)),
    "norm weights": ("rms_norm", lambda judge_, _: swap(judge_.model, "attn_norm", "ffn_norm")),
    "weights": ("matmul", lambda judge_, _: swap(judge_.model, "ffn_gate", "ffn_up")),
    "rope base": ("rope", scale("rope_freq_base", 1.0001)),
    "attention scale": ("attention", scale("attention_scale", 1.00001)),
    "scale of the codes": ("quantize", lambda _, patch: patch.setattr(
        blocks, "quantize", lambda x, f=blocks.quantize: (f(x)[0], f(x)[1] * 127 / 127.0001))),
    "rounding of the codes": ("quantize", lambda _, patch: patch.setattr(np, "rint", np.trunc)),
    "activation": ("glu", lambda _, patch: patch.setattr(
        llama, "silu", lambda x: x / (1 + np.exp(-1.00001 * x)))),
}


@pytest.mark.parametrize("change", JUDGE_CHANGES)
def test_judge_notices(greta, mkmodel, scratch, monkeypatch, change):
    """One small change, of a recorded value or of the definition, fails the op it belongs to."""
    path = mkmodel("--type", "Q4_1", *EVERYTHING)
    trace = trace_of(greta, path, random_ids(20, 300), scratch / "tiny.jsonl", "--act", "q8")
    one = judge.Judge(trace, path)
    kind, alter = JUDGE_CHANGES[change]
    alter(one, monkeypatch)
    failed = set()
    for key, op in trace.rows.items():
        name = next(iter(op.values()))["op"]
        try:
            failed |= {name} if one.judge(*key)[1].max() > 1 else set()
        except AssertionError:
            failed.add(name)
    assert kind in failed and len(failed) <= 2  # a changed value may disturb its reader too


def test_smollm2_ops(greta, smollm2, windows, scratch):
    ids = windows[0][:either(30, 8)]
    trace = trace_of(greta, smollm2, ids, scratch / "real.jsonl", "--act", "q8", "--layers", "0,29")
    judge_all(trace, smollm2, ops_of([0, 29], True), len(ids) + 2)


# ---- SmolLM2: logits, greedy text ---------------------------------------------------------------


@pytest.fixture(scope="session")
def real(smollm2):
    return llama.Model(smollm2)


@pytest.fixture(scope="session")
def text_ids(real):
    """text -> ids, by a library; any split into tokens would do here."""
    tokens = real.fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in real.fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return lambda text: tokenizer.encode(text).ids


@pytest.fixture(scope="session")
def windows(text_ids):
    ids = text_ids(PROSE.read_text())
    assert len(ids) >= N_WINDOW * WINDOW
    return [ids[i * WINDOW:(i + 1) * WINDOW] for i in range(N_WINDOW)]


def evaluate(greta, model, windows, out, *options):
    """(figures of `greta eval`, logits per window) of windows of one length."""
    ids = [i for window in windows for i in window]
    figures = json.loads(greta("eval", "-m", model, "--tokens", id_list(ids), "--json", "--window",
                               len(windows[0]), "--logits-out", out, "--force", *options))
    logits = np.memmap(out, "<f4", "r").reshape(len(ids), -1)
    ends = np.cumsum([len(window) for window in windows])[:-1]
    return figures, np.split(logits, ends)


@pytest.fixture(scope="session")
def evals(greta, smollm2, windows, scratch):
    """Of --act f32, and of --act q8 with its default f16 cache."""
    return side_by_side(
        lambda options: evaluate(greta, smollm2, windows, scratch / "-".join(options), *options),
        [[*PLAIN_F32, "--threads", "1"], ["--act", "q8", "--threads", "1"]])


@pytest.fixture(scope="session")
def greedy(greta, smollm2, text_ids):
    """(prompt ids, generated ids) of every prompt."""
    options = [*PLAIN_F32, "--ignore-eos", "--threads", 1]
    prompts = [text_ids(prompt) for prompt in PROMPTS]
    answers = side_by_side(lambda ids: run(greta, smollm2, ids, N_STEP, *options), prompts)
    return [(ids, answer["tokens"]) for ids, answer in zip(prompts, answers)]


@pytest.fixture(scope="session")
def reference(real, windows, greedy):
    """One pass of the reference over all that is compared: windows, then prompts with answers."""
    parts = [w[:n] for w, n in zip(windows, COMPARED)]
    logits = llama.logits_of(real, parts + [a + b for a, b in greedy])
    return logits[:N_WINDOW], logits[N_WINDOW:]


@pytest.mark.parametrize("window", range(N_WINDOW))
def test_smollm2_logits(evals, reference, window):
    agree(evals[0][1][window][:COMPARED[window]], reference[0][window])


def test_smollm2_greedy_text(greedy, reference):
    """Step by step the engine's id is the reference's best, until two logits are a near tie."""
    compared = 0
    for (prompt, generated), logits in zip(greedy, reference[1]):
        for step, token in enumerate(generated):
            row = logits[len(prompt) - 1 + step]
            second, first = np.partition(row, -2)[-2:]
            if first - second < GAP:
                break
            assert token == row.argmax(), (prompt, step, first - second)
            compared += 1
    print(f"{compared} steps compared")
    assert len(greedy) >= either(12, 3) and compared >= either(300, 75)


# ---- SmolLM2: the int8 contract from end to end -------------------------------------------------


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def nll_of(log_probs, ids):
    """Of the predictions of ids[1:]."""
    return -log_probs[np.arange(len(ids) - 1), ids[1:]]


def nll_of_windows(windows, logits):
    return np.concatenate([nll_of(log_softmax(l), w) for w, l in zip(windows, logits)])


@pytest.fixture(scope="session")
def q8_against_f32(windows, evals):
    """Per prediction: KL(f32 || q8), and the nll under each."""
    divergence, nll_f32, nll_q8 = [], [], []
    for window, exact, coded in zip(windows, evals[0][1], evals[1][1]):
        for first in range(0, WINDOW, 94):  # in parts: a whole window in f64 is 150 MB a copy
            part = slice(first, first + 94)
            a, b = log_softmax(exact[part]), log_softmax(coded[part])
            divergence.append((np.exp(a) * (a - b)).sum(axis=1))
            nll_f32.append(nll_of(a, window[first:first + 95]))
            nll_q8.append(nll_of(b, window[first:first + 95]))
    return tuple(map(np.concatenate, (divergence, nll_f32, nll_q8)))


def test_q8_is_near_f32(q8_against_f32):
    divergence, nll_f32, nll_q8 = q8_against_f32
    ratio = np.exp(nll_q8.mean() - nll_f32.mean())
    print(f"mean KL {divergence.mean():.5f}, perplexity {np.exp(nll_f32.mean()):.3f}, "
          f"ratio {ratio:.5f} over {len(nll_f32)} predictions")
    assert len(nll_f32) >= either(1000, 450)
    assert divergence.min() > -1e-9 and divergence.mean() <= 0.01
    assert abs(ratio - 1) <= 0.01


def test_q8_is_not_f32(q8_against_f32):
    """The two contracts differ; were they one, the comparison above would compare nothing."""
    divergence, nll_f32, nll_q8 = q8_against_f32
    assert divergence.mean() > 1e-6 and np.mean(nll_f32 != nll_q8) > 0.9


def agree_on_perplexity(figures, nll, tolerance):
    assert figures["n"] == len(nll)
    assert abs(figures["nll"] - nll.mean()) <= tolerance
    assert abs(np.log(figures["perplexity"]) - nll.mean()) <= tolerance


def test_eval_scores_its_logits(q8_against_f32, evals):
    for nll, (figures, _) in zip(q8_against_f32[1:], evals):
        agree_on_perplexity(figures, nll, 1e-9)


def test_tiny_perplexity(greta, mkmodel, scratch):
    """Windows do not overlap, each begins anew, and its first token is not scored."""
    path = mkmodel("--type", "F16")
    model = llama.Model(path)
    ids = random_ids(120, model.n_vocab)
    windows = [ids[:50], ids[50:100], ids[100:]]
    figures, logits = evaluate(greta, path, windows, scratch / "tiny.f32", *PLAIN_F32)
    exact = llama.logits_of(model, windows)
    for seen, expected in zip(logits, exact):
        agree(seen, expected)
    agree_on_perplexity(figures, nll_of_windows(windows, exact), 1e-5)
