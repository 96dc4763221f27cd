"""Hugging Face folders against GGUF files of the same weights, written by other people's programs.

Where both files pair rotary values alike, every number must be the same, bit for bit. Llama's GGUF
files have rows of q and k in another order: q.k is then the same terms summed in another order, so
the scores of a second key differ in their last bits, and logits are held to a bound. A first token
attends to itself alone - its weight is exactly 1 whatever the score is - so its logits must agree
bit for bit even there.
"""
import json
import subprocess

import hf_models as hf
import numpy as np
import pytest
from conftest import place

IDS = [256, 3, 77, 4, 200, 5, 9, 270, 11, 13, 42, 42, 8, 199, 0, 31, 5, 6, 7, 120]


@pytest.fixture(scope="module")
def logits(greta, scratch):
    def run(path, *flags, ids=IDS):
        out = scratch / "hf.logits"
        greta("eval", "-m", path, "--tokens", ",".join(map(str, ids)), "--logits-out", out, "--kv",
              "f32", "--threads", 2, "--force", *flags)
        return np.fromfile(out, np.float32).reshape(-1, hf.VOCAB)

    return run


@pytest.fixture
def refusal():
    """refusal(path): the one line on stderr of an `eval` that must end with exit code 3."""
    def run(path, code=3):
        done = subprocess.run([place("GRETA_BIN"), "eval", "-m", path, "--tokens", "1,2,3"],
                              capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert done.stdout == "" and done.stderr.count("\n") == 1
        return done.stderr

    return run


def same_bits(a, b):
    assert a.shape == b.shape and np.isfinite(a).all() and a.std() > 0.01
    np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("name", list(hf.FAMILIES))
def test_same_as_gguf(name, dtype, tmp_path, logits):
    if dtype != "BF16" and name not in ("LlamaForCausalLM", "Qwen2ForCausalLM"):
        return  # types are read alike in all classes: one of each pairing is enough
    tensors = hf.weights(name)
    folder = logits(hf.write_folder(tmp_path / "hf", name, tensors, dtype))
    single = logits(hf.write_gguf(tmp_path / "m.gguf", name, tensors, dtype))
    if "permuted" not in hf.FAMILIES[name][4]:
        same_bits(folder, single)
        return
    same_bits(folder[:1], single[:1])
    error = np.linalg.norm(folder - single, axis=1) / np.linalg.norm(single, axis=1)
    assert error.max() < 2e-6, error
    assert folder.std() > 0.1


# ---- The same model, stored in other ways --------------------------------------------------------

def test_shards(tmp_path, logits):
    tensors = hf.weights("LlamaForCausalLM")
    one = logits(hf.write_folder(tmp_path / "one", "LlamaForCausalLM", tensors))
    many = hf.write_folder(tmp_path / "many", "LlamaForCausalLM", tensors, shards=5)
    assert len(list(many.glob("*.safetensors"))) == 5
    same_bits(logits(many), one)


def test_odd_places(tmp_path, logits):
    """Data at an odd byte is legal; packed or not, it gives the same."""
    tensors = hf.weights("LlamaForCausalLM")
    folder = hf.write_folder(tmp_path / "m", "LlamaForCausalLM", tensors, "F32")
    even = logits(folder)
    hf.shift(folder / "model.safetensors")
    same_bits(logits(folder), even)


def test_tied(tmp_path, logits):
    name = "LlamaForCausalLM"
    tensors = hf.weights(name, tied=True)
    explicit = dict(tensors, **{"lm_head.weight": tensors["model.embed_tokens.weight"]})
    other = dict(tensors, **{"lm_head.weight": tensors["model.embed_tokens.weight"] * 2})
    wanted = logits(hf.write_folder(tmp_path / "a", name, explicit))
    tied = {"tie_word_embeddings": True}
    same_bits(logits(hf.write_folder(tmp_path / "b", name, tensors, **tied)), wanted)
    # transformers ties whatever head the file has
    same_bits(logits(hf.write_folder(tmp_path / "c", name, other, **tied)), wanted)
    absent = {"tie_word_embeddings": "absent"}
    same_bits(logits(hf.write_folder(tmp_path / "d", name, tensors, **absent)), wanted)


def test_names(tmp_path, logits):
    """A checkpoint of the bare model, and the buffers that old ones carry."""
    name = "LlamaForCausalLM"
    tensors = hf.weights(name)
    wanted = logits(hf.write_folder(tmp_path / "a", name, tensors))
    bare = {key.removeprefix("model."): value for key, value in tensors.items()}
    bare["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(hf.HEAD // 2, np.float32)
    same_bits(logits(hf.write_folder(tmp_path / "b", name, bare)), wanted)


def test_fused_experts(tmp_path, logits):
    """One tensor for all experts, as transformers 5 holds them: (expert, gate and up, columns)."""
    name = "Qwen3MoeForCausalLM"
    tensors = hf.weights(name)
    wanted = logits(hf.write_folder(tmp_path / "a", name, tensors))
    fused = {key: value for key, value in tensors.items() if ".experts." not in key}
    for layer in range(hf.N_LAYER):
        at = f"model.layers.{layer}.mlp.experts."
        each = [[tensors[f"{at}{e}.{part}_proj.weight"] for part in ("gate", "up", "down")]
                for e in range(hf.N_EXPERT)]
        fused[f"{at}gate_up_proj"] = np.stack([np.concatenate(e[:2]) for e in each])
        fused[f"{at}down_proj"] = np.stack([e[2] for e in each])
    same_bits(logits(hf.write_folder(tmp_path / "b", name, fused)), wanted)


@pytest.mark.parametrize("older", [True, False])
def test_conditional_generation(older, tmp_path, logits):
    """The language model of a Gemma 3 with images: names one level deeper, keys in text_config."""
    name = "Gemma3ForCausalLM"
    tensors = hf.weights(name)
    wanted = logits(hf.write_folder(tmp_path / "a", name, tensors))
    prefix = "language_model.model." if older else "model.language_model."
    inside = {prefix + key.removeprefix("model."): value for key, value in tensors.items()}
    vision = "vision_tower.x.weight" if older else "model.vision_tower.x.weight"
    inside[vision] = np.ones((2, 2), np.float32)
    folder = hf.write_folder(tmp_path / "b", name, inside)
    text = hf.config(name)
    del text["architectures"]
    (folder / "config.json").write_text(json.dumps(
        {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
         "text_config": text, "vision_config": {}}))
    same_bits(logits(folder), wanted)


# ---- config.json ---------------------------------------------------------------------------------

ROPE = [
    ({}, {}),
    ({"rope_scaling": None}, {}),
    ({"rope_theta": "absent"}, {"rope_theta": 10000.0}),
    ({"rope_theta": "absent", "rope_parameters": {"rope_theta": 777.0, "rope_type": "default"}},
     {"rope_theta": 777.0}),
    ({"rope_scaling": {"type": "linear", "factor": 4.0}},
     {"rope_scaling": {"rope_type": "linear", "factor": 4}}),
    ({"rope_theta": "absent",
      "rope_parameters": {"rope_theta": 20000.0, "rope_type": "linear", "factor": 4.0}},
     {"rope_scaling": {"rope_type": "linear", "factor": 4}}),
    ({"rms_norm_eps": 1e-05, "head_dim": 32}, {}),
    ({"torch_dtype": "float16"}, {"torch_dtype": "absent"}),
]


@pytest.mark.parametrize("one, two", ROPE)
def test_spellings(one, two, tmp_path, logits):
    """Two ways to say one thing."""
    name = "LlamaForCausalLM"
    tensors = hf.weights(name)
    a = logits(hf.write_folder(tmp_path / "a", name, tensors, **one))
    b = logits(hf.write_folder(tmp_path / "b", name, tensors, **two))
    same_bits(a, b)


WINDOWS = [
    ("MistralForCausalLM", {"sliding_window": 8}, {"attention.sliding_window": 8}),
    ("Qwen2ForCausalLM", {"use_sliding_window": True},
     {"attention.sliding_window": 8, "attention.sliding_window_pattern": [False, True, True]}),
    ("Qwen2ForCausalLM", {"use_sliding_window": True, "layer_types":
                          ["sliding_attention", "full_attention", "full_attention"]},
     {"attention.sliding_window": 8,
      "attention.sliding_window_pattern": [True, False, False]}),
    ("Qwen3MoeForCausalLM", {"use_sliding_window": True, "sliding_window": 8},
     {"attention.sliding_window": 8}),
    ("Gemma3ForCausalLM", {"sliding_window_pattern": "absent", "layer_types":
                           ["full_attention", "sliding_attention", "full_attention"],
                           "rope_theta": "absent", "rope_local_base_freq": "absent",
                           "rope_parameters": {
                               "full_attention": {"rope_type": "default", "rope_theta": 20000.0},
                               "sliding_attention": {"rope_theta": 5000.0}}},
     {"attention.sliding_window_pattern": [False, True, False], "rope.freq_base_swa": 5000.0}),
    ("Gemma3ForCausalLM", {"rope_local_base_freq": 500.0}, {"rope.freq_base_swa": 500.0}),
]


@pytest.mark.parametrize("name, change, keys", WINDOWS)
def test_windows(name, change, keys, tmp_path, logits):
    """Which layers see a window, in every way of saying it; GGUF says it layer by layer."""
    tensors = hf.weights(name)
    a = logits(hf.write_folder(tmp_path / "a", name, tensors, **change))
    b = logits(hf.write_gguf(tmp_path / "b.gguf", name, tensors, **keys))
    plain = logits(hf.write_folder(tmp_path / "plain", name, tensors))
    if "permuted" in hf.FAMILIES[name][4]:
        assert (np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max() < 2e-6
    else:
        same_bits(a, b)
    assert np.abs(a - plain)[8:].max() > 1e-4


def test_rope_matters(tmp_path, logits):
    """What the spellings above say is read at all: each gives other numbers."""
    name = "LlamaForCausalLM"
    tensors = hf.weights(name)
    plain = logits(hf.write_folder(tmp_path / "plain", name, tensors))
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    changes = [{"rope_theta": 777.0}, {"rope_scaling": {"type": "linear", "factor": 4.0}},
               {"rope_scaling": llama3}, {"rms_norm_eps": 1e-2}]
    for i, change in enumerate(changes):
        other = logits(hf.write_folder(tmp_path / str(i), name, tensors, **change))
        assert np.abs(other - plain).max() > 1e-4, change


def test_linear_as_gguf(tmp_path, logits):
    name = "LlamaForCausalLM"
    tensors = hf.weights(name)
    a = logits(hf.write_folder(tmp_path / "a", name, tensors,
                               rope_scaling={"rope_type": "linear", "factor": 4.0}))
    b = logits(hf.write_gguf(tmp_path / "b.gguf", name, tensors,
                             **{"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}))
    assert (np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max() < 2e-6


def test_llama3_as_gguf(tmp_path, logits):
    """GGUF holds the divisors of Llama 3.1's frequencies, by their published definition."""
    name, factor, low, high, original = "LlamaForCausalLM", 8.0, 1.0, 4.0, 32
    frequency = 20000.0 ** -(np.arange(0, hf.HEAD, 2) / hf.HEAD)
    turns = original * frequency / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    divisors = (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
    assert divisors.min() == 1 and divisors.max() == 8 and len(set(divisors)) > 2
    tensors = hf.weights(name)
    a = logits(hf.write_folder(tmp_path / "a", name, tensors, rope_scaling={
        "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
        "original_max_position_embeddings": original}))
    b = logits(hf.write_gguf(tmp_path / "b.gguf", name, tensors,
                             factors={"rope_freqs.weight": divisors}))
    assert (np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max() < 2e-6


def test_yarn_as_gguf(tmp_path, logits):
    name = "Qwen2ForCausalLM"
    tensors = hf.weights(name)
    said = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    wanted = logits(hf.write_gguf(tmp_path / "b.gguf", name, tensors,
                                  **{"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
                                     "rope.scaling.original_context_length": 64}))
    same_bits(logits(hf.write_folder(tmp_path / "a", name, tensors, rope_scaling=said)), wanted)
    newer = {"rope_theta": 20000.0, **said}
    same_bits(logits(hf.write_folder(tmp_path / "b", name, tensors, rope_parameters=newer,
                                     rope_theta="absent")), wanted)
    plain = logits(hf.write_folder(tmp_path / "c", name, tensors))
    assert np.abs(plain - wanted).max() > 1e-4


@pytest.mark.parametrize("said", [False, "absent"])
def test_expert_weights_as_gguf(said, tmp_path, logits):
    """Weights of the chosen experts as the softmax of all has them; that is the class's default."""
    name = "Qwen3MoeForCausalLM"
    tensors = hf.weights(name)
    wanted = logits(hf.write_gguf(tmp_path / "m.gguf", name, tensors, expert_weights_norm=False))
    same_bits(logits(hf.write_folder(tmp_path / "a", name, tensors, norm_topk_prob=said)), wanted)
    plain = logits(hf.write_folder(tmp_path / "b", name, tensors))
    assert np.abs(plain - wanted).max() > 1e-4


def test_partial_rotary_as_gguf(tmp_path, logits):
    name = "Phi3ForCausalLM"
    tensors = hf.weights(name)
    wanted = logits(hf.write_gguf(tmp_path / "m.gguf", name, tensors,
                                  **{"rope.dimension_count": hf.HEAD // 2}))
    same_bits(logits(hf.write_folder(tmp_path / "a", name, tensors, partial_rotary_factor=0.5)),
              wanted)
    plain = logits(hf.write_folder(tmp_path / "b", name, tensors))
    assert np.abs(plain - wanted).max() > 1e-4


@pytest.mark.parametrize("ctx", [64, 65])
def test_longrope_as_gguf(ctx, tmp_path, logits):
    """The short factors up to the original context, the long ones beyond it."""
    name, size = "Phi3ForCausalLM", ("--window", 32, "--ctx", ctx)
    tensors = hf.weights(name)
    short = [1.0 + 0.01 * i for i in range(hf.HEAD // 2)]
    long = [1.5 + 0.5 * i for i in range(hf.HEAD // 2)]
    factors = {"rope_factors_short.weight": np.array(short, np.float32),
               "rope_factors_long.weight": np.array(long, np.float32)}
    wanted = logits(hf.write_gguf(tmp_path / "m.gguf", name, tensors, factors=factors,
                                  **{"rope.scaling.type": "longrope",
                                     "rope.scaling.original_context_length": 64}), *size)
    for i, kind in enumerate(("longrope", "su")):
        folder = hf.write_folder(tmp_path / str(i), name, tensors,
                                 original_max_position_embeddings=64,
                                 rope_scaling={"type": kind, "short_factor": short,
                                               "long_factor": long})
        same_bits(logits(folder, *size), wanted)
    other = logits(folder, "--window", 32, "--ctx", 129 - ctx)
    assert np.abs(other - wanted).max() > 1e-4


REFUSED = [
    ({"architectures": ["BertModel"]}, '"BertModel" is not supported (LlamaForCausalLM, '),
    ({"architectures": "absent", "model_type": "bert"}, '"bert" is not supported ('),
    ({"architectures": "absent", "model_type": "absent"}, '"" is not supported ('),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}},
     'quantised checkpoint ("gptq") is not supported (F32, F16, BF16 weights)'),
    ({"quantization_config": {"quant_method": "fp8"}}, 'checkpoint ("fp8")'),
    ({"num_hidden_layers": 0}, "num_hidden_layers is 0 (1 to 1024)"),
    ({"num_hidden_layers": "absent"}, "num_hidden_layers is missing"),
    ({"num_hidden_layers": 3.0}, "num_hidden_layers is not a whole number"),
    ({"hidden_size": -64}, "hidden_size is -64 ("),
    ({"hidden_size": 9223372036854775807}, "hidden_size is 9223372036854775807 ("),
    ({"head_dim": None, "hidden_size": 62, "num_attention_heads": 4},
     "hidden_size 62 is not a multiple of 4 heads"),
    ({"num_key_value_heads": 3}, "4 query heads cannot share 3 kv heads evenly"),
    ({"max_position_embeddings": "many"}, "max_position_embeddings is not a whole number"),
    ({"rms_norm_eps": 0}, "rms_norm_eps is not a positive number"),
    ({"rms_norm_eps": "1e-5"}, "rms_norm_eps is not a positive number"),
    ({"hidden_act": "relu"}, 'hidden_act "relu" is not supported (silu, swish, gelu_pytorch_tanh'),
    ({"hidden_act": "gelu"}, 'hidden_act "gelu" is not supported ('),
    ({"rope_theta": -1}, "rope_theta is not a positive number"),
    ({"rope_scaling": []}, "rope_scaling is not an object"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}},
     'rope_type "dynamic" is not supported (default, linear, llama3, yarn, longrope)'),
    ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                       "high_freq_factor": 4.0}},
     "original_max_position_embeddings is missing"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "mrope_section": [1]}},
     "mrope_section is not supported"),
    ({"partial_rotary_factor": 1.5}, "partial_rotary_factor is above 1"),
    ({"vocab_size": 301}, "token_embd.weight"),
    ({"intermediate_size": 95}, "ffn_gate.weight"),
    ({"num_hidden_layers": 4}, '"blk.3.attn_norm.weight" is missing'),
    ({"num_hidden_layers": 2}, '"model.layers.2.'),
    ({"tie_word_embeddings": True, "num_hidden_layers": 2}, "has no place in the model"),
]


@pytest.mark.parametrize("change, core", REFUSED)
def test_config_refused(change, core, tmp_path, refusal):
    name = "LlamaForCausalLM"
    line = refusal(hf.write_folder(tmp_path / "m", name, hf.weights(name), **change))
    assert core in line, line


LONGROPE = {"type": "longrope", "short_factor": [1.0] * 16, "long_factor": [2.0] * 16}


@pytest.mark.parametrize("change, core", [
    ({"rope_scaling": {**LONGROPE, "short_factor": [1.0] * 15}}, "short_factor has 15 numbers"),
    ({"rope_scaling": {**LONGROPE, "long_factor": None}}, "long_factor has 0 numbers (16)"),
    ({"rope_scaling": {**LONGROPE, "long_factor": [1.0] * 15 + ["x"]}}, "factor 15 is not a posit"),
    ({"rope_scaling": {**LONGROPE, "short_factor": [-1.0] * 16}}, "factor 0 is not a positive"),
    ({"rope_scaling": LONGROPE, "original_max_position_embeddings": "absent"},
     "original_max_position_embeddings is missing"),
])
def test_longrope_refused(change, core, tmp_path, refusal):
    name = "Phi3ForCausalLM"
    change = {"original_max_position_embeddings": 64, **change}
    line = refusal(hf.write_folder(tmp_path / "m", name, hf.weights(name), **change))
    assert core in line, line


OTHERS_REFUSED = [
    ("Qwen2ForCausalLM", {"use_sliding_window": 1}, "use_sliding_window is not true or false"),
    ("Qwen2ForCausalLM", {"use_sliding_window": True, "max_window_layers": None},
     "max_window_layers is missing"),
    ("Qwen2ForCausalLM", {"use_sliding_window": True, "sliding_window": 0},
     "sliding_window is not a whole number of at least 1"),
    ("Qwen2ForCausalLM", {"num_key_value_heads": None}, "num_key_value_heads is missing"),
    ("Qwen3ForCausalLM", {"layer_types": ["full_attention"] * 2}, "layer_types is not an array"),
    ("Qwen3ForCausalLM", {"layer_types": ["full_attention"] * 2 + ["chunked_attention"]},
     'layer_types[2] is "chunked_attention" (full_attention, sliding_attention)'),
    ("Qwen3ForCausalLM", {"layer_types": ["sliding_attention"] * 3}, "there is no window"),
    ("Qwen3MoeForCausalLM", {"num_experts": 0}, "num_experts is 0 (1 to "),
    ("Qwen3MoeForCausalLM", {"num_experts": 5}, "blk.0.ffn_gate_inp.weight"),
    ("Qwen3MoeForCausalLM", {"num_experts": 3}, "has no place in the model"),
    ("Qwen3MoeForCausalLM", {"num_experts_per_tok": 5}, "5 of 4 experts"),
    ("Qwen3MoeForCausalLM", {"mlp_only_layers": [0]}, "mlp_only_layers is not supported"),
    ("Qwen3MoeForCausalLM", {"decoder_sparse_step": 2}, "decoder_sparse_step is 2 (1 to 1)"),
    ("Gemma3ForCausalLM", {"query_pre_attn_scalar": -1}, "is not a positive number"),
    ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}, "true is not supported"),
    ("Gemma3ForCausalLM", {"rope_parameters": {
        "full_attention": {"rope_theta": 1.0},
        "sliding_attention": {"rope_theta": 1.0, "rope_type": "linear", "factor": 2.0}}},
     "rope_parameters scales layers with a window (default only)"),
]


@pytest.mark.parametrize("name, change, core", OTHERS_REFUSED)
def test_others_refused(name, change, core, tmp_path, refusal):
    line = refusal(hf.write_folder(tmp_path / "m", name, hf.weights(name), **change))
    assert core in line, line


def test_tensors_refused(tmp_path, refusal):
    name = "LlamaForCausalLM"
    tensors = hf.weights(name)

    def with_change(change, dtype="BF16"):
        folder = tmp_path / f"m{len(list(tmp_path.iterdir()))}"
        changed = {key: value for key, value in {**tensors, **change}.items() if value is not None}
        return refusal(hf.write_folder(folder, name, changed, dtype))

    bias = np.zeros(hf.N_EMBD, np.float32)
    assert 'tensor "model.layers.1.self_attn.o_proj.bias" has no place in the model that config' \
        in with_change({"model.layers.1.self_attn.o_proj.bias": bias})
    assert "has no place" in with_change({"model.layers.0.self_attn.q_norm.weight": bias})
    assert "has no place" in with_change({"model.layers.03.input_layernorm.weight": bias})
    assert '"blk.0.attn_q.weight" is missing' in with_change(
        {"model.layers.0.self_attn.q_proj.weight": None})
    assert '"lm_head.weight" is missing (tie_word_embeddings is false)' in with_change(
        {"lm_head.weight": None})
    assert "is not a vector" in with_change({"model.norm.weight": np.ones((8, 8), np.float32)})
    assert "is not a matrix" in with_change({"lm_head.weight": bias})
    assert "is empty" in with_change({"lm_head.weight": np.ones((0, 64), np.float32)})
    assert 'two tensors are "output_norm.weight"' in with_change({"norm.weight": bias})


def test_files_refused(tmp_path, refusal):
    name = "LlamaForCausalLM"
    folder = hf.write_folder(tmp_path / "m", name, hf.weights(name))
    for file, text, core in (
            ("config.json", "{", "config.json: byte "),
            ("config.json", '{"a": 1, "a": 2}', 'config.json: "a" appears twice'),
            ("config.json", "[]", "config.json is not a JSON object"),
            ("generation_config.json", "{]", "generation_config.json: byte "),
            ("generation_config.json", '{"eos_token_id": "x"}', "eos_token_id is not a token id"),
            ("generation_config.json", '{"eos_token_id": [1, 5000]}', "5000")):
        kept = (folder / file).read_text()
        (folder / file).write_text(text)
        assert core in refusal(folder)
        (folder / file).write_text(kept)
    kept = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(kept[:-1])
    assert "model.safetensors: " in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "holds neither model.safetensors nor model.safetensors.index.json" in refusal(folder, 4)
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").write_bytes(kept)
    assert "holds no tokenizer.json" in refusal(folder)
    (folder / "config.json").unlink()
    assert "config.json: cannot read: no such file" in refusal(folder, 4)


def test_ends(tmp_path, greta):
    """Every id that generation_config.json lists ends a text; without it, those of config.json."""
    name = "LlamaForCausalLM"
    folder = hf.write_folder(tmp_path / "m", name, hf.weights(name))

    def run():
        said = json.loads(greta("run", "-m", folder, "--tokens", "1,2,3", "-n", 8, "--json"))
        return said["tokens"], said["stop"]

    free, stop = run()
    assert len(free) == 8 and stop == "length" and len(set(free)) > 1
    last = next(i for i, token in enumerate(free) if token != free[0])
    ends = folder / "generation_config.json"
    for text in ([257, free[last]], free[last]):
        ends.write_text(json.dumps({"eos_token_id": text}))
        assert run() == (free[:last + 1], "eos")
    ends.unlink()
    assert run() == (free, "length")
    (folder / "config.json").write_text(json.dumps(hf.config(name, eos_token_id=[free[last], 2])))
    assert run() == (free[:last + 1], "eos")


def test_tokenize(tmp_path, greta):
    """The same ids from both files, and from the library that wrote tokenizer.json."""
    name, text = "LlamaForCausalLM", "abc cab\n \u00e9 <extra_3>"
    folder = hf.write_folder(tmp_path / "m", name, hf.weights(name))
    other = hf.write_gguf(tmp_path / "m.gguf", name, hf.weights(name))
    ids = json.loads(greta("tokenize", "-m", folder, "-p", text, "--json"))
    assert ids == json.loads(greta("tokenize", "-m", other, "-p", text, "--json"))
    assert ids == hf.tokenizers.Tokenizer.from_str(hf.tokenizer_json()).encode(text).ids
    assert 258 in ids


# ---- Other commands ------------------------------------------------------------------------------

def test_inspect(tmp_path, greta):
    name = "LlamaForCausalLM"
    tensors = hf.weights(name)
    folder = hf.write_folder(tmp_path / "small", name, tensors, shards=2)
    said = json.loads(greta("inspect", folder, "--json"))
    assert said["format"] == "safetensors" and len(said["files"]) == 2
    assert said["config"] == hf.config(name)
    assert said["types"] == {"BF16": len(tensors)}
    assert said["n_parameters"] == sum(value.size for value in tensors.values())
    assert said["bytes_weights"] == 2 * said["n_parameters"] == said["memory"]["bytes_weights"]
    assert said["bytes"] == sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert {t["name"]: t["shape"] for t in said["tensors"]} == {
        key: list(value.shape) for key, value in tensors.items()}
    for tensor in said["tensors"]:
        raw = (folder / said["files"][tensor["file"]]).read_bytes()
        at = tensor["offset"]
        assert raw[at:at + tensor["bytes"]] == hf.stored(tensors[tensor["name"]], "BF16")
    assert said["model"]["arch"] == "llama" and said["model"]["n_ff"] == hf.N_FF
    text = greta("inspect", folder).decode()
    assert "Hugging Face folder" in text and "model: llama, 3 layers x 64" in text
    other = hf.write_folder(tmp_path / "bert", name, tensors, architectures=["BertModel"])
    assert "BertModel" in json.loads(greta("inspect", other, "--json"))["not_runnable"]


def test_trace(tmp_path, greta):
    """A trace says where weights lie: in which file, at which byte."""
    name = "LlamaForCausalLM"
    tensors = hf.weights(name)
    folder = hf.write_folder(tmp_path / "m", name, tensors, "F32", shards=2)
    out = tmp_path / "t.jsonl"
    greta("trace", "-m", folder, "--tokens", "1,2,3", "-n", 1, "--out", out, "--stages", "q,wo_out")
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    buffers = {entry[0]: entry for entry in lines[0]["buffers"]}
    assert buffers["model"][2] == (folder / "model-00001-of-00002.safetensors").stat().st_size
    assert buffers["model.2"][2] == (folder / "model-00002-of-00002.safetensors").stat().st_size
    assert lines[0]["model"] == "m"
