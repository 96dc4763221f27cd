"""Small models of every family, written twice from the same random weights: as a Hugging Face
folder (with the safetensors package) and as a GGUF file (with gguf-py, whose table gives names).

Nothing here shares a table with src/model: classes and keys are those of transformers'
configurations, GGUF keys and names those of gguf-py, and what the converter of llama.cpp does to
values (rows of q and k in another order, 1 added to Gemma's norms) is done here by its definition.
"""
import json
import struct

import gguf
import numpy as np
import safetensors
import tokenizers

N_LAYER, N_EMBD, N_HEAD, N_KV, HEAD, N_FF, VOCAB, N_TOKEN = 3, 64, 4, 2, 32, 96, 300, 280
N_EXPERT, N_USED, N_FF_EXPERT = 4, 2, 64
KEYS = {"num_hidden_layers": N_LAYER, "hidden_size": N_EMBD, "intermediate_size": N_FF,
        "num_attention_heads": N_HEAD, "num_key_value_heads": N_KV, "head_dim": HEAD,
        "vocab_size": VOCAB, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "rope_theta": 20000.0, "tie_word_embeddings": False,
        "bos_token_id": 256, "eos_token_id": 257, "torch_dtype": "float32"}

# class: (model_type, GGUF architecture, config.json, GGUF keys, traits)
FAMILIES = {
    "LlamaForCausalLM": ("llama", "llama", {}, {}, {"permuted"}),
    "MistralForCausalLM": ("mistral", "llama", {"sliding_window": None}, {}, {"permuted"}),
    "Qwen2ForCausalLM": ("qwen2", "qwen2",
                         {"use_sliding_window": False, "sliding_window": 8,
                          "max_window_layers": 1}, {}, {"bias"}),
    "Qwen3ForCausalLM": ("qwen3", "qwen3", {}, {}, {"qk_norm"}),
    "Qwen3MoeForCausalLM": ("qwen3_moe", "qwen3moe",
                            {"num_experts": N_EXPERT, "num_experts_per_tok": N_USED,
                             "moe_intermediate_size": N_FF_EXPERT, "norm_topk_prob": True,
                             "decoder_sparse_step": 1, "mlp_only_layers": []},
                            {"expert_count": N_EXPERT, "expert_used_count": N_USED,
                             "expert_feed_forward_length": N_FF_EXPERT}, {"qk_norm", "moe"}),
    "MixtralForCausalLM": ("mixtral", "llama",
                           {"num_local_experts": N_EXPERT, "num_experts_per_tok": N_USED,
                            "sliding_window": None},
                           {"expert_count": N_EXPERT, "expert_used_count": N_USED},
                           {"permuted", "mixtral"}),
    "Gemma2ForCausalLM": ("gemma2", "gemma2",
                          {"hidden_act": "gelu_pytorch_tanh", "query_pre_attn_scalar": HEAD,
                           "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 8,
                           "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
                           "tie_word_embeddings": "absent"},
                          {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
                           "attention.sliding_window": 8}, {"gemma"}),
    "Gemma3ForCausalLM": ("gemma3_text", "gemma3",
                          {"hidden_activation": "gelu_pytorch_tanh", "sliding_window": 8,
                           "query_pre_attn_scalar": HEAD, "sliding_window_pattern": 2,
                           "rope_local_base_freq": 10000.0, "tie_word_embeddings": "absent"},
                          {"attention.sliding_window": 8, "attention.sliding_window_pattern": 2},
                          {"gemma", "qk_norm"}),
    "Olmo2ForCausalLM": ("olmo2", "olmo2", {}, {}, {"post_norms"}),
    "Olmo3ForCausalLM": ("olmo3", "olmo2", {"sliding_window": 8}, {"attention.sliding_window": 8},
                         {"post_norms"}),
    "Phi3ForCausalLM": ("phi3", "phi3", {"sliding_window": None}, {}, {"fused"}),
}


