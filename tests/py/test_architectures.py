"""Every architecture against the NumPy forward pass: logits, stages, and that a mistake would show.

Tiny models with windows smaller than the prompt; prompts end at, before and behind the places where
something begins: the window, a tile of 64 positions, longrope's original context.
"""
import judge
import llama
import numpy as np
import pytest
import tracefile
from command import cli, refused  # noqa: F401 (a fixture)
from test_oracle import PLAIN_F32, agree, error_of, random_ids, run_logits

MODELS = {
    "qwen2": ["--arch", "qwen2", "--type", "Q8_0"],
    "qwen3": ["--arch", "qwen3", "--type", "F32", "--untied"],
    "qwen3moe": ["--arch", "qwen3moe", "--type", "Q4_K", "--experts", 9, "--experts-used", 4],
    "gemma2": ["--arch", "gemma2", "--type", "F16"],
    "gemma3": ["--arch", "gemma3", "--type", "Q4_1", "--layers", 7],
    "olmo2": ["--arch", "olmo2", "--type", "Q8_0", "--heads", 4, "--heads-kv", 2],
    "olmo3": ["--arch", "olmo2", "--type", "F16", "--layers", 5, "--window", 37,
              "--rope-scaling", "yarn"],
    "phi3": ["--arch", "phi3", "--type", "Q5_0"],
    "mixtral": ["--type", "Q5_1", "--experts", 4, "--split-experts"],
    "window": ["--type", "BF16", "--window", 64],
    "yarn": ["--arch", "qwen2", "--type", "Q4_0", "--rope-scaling", "yarn"],
    "linear": ["--arch", "llama", "--type", "F32", "--rope-scaling", "linear"],
}


def logits_and_reference(greta, path, ids, out, n_ctx=512, change=None):
    model = llama.Model(path, n_ctx)
    if change:
        change(model)
    logits = run_logits(greta, path, ids, out, *PLAIN_F32, "--ctx", n_ctx)
    return logits, llama.logits_of(model, [ids])[0]


@pytest.mark.parametrize("name", MODELS)
def test_logits(greta, mkmodel, scratch, name):
    path = mkmodel(*MODELS[name])
    agree(*logits_and_reference(greta, path, random_ids(130, 300), scratch / "tiny.f32"))


@pytest.mark.parametrize("n_token", [36, 37, 38, 63, 65])
def test_around_the_window(greta, mkmodel, scratch, n_token):
    path = mkmodel("--arch", "gemma2", "--type", "F32", "--window", 37)
    agree(*logits_and_reference(greta, path, random_ids(n_token, 300), scratch / "tiny.f32"))


@pytest.mark.parametrize("n_ctx", [99, 100, 101])
def test_longrope_chooses_by_the_context(greta, mkmodel, scratch, n_ctx):
    path = mkmodel("--arch", "phi3", "--type", "F32", "--ctx-original", 100)
    ids = random_ids(99, 300)
    logits, reference = logits_and_reference(greta, path, ids, scratch / "tiny.f32", n_ctx)
    agree(logits, reference)
    other = llama.logits_of(llama.Model(path, 201 - n_ctx if n_ctx != 100 else 101), [ids])[0]
    assert error_of(logits, other)[0] > 1e-4


def set_to(name, value):
    return lambda model: setattr(model, name, value)


def times(name, factor):
    return lambda model: setattr(model, name, getattr(model, name) * factor)


def longer_window(model):
    model.window += 1


def no_local_layers(model):
    model.is_local = [False] * model.n_layer


def without(suffix):
    return lambda model: [model.tensors.pop(f"blk.{layer}.{suffix}.weight")
                          for layer in range(model.n_layer)]


