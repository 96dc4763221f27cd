"""What transformers computes at every stage that GRETA names, read from outside of its code.

Modules are hooked where a stage is the input or output of one; where there is no module boundary
(rotation, the sum after attention, single experts) a function of the modelling file is wrapped for
the length of a run. Nothing is recomputed: each value is one that the forward pass itself used,
except `embed` of the scaled embeddings, which is a row of the matrix. Rotary tables are replaced on
request, as forward hooks may.

A stage is (n_token, width) in f32, heads and chosen experts one after the other as GRETA has them.
"""
import contextlib
import sys

import numpy as np
import rope_table
import torch

FAMILY_OF_FOUR_NORMS = ("gemma2", "gemma3_text")
FAMILY_OF_POST_NORMS = ("olmo2", "olmo3")


class Recorder:
    """One run: hooks write into `stage`, {(name, layer): (n, width)}; layer -1: not in a layer."""

    def __init__(self, model):
        self.model, self.config = model, model.config
        self.stage, self.handles, self.layer = {}, [], -1

    # ---- Keeping --------------------------------------------------------------------------------

    def keep(self, name, value, layer=None):
        """value (1, n, width) or (n, width), or with heads (1, n, n_head, head_dim)."""
        key = name, self.layer if layer is None else layer
        if key in self.stage:
            raise ValueError(f"{key} twice")
        if value.dim() == 4 or (value.dim() == 3 and value.shape[0] == 1):
            value = value[0]
        self.stage[key] = value.detach().reshape(self.n, -1).numpy().copy()

    def keep_parts(self, names, parts, layer):
        for name, part in zip(names, parts, strict=True):
            self.keep(name, part, layer)

    def output(self, module, name, layer):
        self.handles.append(module.register_forward_hook(
            lambda module, args, out: self.keep(name, out, layer)))

    def input(self, module, name, layer):
        self.handles.append(module.register_forward_pre_hook(
            lambda module, args: self.keep(name, args[0], layer)))

    # ---- Where the stages are -------------------------------------------------------------------

    def hook_all(self):
        inner = self.model.model
        self.hook_embedding(inner.embed_tokens)
        has_pre_norm = self.config.model_type not in FAMILY_OF_POST_NORMS
        for i, layer in enumerate(inner.layers):
            last = i + 1 == len(inner.layers)
            self.hook_attention(layer, i)
            self.hook_ffn(layer, i)
            following = (inner.norm if last else inner.layers[i + 1].input_layernorm
                         if has_pre_norm else inner.layers[i + 1].self_attn.q_proj)
            self.input(following, "x_after_mlp", i)
        self.output(inner.norm, "final_norm", -1)
        is_capped = getattr(self.config, "final_logit_softcapping", None) is not None
        self.output(self.model.lm_head, "logits_raw" if is_capped else "logits", -1)

    def hook_embedding(self, embedding):
        if not hasattr(embedding, "embed_scale"):
            self.output(embedding, "embed", -1)
            return
        self.output(embedding, "embed_scaled", -1)
        self.handles.append(embedding.register_forward_pre_hook(
            lambda module, args: self.keep("embed", module.weight[args[0]], -1)))

    def hook_attention(self, layer, i):
        attention = layer.self_attn
        self.handles.append(attention.register_forward_pre_hook(
            lambda module, args: setattr(self, "layer", i)))
        if self.config.model_type not in FAMILY_OF_POST_NORMS:
            self.output(layer.input_layernorm, "attn_norm", i)
        if hasattr(attention, "qkv_proj"):
            self.handles.append(attention.qkv_proj.register_forward_hook(
                lambda module, args, out: self.keep_qkv(attention, out, i)))
        else:
            for name in "qkv":
                self.output(getattr(attention, f"{name}_proj"), name, i)
        for name in ("q_norm", "k_norm"):
            if hasattr(attention, name):
                # Gemma norms (1, n_head, n, head_dim), Qwen (1, n, n_head, head_dim).
                is_turned = self.config.model_type in FAMILY_OF_FOUR_NORMS
                self.handles.append(getattr(attention, name).register_forward_hook(
                    lambda module, args, out, name=name: self.keep(
                        name, out.transpose(1, 2) if is_turned else out, i)))
        self.input(attention.o_proj, "attn_out", i)
        self.output(attention.o_proj, "wo_out", i)

    def keep_qkv(self, attention, out, i):
        q_dim = self.config.num_attention_heads * attention.head_dim
        kv_dim = self.config.num_key_value_heads * attention.head_dim
        self.keep_parts("qkv", out.split([q_dim, kv_dim, kv_dim], dim=-1), i)

    def hook_ffn(self, layer, i):
        norm, is_post = layer.post_attention_layernorm, False
        if self.config.model_type in FAMILY_OF_FOUR_NORMS + FAMILY_OF_POST_NORMS:
            self.output(layer.post_attention_layernorm, "attn_post_norm", i)
            self.output(layer.post_feedforward_layernorm, "ffn_post_norm", i)
            is_post = self.config.model_type in FAMILY_OF_POST_NORMS
            norm = layer.mlp if is_post else layer.pre_feedforward_layernorm
        self.input(norm, "x_after_attn", i)
        if not is_post:
            self.output(norm, "ffn_norm", i)
        self.output(layer.mlp, "mlp_out", i)
        if hasattr(layer.mlp, "experts"):
            self.hook_experts(layer.mlp, i)
            return
        if hasattr(layer.mlp, "gate_up_proj"):
            self.handles.append(layer.mlp.gate_up_proj.register_forward_hook(
                lambda module, args, out: self.keep_parts(
                    ("gate", "up"), out.chunk(2, dim=-1), i)))
        else:
            self.output(layer.mlp.gate_proj, "gate", i)
            self.output(layer.mlp.up_proj, "up", i)
        self.input(layer.mlp.down_proj, "act", i)

    # ---- Experts --------------------------------------------------------------------------------

    def hook_experts(self, block, i):
        def router(module, args, out):
            logits, weights, ids = out
            self.keep("router", logits, i)
            self.keep("expert_weights", weights, i)
            self.keep("expert_ids", ids, i)

        def before(module, args):
            self.linear_of_experts(args[1], i)

        def after(module, args, out):
            torch.nn.functional.linear = self.linear
            for name, value in self.expert_rows.items():
                self.keep(name, value, i)

        self.handles.append(block.gate.register_forward_hook(router))
        self.handles.append(block.experts.register_forward_pre_hook(before))
        self.handles.append(block.experts.register_forward_hook(after))

    def linear_of_experts(self, ids, i):
        """Until the experts are done, F.linear is called twice for each expert that any token
        chose, in order of the expert: x -> gate and up, act -> out. The rows of its calls are the
        places (rank, token) where `ids` (n, n_used) names the expert, in that order."""
        self.linear, self.expert_rows = torch.nn.functional.linear, {}
        hit = [int(e) for e in ids.unique()]
        state = {"call": 0}

        def put(name, rank, token, value):
            if name not in self.expert_rows:
                self.expert_rows[name] = torch.full((*ids.shape, value.shape[-1]), float("nan"))
            self.expert_rows[name][token, rank] = value

        def linear(x, weight, bias=None):
            out = self.linear(x, weight, bias)
            rank, token = torch.where(ids.T == hit[state["call"] // 2])
            if state["call"] % 2 == 0:
                gate, up = out.chunk(2, dim=-1)
                put("gate", rank, token, gate)
                put("up", rank, token, up)
            else:
                put("act", rank, token, x)
                put("expert_out", rank, token, out)
            state["call"] += 1
            return out

        torch.nn.functional.linear = linear

    # ---- Rotation -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def rotation_watched(self):
        """apply_rotary_pos_emb is a global of the modelling file that its attention calls."""
        file = sys.modules[type(self.model).__module__]
        original = file.apply_rotary_pos_emb

        def watched(*args, **kwargs):
            q, k = original(*args, **kwargs)
            self.keep("q_rope", q.transpose(1, 2))
            self.keep("k_rope", k.transpose(1, 2))
            return q, k

        file.apply_rotary_pos_emb = watched
        try:
            yield
        finally:
            file.apply_rotary_pos_emb = original

    def inject_table(self, is_long):
        def replace(module, args, kwargs, out):
            positions = kwargs.get("position_ids", args[1] if len(args) > 1 else None)[0]
            layer_type = kwargs.get("layer_type", args[2] if len(args) > 2 else None)
            pair = rope_table.table(self.config, positions.numpy(), layer_type, is_long)
            return tuple(torch.from_numpy(part)[None] for part in pair)

        self.handles.append(
            self.model.model.rotary_emb.register_forward_hook(replace, with_kwargs=True))


def run(model, ids, first_position=0, own_table=False, is_long=False):
    """All stages of one pass over ids at consecutive positions. own_table: transformers' f32 table
    instead of the one of rope_table.py, whose longrope set is_long chooses."""
    recorder = Recorder(model)
    recorder.n = len(ids)
    recorder.hook_all()
    if not own_table:
        recorder.inject_table(is_long)
    position = torch.arange(first_position, first_position + len(ids))[None]
    try:
        with torch.no_grad(), recorder.rotation_watched():
            out = model(torch.tensor([ids]), position_ids=position, use_cache=False)
    finally:
        for handle in recorder.handles:
            handle.remove()
    if ("logits_raw", -1) in recorder.stage:
        recorder.keep("logits", out.logits, -1)
    if not np.isfinite(recorder.stage["logits", -1]).all():
        raise ValueError("the reference is not finite")
    return recorder.stage
