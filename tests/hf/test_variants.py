"""Odd configurations: right, or refused. Never silently another model.

Each is a folder whose config.json says something that a reader may overlook. GRETA must either
agree with transformers at every stage, or refuse with exit 3 and a message that names what it does
not support. Which of the two is no matter here.
"""
import families
import pytest
import stages

LLAMA, BASE, GEMMA, MOE = families.LLAMA, families.BASE, families.GEMMA, families.MOE
rope, longrope, YARN = families.rope, families.longrope, families.YARN
QWEN_MOE = {**MOE, **rope(1e6), "num_experts": 9, "moe_intermediate_size": 36}
GEMMA3_ROPE = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
               "full_attention": {"rope_type": "default", "rope_theta": 1e6}}


def gemma3(**more):
    return {**GEMMA, "query_pre_attn_scalar": 22, "num_hidden_layers": 4,
            "rope_parameters": GEMMA3_ROPE, **more}


def full_rope(**scaling):
    return {**GEMMA3_ROPE, "full_attention": {"rope_theta": 1e6, **scaling}}


VARIANTS = {
    "llama with biases in attention": ("llama", {**LLAMA, **rope(1e4), "attention_bias": True}),
    "llama with biases in mlp": ("llama", {**LLAMA, **rope(1e4), "mlp_bias": True}),
    "llama with gelu": ("llama", {**LLAMA, **rope(1e4), "hidden_act": "gelu"}),
    "llama with gelu_pytorch_tanh": ("llama", {**LLAMA, **rope(1e4),
                                               "hidden_act": "gelu_pytorch_tanh"}),
    "llama with one kv head": ("llama", {**LLAMA, **rope(1e4), "num_key_value_heads": 1}),
    "llama with dynamic ntk": ("llama", {**LLAMA, **rope(1e4, rope_type="dynamic", factor=4.0)}),
    "yarn with attention factor": ("llama", {**LLAMA, **rope(1e4, **YARN, attention_factor=1.3)}),
    "yarn with betas": ("llama", {**LLAMA, **rope(1e4, **YARN, beta_fast=16, beta_slow=2)}),
    "yarn without truncation": ("llama", {**LLAMA, **rope(1e4, **YARN, truncate=False)}),
    "yarn with mscale": ("llama", {**LLAMA, **rope(1e4, **YARN, mscale=0.7, mscale_all_dim=0.4)}),
    "longrope with factor": ("llama", {**LLAMA, **longrope(7, factor=3.0)}),
    "longrope with attention factor": ("llama", {**LLAMA, **longrope(7, attention_factor=1.2)}),
    "mistral without head_dim": ("mistral", {**BASE, **rope(1e4), "sliding_window": 13}),
    "mistral with yarn": ("mistral", {**LLAMA, **rope(1e4, **YARN), "sliding_window": None}),
    "mistral with llama3": ("mistral", {**LLAMA, **rope(5e5, **families.LLAMA3),
                                        "sliding_window": None}),
    "qwen2 with a window it does not use": ("qwen2", {
        **BASE, **rope(1e6), "use_sliding_window": False, "sliding_window": 13}),
    "qwen2 with layer types": ("qwen2", {
        **BASE, **rope(1e6), "use_sliding_window": True, "sliding_window": 13,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "qwen2 with longrope": ("qwen2", {**BASE, **longrope(5)}),
    "qwen2 with linear": ("qwen2", {**BASE, **rope(1e4, rope_type="linear", factor=3.0)}),
    "qwen3 with biases": ("qwen3", {**LLAMA, **rope(1e6), "attention_bias": True}),
    "qwen3 with windows": ("qwen3", {**LLAMA, **rope(1e6), "use_sliding_window": True,
                                     "sliding_window": 13, "max_window_layers": 2}),
    "qwen3 with longrope": ("qwen3", {**LLAMA, **longrope(7)}),
    "gemma2 without caps": ("gemma2", {
        **GEMMA, **rope(1e4), "query_pre_attn_scalar": 22, "attn_logit_softcapping": None,
        "final_logit_softcapping": None}),
    "gemma2 with layer types": ("gemma2", {
        **GEMMA, **rope(1e4), "query_pre_attn_scalar": 22,
        "layer_types": ["full_attention", "full_attention", "sliding_attention"]}),
    "gemma2 with gelu": ("gemma2", {**GEMMA, **rope(1e4), "query_pre_attn_scalar": 22,
                                    "hidden_activation": "gelu"}),
    "gemma3 with layer types": ("gemma3_text", gemma3(
        layer_types=["full_attention", "sliding_attention"] * 2)),
    "gemma3 with a cap of logits": ("gemma3_text", gemma3(final_logit_softcapping=3.0)),
    "gemma3 with a cap of scores": ("gemma3_text", gemma3(attn_logit_softcapping=3.0)),
    "gemma3 in both directions": ("gemma3_text", gemma3(use_bidirectional_attention=True)),
    "gemma3 with yarn": ("gemma3_text", gemma3(
        layer_types=["full_attention", "sliding_attention"] * 2,
        rope_parameters=full_rope(**YARN))),
    "gemma3 with local scaling": ("gemma3_text", gemma3(rope_parameters={
        **GEMMA3_ROPE,
        "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}})),
    "gemma3 untied": ("gemma3_text", gemma3(tie_word_embeddings=False)),
    "gemma3 with biases": ("gemma3_text", gemma3(attention_bias=True)),
    "phi3 with attention factor": ("phi3", {
        **BASE, **longrope(5, attention_factor=1.2), "original_max_position_embeddings": 40}),
    "phi3 with factor": ("phi3", {
        **BASE, **longrope(5, factor=2.5), "original_max_position_embeddings": 40}),
    "olmo2 with biases": ("olmo2", {**BASE, **rope(5e5), "attention_bias": True}),
    "olmo2 with linear": ("olmo2", {**BASE, **rope(1e4, rope_type="linear", factor=3.0)}),
    "olmo3 with layer types": ("olmo3", {
        **BASE, **rope(5e5), "sliding_window": 13,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
    "mixtral with a window": ("mixtral", {**MOE, **rope(1e6), "num_local_experts": 7,
                                          "sliding_window": 13}),
    "mixtral, all experts": ("mixtral", {**MOE, **rope(1e6), "num_local_experts": 3}),
    "qwen3moe with dense layers": ("qwen3_moe", {**QWEN_MOE, "mlp_only_layers": [1]}),
    "qwen3moe with every second layer": ("qwen3_moe", {**QWEN_MOE, "decoder_sparse_step": 2}),
    "qwen3moe with a window": ("qwen3_moe", {**QWEN_MOE, "use_sliding_window": True,
                                             "sliding_window": 13}),
    "qwen3moe with biases": ("qwen3_moe", {**QWEN_MOE, "attention_bias": True}),
}
# Of published models; a refusal is no answer here.
NEEDED = ["llama with one kv head", "yarn with attention factor", "yarn with betas",
          "mistral without head_dim", "qwen2 with a window it does not use",
          "gemma2 without caps", "phi3 with factor"]


@pytest.mark.parametrize("what", VARIANTS)
def test_right_or_refused(subject, what):
    model_type, config = VARIANTS[what]
    name = what.replace(" ", "-").replace(",", "")
    s = subject(families.Case(name, model_type, "", config))
    try:
        side = s.side("folder")
    except stages.Refused as refusal:
        assert refusal.status == 3 and what not in NEEDED, refusal
        stages.figures.append(f"{what:42}refused: {refusal.message}")
        return
    found = stages.compare(side, s.reference_of(side.ids))
    stages.report(what, found)
    first = stages.first_over(found)
    assert first is None, f"first over {stages.LIMIT}: {first}, {found[first]:.2e}"
