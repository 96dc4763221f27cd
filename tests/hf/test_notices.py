"""The tests of tests/hf seen red: each change of the reference must be noticed where it was made.

A change is planted in the transformers model, or in how it is run; GRETA's side is the healthy one
of test_stages. The first stage over the limit must be the one that the change touches.
"""
import families
import numpy as np
import pytest
import reference
import stages
import torch


def layer(model, i=1):
    return model.model.layers[i]


def attention(model, i=1):
    return layer(model, i).self_attn


def scale(weight, factor):
    with torch.no_grad():
        weight.mul_(factor)


def swap(a, b):
    with torch.no_grad():
        kept = a.clone()
        a.copy_(b)
        b.copy_(kept)


def swap_halves(weight):
    with torch.no_grad():
        weight.copy_(torch.cat(weight.chunk(2)[::-1]))


def theta(model, factor, layer_type=None):
    parameters = model.config.rope_parameters
    (parameters[layer_type] if layer_type else parameters)["rope_theta"] *= factor


def swap_bases(model):
    p = model.config.rope_parameters
    p["full_attention"], p["sliding_attention"] = p["sliding_attention"], p["full_attention"]


def exact_gelu(model):
    layer(model).mlp.act_fn = torch.nn.GELU()


def more_experts(model):
    for block in model.model.layers:
        block.mlp.gate.norm_topk_prob = False