CHANGES = {
    "window": ("gemma3", longer_window),
    "which layers": ("gemma2", no_local_layers),
    "local base": ("gemma3", set_to("rope_freq_base_local", None)),
    "embedding scale": ("gemma3", times("embd_scale", 1.01)),
    "score cap": ("gemma2", times("score_cap", 1.1)),
    "logit cap": ("gemma2", times("logit_cap", 1.1)),
    "gate": ("gemma2", set_to("gate", llama.silu)),
    "q norm": ("qwen3", without("attn_q_norm")),
    "k norm": ("gemma3", without("attn_k_norm")),
    "post norm": ("gemma2", without("post_attention_norm")),
    "pairs": ("qwen3", set_to("halves", False)),
    "one expert less": ("qwen3moe", lambda m: set_to("n_expert_used", m.n_expert_used - 1)(m)),
    "expert weights": ("mixtral", set_to("expert_norm", False)),
    "yarn's ramp": ("yarn", times("rope_original", 4)),
    "yarn's size": ("yarn", set_to("rope_size", 1.0)),
    "norm of all heads": ("olmo2", lambda m: [m.widened.update({name: m.weight(name)[:m.head_dim]})
                                              for name in m.tensors if "_q_norm" in name]),
    "missing pre-norm": ("olmo2", lambda m: [m.tensors.update({
        f"blk.{layer}.ffn_norm.weight": m.tensors[f"blk.{layer}.post_ffw_norm.weight"]})
        for layer in range(m.n_layer)]),
    "scaling of local layers": ("olmo3", set_to("rope_freq_base_local", None)),
    "longrope's size": ("phi3", times("rope_size", 1.01)),
    "linear factor": ("linear", times("rope_factor", 2)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_notices(greta, mkmodel, scratch, change):
    """A reference that is wrong in one place disagrees, so an engine that is would."""
    name, apply = CHANGES[change]
    path = mkmodel(*MODELS[name])
    logits, reference = logits_and_reference(greta, path, random_ids(90, 300),
                                             scratch / "tiny.f32", change=apply)
    overall, worst = error_of(logits, reference)
    print(f"relative error {overall:.2e}, at the worst position {worst:.2e}")
    assert overall > 1e-4


@pytest.mark.parametrize("name", ["qwen3moe", "gemma2", "gemma3", "olmo2", "olmo3", "phi3", "yarn"])
def test_stages(greta, mkmodel, scratch, name):
    """Norms, rotation, attention and both sums of every layer, at every position."""
    path = mkmodel(*MODELS[name])
    model, ids, seen = llama.Model(path), random_ids(70, 300), {}
    llama.forward(model, [llama.Sequence(model)], [ids],
                  lambda stage, layer, x: seen.update({(stage, layer): x.reshape(len(ids), -1)}))
    out = scratch / f"stages-{name}.jsonl"
    stages = ",".join(sorted({stage for stage, _ in seen}))
    greta("trace", "-m", path, "--tokens", ",".join(map(str, ids)), "--stages", stages, "-o", out,
          "--force", "-n", 0, "--ctx", 512, *PLAIN_F32)
    trace = tracefile.Trace(out)
    for at, reference in seen.items():
        values = trace.outputs(trace.rows[at])
        assert values.shape == reference.shape
        overall, worst = error_of(values, reference)
        assert overall <= 1e-5 and worst <= 1e-4, (at, overall, worst)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"mixtral"}))
def test_ops(greta, mkmodel, scratch, name):
    """Each op by itself, from its recorded operands, in prefill and decode across the window."""
    path, ids, out = mkmodel(*MODELS[name]), random_ids(45, 300), scratch / f"ops-{name}.jsonl"
    greta("trace", "-m", path, "--tokens", ",".join(map(str, ids)), "-o", out, "--force", "-n", 2,
          "--sample", "all")
    one, n_local = judge.Judge(tracefile.Trace(out), path), 0
    for stage, layer in one.trace.rows:
        kind, shares = one.judge(stage, layer)
        assert shares.max() <= 1, (stage, layer, kind, shares.max())
        n_local += kind == "attention" and one.model.is_local[layer]
    assert n_local == sum(one.model.is_local)


def test_experts_are_those_of_the_reference(greta, mkmodel, scratch):
    """Ids and weights by rank, read back from a trace; two of nine experts are never equal."""
    path = mkmodel(*MODELS["qwen3moe"])
    model, ids, out = llama.Model(path), random_ids(40, 300), scratch / "experts.jsonl"
    greta("trace", "-m", path, "--tokens", ",".join(map(str, ids)), "-o", out, "--force", "-n", 0,
          "--stages", "router,expert_ids,expert_weights", *PLAIN_F32)
    trace = tracefile.Trace(out)
    for layer in range(model.n_layer):
        router, chosen, weights = (trace.outputs(trace.rows[stage, layer]).astype(np.float64)
                                   for stage in ("router", "expert_ids", "expert_weights"))
        order = np.argsort(-router, axis=1, kind="stable")[:, :model.n_expert_used]
        assert (order == chosen).all()
        raised = np.exp(np.take_along_axis(router, order, 1))
        assert np.allclose(weights, raised / raised.sum(axis=1, keepdims=True), rtol=2e-6)


@pytest.mark.parametrize("options, message", [
    (["--arch", "qwen2", "--experts", 4], "4 experts in architecture qwen2 (none)"),
    (["--arch", "phi3", "--experts", 4], "4 experts in architecture phi3 (none)"),
])
def test_refused(cli, mkmodel, options, message):  # noqa: F811
    refused(cli("run", "-m", mkmodel(*options), "--tokens", "5", "-n", 1), 3, message)


def test_angles_beyond_the_limit_are_refused(cli, mkmodel):  # noqa: F811
    # The last of 8 pairs turns by 2^(100 * 14 / 16) a position.
    path = mkmodel("--type", "F32", "--head-dim", 16, "--rope-base", 2.0**-100)
    refused(cli("run", "-m", path, "--tokens", "5", "-n", 1, "--ctx", 2), 3,
            "rotary angles of 2 positions go beyond 2^25 radians")
    path = mkmodel("--type", "F32", "--head-dim", 16, "--rope-base", 2.0**-28)  # 2^24.5
    assert cli("run", "-m", path, "--tokens", "5", "-n", 1, "--ctx", 2).returncode == 0
    refused(cli("run", "-m", path, "--tokens", "5", "-n", 1, "--ctx", 3), 3, "of 3 positions")
