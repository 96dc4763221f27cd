"""The models that are held against transformers: tiny configurations, and their random weights.

A case is a config.json in the words of transformers, so that nothing here knows how GRETA names
things. Sizes are odd on purpose: rows that fill no vector, heads whose sum is not the width of the
model, groups of three query heads. Windows and original contexts are far shorter than the prompts,
so that each prompt crosses them. Weights are drawn so that every part matters: attention that is
neither flat nor one-hot, norms away from 1, biases the size of what they are added to.
"""
import copy
from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM

N_PROMPT, N_DECODE = 70, 4
BASE = {
    "vocab_size": 283, "hidden_size": 60, "intermediate_size": 84, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 160,
    "tie_word_embeddings": False, "rms_norm_eps": 3e-6, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA = {**BASE, "head_dim": 14}
GEMMA = {**BASE, "head_dim": 22, "tie_word_embeddings": True, "sliding_window": 13}
MOE = {**BASE, "head_dim": 14, "num_experts_per_tok": 3}

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 96}


def rope(theta, **scaling):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **scaling}}


def longrope(n_pair, theta=10000.0, **more):
    """Factor sets that differ from each other, from 1, and from pair to pair."""
    return rope(theta, rope_type="longrope", original_max_position_embeddings=40, **more,
                short_factor=[1 + 0.11 * i for i in range(n_pair)],
                long_factor=[1.7 + 0.37 * i for i in range(n_pair)])


@dataclass(frozen=True)
class Case:
    name: str
    model_type: str                 # of config.json
    arch: str                       # general.architecture of the same model as GGUF
    config: dict
    n_ctx: int = 128                # of GRETA's session; longrope chooses its set by it
    n_prompt: int = N_PROMPT

    def __str__(self):
        return self.name