CHANGES = {
    # what: (case, change of the model, stage, layer)
    "eps": ("llama", lambda m: setattr(
        layer(m).input_layernorm, "variance_epsilon", 1e-3), "attn_norm", 1),
    "k and v swapped": ("llama", lambda m: swap(
        attention(m).k_proj.weight, attention(m).v_proj.weight), "k", 1),
    "heads of q swapped": ("llama", lambda m: swap_halves(attention(m).q_proj.weight), "q", 1),
    "gate and up swapped": ("llama", lambda m: swap(
        layer(m).mlp.gate_proj.weight, layer(m).mlp.up_proj.weight), "gate", 1),
    "one weight of wo": ("llama", lambda m: scale(attention(m).o_proj.weight[3, 5], 1.2),
                         "wo_out", 1),
    "attention scale": ("llama", lambda m: setattr(
        attention(m), "scaling", attention(m).scaling * 1.001), "attn_out", 1),
    "rope base": ("llama", lambda m: theta(m, 1.001), "q_rope", 0),
    "linear factor": ("llama-linear", lambda m: m.config.rope_parameters.update(factor=4.01),
                      "q_rope", 0),
    "llama3 factor": ("llama-llama3", lambda m: m.config.rope_parameters.update(factor=8.01),
                      "q_rope", 0),
    "llama3 original context": ("llama-llama3", lambda m: m.config.rope_parameters.update(
        original_max_position_embeddings=97), "q_rope", 0),
    "yarn factor": ("llama-yarn", lambda m: m.config.rope_parameters.update(factor=4.01),
                    "q_rope", 0),
    "yarn attention factor": ("llama-yarn", lambda m: m.config.rope_parameters.update(
        attention_factor=1.0), "q_rope", 0),
    "longrope attention factor": ("phi3-longrope-long", lambda m: m.config.rope_parameters.update(
        attention_factor=1.0), "q_rope", 0),
    "window longer by one": ("mistral-window", lambda m: setattr(
        m.config, "sliding_window", 14), "attn_out", 0),
    "window shorter by one": ("phi3-window", lambda m: setattr(
        m.config, "sliding_window", 12), "attn_out", 0),
    "bias of q": ("qwen2", lambda m: scale(attention(m).q_proj.bias, 1.001), "q", 1),
    "bias of v": ("qwen2", lambda m: scale(attention(m).v_proj.bias, 1.001), "v", 1),
    "q norm": ("qwen3", lambda m: scale(attention(m).q_norm.weight, 1.001), "q_norm", 1),
    "k norm": ("qwen3", lambda m: scale(attention(m).k_norm.weight, 1.001), "k_norm", 1),
    "scale of embeddings": ("gemma2", lambda m: m.model.embed_tokens.embed_scale.fill_(7.75),
                            "embed_scaled", -1),
    "soft-cap of scores": ("gemma2", lambda m: setattr(
        attention(m), "attn_logit_softcapping", 5.01), "attn_out", 1),
    "soft-cap of logits": ("gemma2", lambda m: setattr(
        m.config, "final_logit_softcapping", 3.01), "logits", -1),
    "global layer with a window": ("gemma2", lambda m: m.config.layer_types.__setitem__(
        1, "sliding_attention"), "attn_out", 1),
    "norm after attention": ("gemma2", lambda m: scale(
        layer(m).post_attention_layernorm.weight, 1.001), "attn_post_norm", 1),
    "norm after mlp": ("gemma3", lambda m: scale(
        layer(m).post_feedforward_layernorm.weight, 1.001), "ffn_post_norm", 1),
    "gelu without tanh": ("gemma3", exact_gelu, "act", 1),
    "local base in global layers": ("gemma3", lambda m: theta(m, 1e-2, "full_attention"),
                                    "q_rope", 5),
    "bases swapped": ("gemma3", swap_bases, "q_rope", 0),
    "norm of all heads of q": ("olmo2", lambda m: scale(
        attention(m).q_norm.weight[-1], 1.02), "q_norm", 1),
    "olmo's layer without a window": ("olmo3", lambda m: m.config.layer_types.__setitem__(
        1, "full_attention"), "attn_out", 1),
    "base of olmo's local layers": ("olmo3-yarn", lambda m: theta(m, 1.01, "sliding_attention"),
                                    "q_rope", 0),
    "fused gate and up swapped": ("phi3", lambda m: swap_halves(
        layer(m).mlp.gate_up_proj.weight), "gate", 1),
    "router": ("mixtral", lambda m: scale(layer(m).mlp.gate.weight, 1.001), "router", 1),
    "one expert fewer": ("mixtral", lambda m: swap(
        layer(m).mlp.gate.weight[0], layer(m).mlp.gate.weight[1]), "router", 1),
    "experts swapped": ("mixtral", lambda m: swap(
        layer(m).mlp.experts.down_proj[0], layer(m).mlp.experts.down_proj[1]), "expert_out", 1),
    "gate of an expert": ("qwen3moe", lambda m: scale(
        layer(m).mlp.experts.gate_up_proj[2, :36], 1.001), "gate", 1),
    "weights not divided by their sum": ("qwen3moe", more_experts, "expert_weights", 0),
    "final norm": ("llama", lambda m: scale(m.model.norm.weight, 1.001), "final_norm", -1),
    "head": ("llama", lambda m: scale(m.lm_head.weight, 1.001), "logits", -1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_notices(subject, what):
    name, change, stage, i = CHANGES[what]
    s = subject(name)
    side = s.side("gguf")
    model = families.build(s.case)
    change(model)
    changed = reference.run(model, side.ids, is_long=s.is_long())
    found = stages.compare(side, s.ordered(changed, "gguf"))
    assert stages.first_over(found) == (stage, i)


def test_notices_positions(subject):
    s = subject("llama")
    side = s.side("gguf")
    moved = reference.run(s.model, side.ids, first_position=1)
    found = stages.compare(side, s.ordered(moved, "gguf"))
    assert stages.first_over(found) == ("q_rope", 0)


def test_notices_another_token(subject):
    s = subject("llama")
    side = s.side("gguf")
    other = reference.run(s.model, side.ids[:-1] + [side.ids[-1] ^ 1])
    assert stages.first_over(stages.compare(side, s.ordered(other, "gguf"))) == ("embed", -1)


def test_notices_another_factor_set(subject):
    s = subject("phi3-longrope-long")
    side = s.side("gguf")
    short = reference.run(s.model, side.ids, is_long=False)
    assert stages.first_over(stages.compare(side, s.ordered(short, "gguf"))) == ("q_rope", 0)


def test_notices_missing_stages(subject):
    s = subject("llama")
    side = s.side("gguf")
    whole = s.ordered(s.reference_of(side.ids), "gguf")
    with pytest.raises(AssertionError, match="one side only"):
        stages.compare(side, {key: value for key, value in whole.items() if key[0] != "act"})
    with pytest.raises(AssertionError, match="not what k_rope wrote"):
        broken = dict(side.stage)
        broken["k_cache", 0] = np.nextafter(broken["k_cache", 0], np.float32(9))
        other = stages.Side.__new__(stages.Side)
        other.stage, other.position = broken, side.position
        stages.compare(other, whole)