def weights(name, seed=1, tied=None):
    """HF names to arrays whose values bfloat16 holds exactly."""
    traits = FAMILIES[name][4]
    tied = "gemma" in traits if tied is None else tied
    rng = np.random.default_rng(seed)

    def draw(*shape, scale=0.1, centre=0.0):
        value = (rng.standard_normal(shape) * scale + centre).astype(np.float32)
        return (value.view(np.uint32) & 0xffff0000).view(np.float32)

    out = {"model.embed_tokens.weight": draw(VOCAB, N_EMBD, scale=0.5),
           "model.norm.weight": draw(N_EMBD, centre=0.0 if "gemma" in traits else 1.0)}
    if not tied:
        out["lm_head.weight"] = draw(VOCAB, N_EMBD)
    centre = 0.0 if "gemma" in traits else 1.0
    for layer in range(N_LAYER):
        at = f"model.layers.{layer}."
        norms = ["input_layernorm", "post_attention_layernorm"]
        if "gemma" in traits:
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        if "post_norms" in traits:
            norms = ["post_attention_layernorm", "post_feedforward_layernorm"]
        for norm in norms:
            out[f"{at}{norm}.weight"] = draw(N_EMBD, centre=centre)
        q, kv = N_HEAD * HEAD, N_KV * HEAD
        if "fused" in traits:
            out[f"{at}self_attn.qkv_proj.weight"] = draw(q + 2 * kv, N_EMBD)
        else:
            for part, rows in (("q", q), ("k", kv), ("v", kv)):
                out[f"{at}self_attn.{part}_proj.weight"] = draw(rows, N_EMBD)
                if "bias" in traits:
                    out[f"{at}self_attn.{part}_proj.bias"] = draw(rows)
        if "qk_norm" in traits:
            out[f"{at}self_attn.q_norm.weight"] = draw(HEAD, centre=centre)
            out[f"{at}self_attn.k_norm.weight"] = draw(HEAD, centre=centre)
        if "post_norms" in traits:
            out[f"{at}self_attn.q_norm.weight"] = draw(q, centre=centre)
            out[f"{at}self_attn.k_norm.weight"] = draw(kv, centre=centre)
        out[f"{at}self_attn.o_proj.weight"] = draw(N_EMBD, q)
        if "mixtral" in traits or "moe" in traits:
            block = "block_sparse_moe" if "mixtral" in traits else "mlp"
            gate, up, down = (("w1", "w3", "w2") if "mixtral" in traits
                              else ("gate_proj", "up_proj", "down_proj"))
            ff = N_FF if "mixtral" in traits else N_FF_EXPERT
            out[f"{at}{block}.gate.weight"] = draw(N_EXPERT, N_EMBD)
            for expert in range(N_EXPERT):
                out[f"{at}{block}.experts.{expert}.{gate}.weight"] = draw(ff, N_EMBD)
                out[f"{at}{block}.experts.{expert}.{up}.weight"] = draw(ff, N_EMBD)
                out[f"{at}{block}.experts.{expert}.{down}.weight"] = draw(N_EMBD, ff)
        elif "fused" in traits:
            out[f"{at}mlp.gate_up_proj.weight"] = draw(2 * N_FF, N_EMBD)
            out[f"{at}mlp.down_proj.weight"] = draw(N_EMBD, N_FF)
        else:
            out[f"{at}mlp.gate_proj.weight"] = draw(N_FF, N_EMBD)
            out[f"{at}mlp.up_proj.weight"] = draw(N_FF, N_EMBD)
            out[f"{at}mlp.down_proj.weight"] = draw(N_EMBD, N_FF)
    return out


# ---- The vocabulary: bytes, an opening, an end, and some names -----------------------------------

def alphabet():
    return sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def tokens():
    """(text, type of GGUF) of all ids; those that the checkpoint only pads are unused."""
    out = [(character, 1) for character in alphabet()]
    out += [("<s>", 3), ("</s>", 3), ("ab", 1)]
    out += [(f"<extra_{i}>", 4) for i in range(N_TOKEN - len(out))]
    return out + [(f"[PAD{i}]", 5) for i in range(N_TOKEN, VOCAB)]


