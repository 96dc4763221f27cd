"""A case as files: a Hugging Face folder, and the same weights as GGUF.

The folder is what `save_pretrained` writes, with a byte-level tokenizer.json, since GRETA opens
no model without a vocabulary. The GGUF file is what converters make of such a folder: names from
the `gguf` package's own table, rows of q and k reordered for `llama` so that rotary pairs are
neighbours, 1 added to Gemma's norms, experts stacked, Llama 3.1's scaling as a tensor of divisors.
All weights stay F32, so that both files hold the same numbers.
"""
import json

import gguf
import numpy as np
import rope_table

CONTROL = ["<unk>", "<s>", "</s>"]
GGUF_ARCH = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}


# ---- Vocabulary ---------------------------------------------------------------------------------


def vocabulary(n):
    """(tokens, merges) in GPT-2's byte alphabet: control tokens, bytes, doubled letters."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    tokens = CONTROL + [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
    merges = [f"{letter} {letter}" for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"]
    merges = merges[:n - len(tokens)]
    return tokens + [merge.replace(" ", "") for merge in merges], merges


def tokenizer_json(n):
    tokens, merges = vocabulary(n)
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, token in enumerate(CONTROL)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None,
            "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {token: i for i, token in enumerate(tokens)},
                      "merges": [merge.split() for merge in merges]}}


# ---- The folder ---------------------------------------------------------------------------------


def write_folder(model, folder, shard="1GB"):
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer = tokenizer_json(model.config.vocab_size)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
         "add_bos_token": False, "clean_up_tokenization_spaces": False}))


def respell(folder):
    """config.json as published models have it: rope_theta and rope_scaling, not rope_parameters."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    parameters = config.pop("rope_parameters")
    if "full_attention" in parameters:
        local, parameters = parameters["sliding_attention"], parameters["full_attention"]
        if config["model_type"] != "olmo3":
            config["rope_local_base_freq"] = local["rope_theta"]
            config.pop("layer_types")
            config["sliding_window_pattern"] = config.pop("_sliding_window_pattern")
    config["rope_theta"] = parameters.pop("rope_theta")
    if "partial_rotary_factor" in parameters:
        config["partial_rotary_factor"] = parameters.pop("partial_rotary_factor")
    config["rope_scaling"] = None if parameters["rope_type"] == "default" else parameters
    if config["rope_scaling"] and config["model_type"] == "phi3":
        parameters["type"] = parameters.pop("rope_type")
        parameters.pop("original_max_position_embeddings", None)
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))


# ---- GGUF ---------------------------------------------------------------------------------------


def neighbours(rows, head_dim):
    """Rows of q or k, or of anything with n_head * head_dim values first: pairs (i, i + half) of a
    head moved to (2i, 2i + 1)."""
    heads = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows.shape)


def tensors_of(model, arch):
    """(GGUF name, values) of all weights."""
    config = model.config
    names = gguf.get_tensor_name_map(GGUF_ARCH[arch], config.num_hidden_layers)
    for name, weight in model.named_parameters():
        value = weight.detach().numpy()
        if arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            value = neighbours(value, config.head_dim)
        if arch.startswith("gemma") and "norm" in name:
            value = value + np.float32(1)
        if name.endswith("experts.gate_up_proj"):
            gate, up = np.split(value, 2, axis=1)
            parts = {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}
        else:
            parts = {name: value}
        for part, value in parts.items():
            stem, dot, suffix = part.rpartition(".")
            is_plain = suffix in ("weight", "bias")
            found = names.get_name(stem if is_plain else part)
            if found is None:
                raise KeyError(f"GGUF has no name for {part}")
            yield f"{found}.{suffix if is_plain else 'weight'}", np.ascontiguousarray(value)


def write_rope(writer, config, is_gemma):
    p = config.rope_parameters
    if "full_attention" in p and isinstance(p["full_attention"], dict):
        if is_gemma:
            writer.add_rope_freq_base_swa(p["sliding_attention"]["rope_theta"])
        p = p["full_attention"]
    writer.add_rope_freq_base(p["rope_theta"])
    kind, scaling = p["rope_type"], gguf.RopeScalingType
    if kind == "linear":
        writer.add_rope_scaling_type(scaling.LINEAR)
        writer.add_rope_scaling_factor(p["factor"])
    elif kind == "yarn":
        writer.add_rope_scaling_type(scaling.YARN)
        writer.add_rope_scaling_factor(p["factor"])
        writer.add_rope_scaling_orig_ctx_len(p["original_max_position_embeddings"])
    elif kind == "longrope":
        writer.add_rope_scaling_type(scaling.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(p["original_max_position_embeddings"])
        writer.add_rope_scaling_attn_factors(rope_table.frequencies(config)[1])
        for length in ("long", "short"):
            writer.add_tensor(f"rope_factors_{length}.weight", np.float32(p[f"{length}_factor"]))
    elif kind == "llama3":
        plain = p["rope_theta"] ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
        writer.add_tensor("rope_freqs.weight", np.float32(rope_table.llama3_factors(plain, p)))


def write_attention(writer, case, config):
    head_dim = getattr(config, "head_dim", None)
    head_dim = head_dim or config.hidden_size // config.num_attention_heads
    turned = config.rope_parameters.get("partial_rotary_factor", 1.0)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(int(head_dim * turned))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
        if case.arch == "qwen2":
            writer.add_array("qwen2.attention.sliding_window_pattern",
                             [kind == "sliding_attention" for kind in config.layer_types])
    if case.arch.startswith("gemma"):
        writer.add_attention_scale(config.query_pre_attn_scalar ** -0.5)
        if config.attn_logit_softcapping:
            writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        if config.final_logit_softcapping:
            writer.add_final_logit_softcapping(config.final_logit_softcapping)


def write_gguf(case, model, path):
    config = model.config
    writer = gguf.GGUFWriter(path, case.arch)
    writer.add_name("tiny")  # of some names, llama.cpp expects certain special tokens
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_vocab_size(config.vocab_size)
    write_attention(writer, case, config)
    write_rope(writer, config, case.arch.startswith("gemma"))
    n_expert = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    if n_expert:
        writer.add_expert_count(n_expert)
        writer.add_expert_used_count(config.num_experts_per_tok)
        if hasattr(config, "moe_intermediate_size"):
            writer.add_expert_feed_forward_length(config.moe_intermediate_size)
            writer.add_expert_weights_norm(config.norm_topk_prob)
    tokens, merges = vocabulary(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    for name, value in tensors_of(model, case.arch):
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
