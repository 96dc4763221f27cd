"""Judges every op of a trace by itself: from the recorded inputs, against f64, within a bound.

So no error is inherited, and the bounds can be near the roundings of one op. u = 2^-24 is the
largest relative error of one rounding to f32. Ops that do nothing but move or add are held to
their bits. A judge returns |recorded - exact| / bound for every element; the op stands when none is
above 1.
"""
import blocks
import llama
import numpy as np

U = 2.0**-24
SMALLEST = 2.0**-126  # below it f32 loses digits
F64 = np.float64


def share(recorded, exact, bound):
    recorded = recorded.astype(F64)
    return np.where(recorded == exact, 0, np.abs(recorded - exact) / np.maximum(bound, SMALLEST))


def same_bits(recorded, exact):
    return np.where(recorded.view(np.uint32) == exact.view(np.uint32), 0, np.inf)


# stage: what it reads, its weight (a part of a fused one, where the file has that). `x` is what the
# layer before wrote, `a|b` is a where the model has that stage, else b; a matmul may read the int8
# form of its input, which is called after the norm even where there is none.
WIRING = {
    "embed": ("tokens", "token_embd"), "embed_scaled": ("embed", None),
    "attn_norm": ("x", "attn_norm"),
    "q": ("attn_norm|x", "attn_q|attn_qkv"), "k": ("attn_norm|x", "attn_k|attn_qkv"),
    "v": ("attn_norm|x", "attn_v|attn_qkv"),
    "q_norm": ("q", "attn_q_norm"), "k_norm": ("k", "attn_k_norm"),
    "q_rope": ("q_norm|q", None), "k_rope": ("k_norm|k", None),
    "k_cache": ("k_rope", None), "v_cache": ("v", None),
    "attn_out": ("q_rope k_cache v_cache", None), "wo_out": ("attn_out", "attn_output"),
    "attn_post_norm": ("wo_out", "post_attention_norm"),
    "x_after_attn": ("x attn_post_norm|wo_out", None), "ffn_norm": ("x_after_attn", "ffn_norm"),
    "gate": ("ffn_norm|x_after_attn", "ffn_gate|ffn_up"),
    "up": ("ffn_norm|x_after_attn", "ffn_up"),
    "act": ("gate up", None), "mlp_out": ("act", "ffn_down"),
    "ffn_post_norm": ("mlp_out", "post_ffw_norm"),
    "x_after_mlp": ("x_after_attn ffn_post_norm|mlp_out", None),
    "final_norm": ("x", "output_norm"),
    "logits_raw": ("final_norm", "output|token_embd"),
    "logits": ("final_norm", "output|token_embd"),
}
EXPERTS = {
    "router": ("ffn_norm", "ffn_gate_inp"), "expert_ids": ("router", None),
    "expert_weights": ("router expert_ids", None),
    "gate": ("ffn_norm expert_ids", "ffn_gate_exps"), "up": ("ffn_norm expert_ids", "ffn_up_exps"),
    "expert_out": ("act expert_ids", "ffn_down_exps"),
    "mlp_out": ("expert_out expert_weights", None),
}


class Rows:
    """Rows of a matrix, as blocks.dot wants a tensor: of one expert, or a part of a fused one."""

    def __init__(self, tensor, part):
        self.tensor_type, self.data = tensor.tensor_type, tensor.data[part]