CASES = [
    Case("llama", "llama", "llama", {**LLAMA, **rope(10000.0)}),
    Case("llama-tied", "llama", "llama",
         {**BASE, **rope(500000.0), "tie_word_embeddings": True, "num_key_value_heads": 6}),
    Case("llama-linear", "llama", "llama", {**LLAMA, **rope(1e4, rope_type="linear", factor=4.0)}),
    Case("llama-llama3", "llama", "llama", {**LLAMA, "head_dim": 32, **rope(5e5, **LLAMA3)}),
    Case("llama-yarn", "llama", "llama", {**LLAMA, "head_dim": 32, **rope(1e4, **YARN)}),
    Case("llama-longrope-short", "llama", "llama", {**LLAMA, **longrope(7)},
         n_ctx=40, n_prompt=30),
    Case("llama-longrope-long", "llama", "llama", {**LLAMA, **longrope(7)}),
    Case("mistral", "mistral", "llama", {**LLAMA, **rope(1e4), "sliding_window": None}),
    Case("mistral-window", "mistral", "llama", {**LLAMA, **rope(1e4), "sliding_window": 13}),
    Case("qwen2", "qwen2", "qwen2", {**BASE, **rope(1e6), "num_attention_heads": 10}),
    Case("qwen2-yarn", "qwen2", "qwen2",
         {**BASE, **rope(1e4, **YARN), "hidden_size": 120, "tie_word_embeddings": True}),
    Case("qwen2-window", "qwen2", "qwen2",
         {**BASE, **rope(1e6), "use_sliding_window": True, "sliding_window": 13,
          "max_window_layers": 1}),
    Case("qwen3", "qwen3", "qwen3", {**LLAMA, **rope(1e6)}),
    Case("qwen3-tied", "qwen3", "qwen3",
         {**LLAMA, **rope(1e6), "tie_word_embeddings": True, "num_key_value_heads": 3}),
    Case("qwen3-yarn", "qwen3", "qwen3", {**LLAMA, "head_dim": 32, **rope(1e6, **YARN)}),
    Case("gemma2", "gemma2", "gemma2",
         {**GEMMA, **rope(1e4), "query_pre_attn_scalar": 31, "attn_logit_softcapping": 5.0,
          "final_logit_softcapping": 3.0, "num_hidden_layers": 4}),
    Case("gemma3", "gemma3_text", "gemma3",
         {**GEMMA, "query_pre_attn_scalar": 22, "num_hidden_layers": 7,
          "rope_parameters": {
              "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
              "full_attention": {"rope_type": "default", "rope_theta": 1e6}}}),
    Case("gemma3-linear", "gemma3_text", "gemma3",
         {**GEMMA, "query_pre_attn_scalar": 22, "num_hidden_layers": 6,
          "rope_parameters": {
              "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
              "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}}),
    Case("olmo2", "olmo2", "olmo2", {**BASE, **rope(5e5)}),
    Case("olmo2-tied", "olmo2", "olmo2",
         {**BASE, **rope(1e4, **YARN), "hidden_size": 120, "tie_word_embeddings": True,
          "num_key_value_heads": 6}),
    Case("olmo3", "olmo3", "olmo2",
         {**BASE, "num_hidden_layers": 5, "sliding_window": 13,
          "rope_parameters": {
              "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
              "full_attention": {"rope_type": "default", "rope_theta": 5e5}}}),
    Case("olmo3-yarn", "olmo3", "olmo2",
         {**BASE, "hidden_size": 120, "num_hidden_layers": 5, "sliding_window": 13,
          "rope_parameters": {
              "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
              "full_attention": {"rope_theta": 5e5, **YARN}}}),
    Case("phi3", "phi3", "phi3", {**BASE, **rope(1e4)}),
    Case("phi3-window", "phi3", "phi3", {**BASE, **rope(1e4), "sliding_window": 13}),
    Case("phi3-longrope-short", "phi3", "phi3",
         {**BASE, **longrope(5), "original_max_position_embeddings": 40}, n_ctx=40, n_prompt=30),
    Case("phi3-longrope-long", "phi3", "phi3",
         {**BASE, **longrope(5), "original_max_position_embeddings": 40}),
    Case("phi3-partial", "phi3", "phi3",
         {**BASE, **longrope(4, partial_rotary_factor=0.8), "tie_word_embeddings": True,
          "original_max_position_embeddings": 40}),
    Case("mixtral", "mixtral", "llama", {**MOE, **rope(1e6), "num_local_experts": 7}),
    Case("qwen3moe", "qwen3_moe", "qwen3moe",
         {**MOE, **rope(1e6), "num_experts": 9, "moe_intermediate_size": 36,
          "norm_topk_prob": True}),
    Case("qwen3moe-no-norm", "qwen3_moe", "qwen3moe",
         {**MOE, **rope(1e6), "num_experts": 9, "moe_intermediate_size": 36,
          "norm_topk_prob": False}),
]


def by_name(name):
    return next(case for case in CASES if case.name == name)


def draw(name, shape, is_gemma, generator):
    """A weight by its name: norms about 1 (Gemma stores what is added to 1), the others so that a
    row of unit values gives a unit value."""
    value = torch.randn(shape, generator=generator)
    if "norm" in name:
        return 0.2 * value + (0.0 if is_gemma else 1.0)
    if name.endswith("bias"):
        return 0.5 * value
    if "embed_tokens" in name:
        return value / (shape[-1] ** 0.5 if is_gemma else 1.0)
    gain = 1.6 if any(part in name for part in ("q_proj", "k_proj", "qkv", "mlp.gate.")) else 1.0
    return gain * value / shape[-1] ** 0.5


def build(case, seed=1):
    """The model of a case with its random weights, in f32, as eager PyTorch code."""
    config = AutoConfig.for_model(case.model_type, **copy.deepcopy(case.config))
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    is_gemma = case.model_type.startswith("gemma")
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):  # a tied head stands here once
            weight.copy_(draw(name, weight.shape, is_gemma, generator))
    return model.eval()