def tokenizer_json():
    vocabulary = {text: i for i, (text, _) in enumerate(tokens()[:N_TOKEN])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False,
                                                                  use_regex=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    for text, kind in tokens()[:N_TOKEN]:
        if kind == 3:
            tokenizer.add_special_tokens([text])
        elif kind == 4:
            tokenizer.add_tokens([text])
    return tokenizer.to_str()


# ---- A Hugging Face folder -----------------------------------------------------------------------

CODES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def stored(value, dtype):
    """The bytes of an array in one of the formats' types."""
    if dtype == "BF16":
        return (value.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return value.astype({"F32": np.float32, "F16": np.float16}[dtype]).tobytes()


def save(path, tensors, dtype):
    kept = {name: np.frombuffer(stored(np.ascontiguousarray(value), dtype), np.uint8)
            for name, value in tensors.items()}  # alive until the file is written
    entries = {name: safetensors.TensorSpec(dtype=CODES[dtype], shape=tensors[name].shape,
                                            data_ptr=data.ctypes.data, data_len=data.nbytes)
               for name, data in kept.items()}
    safetensors.serialize_file(entries, str(path), {"format": "pt"})


def config(name, **changes):
    model_type, _, extra, _, _ = FAMILIES[name]
    out = {"architectures": [name], "model_type": model_type, **KEYS, **extra, **changes}
    return {key: value for key, value in out.items() if value != "absent"}


def write_folder(folder, name, tensors, dtype="BF16", shards=1, **changes):
    """The folder as transformers' save_pretrained lays it out; changes go into config.json."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config(name, **changes)))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [257, 258]}))
    (folder / "tokenizer.json").write_text(tokenizer_json())
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False,
         "tokenizer_class": "PreTrainedTokenizerFast"}))
    if shards == 1:
        save(folder / "model.safetensors", tensors, dtype)
        return folder
    where = {}
    names = sorted(tensors)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard::shards]
        save(folder / file, {key: tensors[key] for key in part}, dtype)
        where.update({key: file for key in part})
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 0}, "weight_map": where}))
    return folder


# ---- The same as GGUF ----------------------------------------------------------------------------

def permuted(value, n_head):
    """Rows of a head from halves to neighbours."""
    shape = value.shape
    return value.reshape(n_head, 2, HEAD // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def to_gguf(name, tensors):
    """GGUF names to arrays, by gguf-py's table; experts are stacked."""
    _, arch, _, _, traits = FAMILIES[name]
    number = next(key for key, text in gguf.MODEL_ARCH_NAMES.items() if text == arch)
    table = gguf.get_tensor_name_map(number, N_LAYER)
    out, experts = {}, {}
    for key, value in tensors.items():
        parts = key.split(".")
        if "experts" in parts:
            expert = int(parts.pop(parts.index("experts") + 1))
            merged = ".".join(parts).replace("model.layers", "layers") if "w1" in parts or \
                "w2" in parts or "w3" in parts else ".".join(parts)
            merged = merged.replace("block_sparse_moe", "feed_forward")
            experts.setdefault(merged, {})[expert] = value
            continue
        if "permuted" in traits and parts[-2] in ("q_proj", "k_proj"):
            value = permuted(value, N_HEAD if parts[-2] == "q_proj" else N_KV)
        if "gemma" in traits and key.endswith("norm.weight"):
            value = value + np.float32(1)
        out[table.get_name(key, try_suffixes=(".weight", ".bias"))] = value
    for key, parts in experts.items():
        stacked = np.stack([parts[expert] for expert in range(N_EXPERT)])
        out[table.get_name(key, try_suffixes=(".weight",))] = stacked
    assert None not in out
    return out


def write_gguf(path, name, tensors, dtype="BF16", factors=(), **keys):
    """`factors`: further tensors of f32, by GGUF's names."""
    _, arch, _, extra, _ = FAMILIES[name]
    writer = gguf.GGUFWriter(path, arch)
    numbers = {"block_count": N_LAYER, "embedding_length": N_EMBD, "feed_forward_length": N_FF,
               "attention.head_count": N_HEAD, "attention.head_count_kv": N_KV,
               "attention.key_length": HEAD, "attention.value_length": HEAD,
               "context_length": 256, "attention.layer_norm_rms_epsilon": 1e-5,
               "rope.freq_base": 20000.0, "rope.dimension_count": HEAD, **extra, **keys}
    for key, value in numbers.items():
        if isinstance(value, float):
            writer.add_float32(f"{arch}.{key}", value)
        elif isinstance(value, bool):
            writer.add_bool(f"{arch}.{key}", value)
        elif isinstance(value, str):
            writer.add_string(f"{arch}.{key}", value)
        elif isinstance(value, list):
            writer.add_array(f"{arch}.{key}", value)
        else:
            writer.add_uint32(f"{arch}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([text for text, _ in tokens()])
    writer.add_token_types([kind for _, kind in tokens()])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    for key, value in {**to_gguf(name, tensors), **dict(factors)}.items():
        if value.ndim == 1 or dtype == "F32":
            writer.add_tensor(key, value.astype(np.float32))
        elif dtype == "F16":
            writer.add_tensor(key, value.astype(np.float16))
        else:
            data = np.frombuffer(stored(np.ascontiguousarray(value), "BF16"), np.uint8)
            writer.add_tensor(key, data.reshape(*value.shape[:-1], value.shape[-1] * 2),
                              raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# ---- Files by hand -------------------------------------------------------------------------------

def shift(path):
    """Rewrites a safetensors file so that its data begins at an odd byte: one blank more."""
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    pad = 1 if (8 + n) % 2 == 0 else 2
    path.write_bytes(struct.pack("<Q", n + pad) + raw[8:8 + n] + b" " * pad + raw[8 + n:])