class Judge:
    def __init__(self, trace, path):
        self.trace, self.model = trace, llama.Model(path, trace.header["n_ctx"])

    def wiring(self, stage):
        if self.model.n_expert_used and stage in EXPERTS:
            return EXPERTS[stage]
        if stage == "logits" and self.model.logit_cap:
            return "logits_raw", None
        return WIRING[stage]

    def sources(self, stage, layer):
        """The edges, as (stage, layer), that an op must read."""
        if stage.endswith("_q8"):
            unnormed = {"attn_norm": "attn_norm|x", "ffn_norm": "ffn_norm|x_after_attn"}
            return [self.source(unnormed.get(stage[:-3], stage[:-3]), layer)]
        return [self.source(names, layer) for names in self.wiring(stage)[0].split()]

    def source(self, names, layer):
        name, _, other = names.partition("|")
        name = other if other and (name, layer) not in self.trace.rows else name
        if name != "x":
            return name, layer
        if layer == 0:
            return self.source("embed_scaled|embed", -1)
        return "x_after_mlp", (layer if layer >= 0 else self.model.n_layer) - 1

    def check_wiring(self, stage, layer, record):
        read = [self.sources(t["stage"], layer)[0] if t["stage"].endswith("_q8") else
                (t["stage"], t.get("layer", -1)) for t in record["in"]]
        assert read == self.sources(stage, layer), (stage, layer, read)
        weight = None if stage.endswith("_q8") else self.wiring(stage)[1]
        prefix = f"blk.{layer}." if layer >= 0 else ""
        names = [f"{prefix}{name}.weight" for name in weight.split("|")] if weight else [None]
        expected = names[0] if names[0] in self.model.tensors else names[-1]
        assert self.name({0: record}) == expected, (stage, layer)
        if stage in ("q", "k", "v", "gate", "up") and record["op"] == "matmul":
            assert record["weight"][0].get("first_row", 0) == self.first_row(stage, expected)

    def first_row(self, stage, name):
        """Of a part of a fused matrix: q, k and v, or gate and up, one after the other."""
        m = self.model
        if "attn_qkv" in name:
            return m.head_dim * {"q": 0, "k": m.n_head, "v": m.n_head + m.n_head_kv}[stage]
        is_fused = name.replace("ffn_up", "ffn_gate") not in m.tensors
        return len(m.tensors[name].data) // 2 if stage == "up" and is_fused else 0

    @staticmethod
    def name(op, index=0):
        """The weight that the op's records name; None: it has none."""
        weights = next(iter(op.values())).get("weight", [])
        return weights[index]["tensor"] if len(weights) > index else None

    def judge(self, stage, layer):
        """(kind, shares) of one op."""
        op = self.trace.rows[stage, layer]
        for record in op.values():
            self.check_wiring(stage, layer, record)
        kind = next(iter(op.values()))["op"]
        return kind, getattr(self, kind)(op)

    def embed(self, op):
        """A row of the table, each value rounded once."""
        ids = [op[p]["token"] for p in sorted(op)]
        return same_bits(self.trace.outputs(op), self.model.weight(self.name(op))[ids])

    def scale(self, op):
        return same_bits(self.trace.outputs(op),
                         self.trace.inputs(op, 0) * np.float32(self.model.embd_scale))

    def rms_norm(self, op):
        """The sum of n squares: one rounding a term, 6 in a group of 64, one a group; half of its
        relative error passes the root; mean, eps, root, quotient and two products add 6."""
        x = self.trace.inputs(op, 0).astype(F64)
        relative = ((7 + x.shape[1] / 64) / 2 + 6) * U
        inverse = 1 / np.sqrt(np.mean(x * x, axis=1) + self.model.rms_eps)
        records = [op[p] for p in sorted(op)]
        given = np.array([r["inv_rms"][1] for r in records])
        assert all(np.float32(r["eps"][1]) == np.float32(self.model.rms_eps) for r in records)
        assert all(r["count"] == x.shape[1] for r in records)
        assert (np.abs(given - inverse) <= relative * inverse).all()
        return self.normed(op, x, relative)

    def head_norm(self, op):
        """The same of each head by itself; a record holds no numbers of a single head."""
        x = self.trace.inputs(op, 0).astype(F64)
        width = self.model.head_dim
        return self.normed(op, x.reshape(len(x), -1, width), ((7 + width / 64) / 2 + 6) * U)

    def normed(self, op, x, relative):
        exact = llama.rms_norm(x, self.model.weight(self.name(op)), self.model.rms_eps)
        seen = self.trace.outputs(op).reshape(x.shape)
        return share(seen, exact, relative * np.abs(exact))

    def quantize(self, op):
        """Scales within two roundings. A code is off by at most one step, where the rounding of
        x * (127 / a) crosses a half: in less than one of 1000."""
        code, d = blocks.quantize(self.trace.inputs(op, 0))
        seen_code, seen_d = self.trace.outputs(op)
        step = np.abs(seen_code - code)
        assert step.max() <= 1 and (step > 0).mean() < 1e-3
        return share(seen_d, d, 2 * U * d)

    def read_by_matmul(self, op, weight):
        """Input 0 as a matmul reads it: the values, and what stands for them in a quantised dot."""
        x = self.trace.inputs(op, 0)
        is_int8 = isinstance(x, tuple)
        assert is_int8 == (self.trace.header["act"] == "q8" and blocks.has_codes(weight))
        return blocks.activations(*x) if is_int8 else x.astype(F64)

    def matmul(self, op):
        """1e-6 of the sum of magnitudes: of |x_i| (|scale * code| + |minimum|), or |x_i w_i|."""
        seen, weight = self.trace.outputs(op), self.model.tensors[self.name(op)]
        first = next(iter(op.values()))["weight"][0].get("first_row", 0)
        part = Rows(weight, slice(first, first + seen.shape[1]))
        exact, magnitude = blocks.dot(self.read_by_matmul(op, weight), part)
        if self.name(op, 1):
            bias = self.model.weight(self.name(op, 1)).astype(F64)
            exact, magnitude = exact + bias, magnitude + np.abs(bias)
        return share(seen, exact, 1e-6 * magnitude)

    def expert_matmul(self, op):
        """The matrix of each chosen expert, in order of rank: all of them on one row of x, or each
        on its part."""
        weight, ids = self.model.tensors[self.name(op)], self.trace.inputs(op, 1)
        x = self.read_by_matmul(op, weight)
        x = x.reshape(len(x), -1, int(weight.shape[0]))
        x = np.broadcast_to(x, (len(x), ids.shape[1], x.shape[2]))
        seen = self.trace.outputs(op).reshape(*ids.shape, -1)
        used = np.empty(seen.shape)
        for expert in np.unique(ids):
            at = ids == expert
            exact, magnitude = blocks.dot(x[at], Rows(weight, expert))
            used[at] = share(seen[at], exact, 1e-6 * magnitude)
        return used

    def top_k(self, op):
        """The largest first, the lower id first among equals."""
        x, seen = self.trace.inputs(op, 0), self.trace.outputs(op)
        expected = np.argsort(-x, axis=1, kind="stable")[:, :self.model.n_expert_used]
        return np.where(seen == expected, 0, np.inf)

    def expert_weights(self, op):
        """Softmax over the chosen, or over all: a difference, exp, a sum of positive terms and a
        quotient."""
        x, ids = self.trace.inputs(op, 0).astype(F64), self.trace.inputs(op, 1)
        behind = x - x.max(axis=1, keepdims=True)
        e = np.exp(np.take_along_axis(behind, ids, axis=1))
        whole = e if self.model.expert_norm else np.exp(behind)
        exact = e / whole.sum(axis=1, keepdims=True)
        relative = (np.abs(behind).max(axis=1, keepdims=True) + 16 + x.shape[1]) * U
        return share(self.trace.outputs(op), exact, relative * exact)

    def expert_sum(self, op):
        """One chain of fused products."""
        x, w = self.trace.inputs(op, 0).astype(F64), self.trace.inputs(op, 1).astype(F64)
        terms = x.reshape(*w.shape, -1) * w[:, :, None]
        return share(self.trace.outputs(op), terms.sum(axis=1),
                     w.shape[1] * U * np.abs(terms).sum(axis=1))

    def softcap(self, op):
        """A quotient, tanh within 2 ULP, a product."""
        exact = llama.softcap(self.trace.inputs(op, 0).astype(F64), self.model.logit_cap)
        return share(self.trace.outputs(op), exact, 8 * U * np.abs(exact))

    def is_local(self, op):
        return self.model.is_local[next(iter(op.values()))["layer"]]

    def rope(self, op):
        """y = a cos - b sin: cos and sin are rounded once, then two roundings."""
        x = self.trace.inputs(op, 0).astype(F64)
        heads = x.reshape(len(x), -1, self.model.head_dim)
        exact = llama.rope(heads, sorted(op), self.model, self.is_local(op))
        half, size = self.model.rope_dim // 2, max(1, self.model.rope_size)
        sum_of = np.abs(heads)
        if self.model.halves:
            pairs = sum_of[..., :half] + sum_of[..., half:2 * half]
            sum_of[..., :2 * half] = np.concatenate([pairs, pairs], axis=-1)
        else:
            pairs = sum_of[..., 0:2 * half:2] + sum_of[..., 1:2 * half:2]
            sum_of[..., :2 * half] = np.repeat(pairs, 2, axis=-1)
        return share(self.trace.outputs(op).reshape(heads.shape), exact, 3 * U * size * sum_of)

    def kv_store(self, op):
        x, y = self.trace.inputs(op, 0), self.trace.outputs(op)
        with np.errstate(over="ignore"):
            rounded = x.astype(y.dtype).astype(np.float32)
        return same_bits(y.astype(np.float32), rounded)

    def attention(self, op):
        """From q_rope and the cached rows of all positions up to the query's. A chain of head_dim
        roundings drifts by about sqrt(head_dim) of them, relative to the score's sum of magnitudes;
        a weight is off by twice the largest, and by some roundings for exp, sums and quotient."""
        m = self.model
        n = len(op)
        assert sorted(op) == list(range(n))
        layer = next(iter(op.values()))["layer"]
        k, v = (self.trace.outputs(self.trace.rows[f"{x}_cache", layer]).astype(F64)
                .reshape(n, m.n_head_kv, m.head_dim) for x in "kv")
        q = self.trace.inputs(op, 0).astype(F64).reshape(n, m.n_head, m.head_dim)
        local = self.is_local(op)
        exact = llama.attention(q, k, v, m, local)
        by_query_head = lambda x: np.repeat(x, m.n_head // m.n_head_kv, axis=1)
        score = np.einsum("qhd,khd->qhk", np.abs(q), by_query_head(np.abs(k)))
        visible = np.tril(np.ones((n, n)))[:, None]
        worst = (score * visible).max(axis=2) * m.attention_scale * np.sqrt(m.head_dim) * U
        magnitude = llama.attention(q, k, np.abs(v), m, local)
        capped = 8 * U * m.score_cap  # tanh and its quotient and product, of at most the cap
        relative = np.repeat(2 * (worst + capped) + 16 * U, m.head_dim, axis=1)
        return share(self.trace.outputs(op), exact, relative * magnitude)

    def add(self, op):
        return same_bits(self.trace.outputs(op),
                         self.trace.inputs(op, 0) + self.trace.inputs(op, 1))

    def glu(self, op):
        """exp within 2 ULP, 1 + e, quotient, product."""
        gate, up = (self.trace.inputs(op, i).astype(F64) for i in (0, 1))
        is_gelu = self.model.gate is llama.gelu_tanh
        exact = (gelu if is_gelu else llama.silu)(gate) * up
        return share(self.trace.outputs(op), exact, 8 * U * np.abs(exact))


def gelu(x):
    """llama.gelu_tanh without its cancellation for negative x."""
    return x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
