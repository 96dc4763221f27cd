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


# stage: what it reads, its weight. x is what the layer before wrote; a matmul may read the int8
# form of its input.
WIRING = {
    "embed": ("tokens", "token_embd"),
    "attn_norm": ("x", "attn_norm"),
    "q": ("attn_norm", "attn_q"), "k": ("attn_norm", "attn_k"), "v": ("attn_norm", "attn_v"),
    "q_rope": ("q", None), "k_rope": ("k", None),
    "k_cache": ("k_rope", None), "v_cache": ("v", None),
    "attn_out": ("q_rope k_cache v_cache", None), "wo_out": ("attn_out", "attn_output"),
    "x_after_attn": ("x wo_out", None), "ffn_norm": ("x_after_attn", "ffn_norm"),
    "gate": ("ffn_norm", "ffn_gate"), "up": ("ffn_norm", "ffn_up"), "act": ("gate up", None),
    "mlp_out": ("act", "ffn_down"), "x_after_mlp": ("x_after_attn mlp_out", None),
    "final_norm": ("x", "output_norm"), "logits": ("final_norm", "output"),
}


class Judge:
    def __init__(self, trace, path):
        self.trace, self.model = trace, llama.Model(path)

    def sources(self, stage, layer):
        """The edges, as (stage, layer), that an op must read."""
        if stage.endswith("_q8"):
            return [(stage[:-3], layer)]
        before = layer - 1 if layer >= 0 else self.model.n_layer - 1
        x = ("embed", -1) if layer == 0 else ("x_after_mlp", before)
        return [x if name == "x" else (name, layer) for name in WIRING[stage][0].split()]

    def check_wiring(self, stage, layer, record):
        read = [(t["stage"].removesuffix("_q8") if record["op"] == "matmul" else t["stage"],
                 t.get("layer", -1)) for t in record["in"]]
        assert read == self.sources(stage, layer), (stage, layer, read)
        weight = None if stage.endswith("_q8") else WIRING[stage][1]
        if weight == "output" and self.model.tied:
            weight = "token_embd"
        prefix = f"blk.{layer}." if layer >= 0 else ""
        assert self.name({0: record}) == (weight and f"{prefix}{weight}.weight"), (stage, layer)

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

    def rms_norm(self, op):
        """The sum of n squares: one rounding a term, 6 in a group of 64, one a group; half of its
        relative error passes the root; mean, eps, root, quotient and two products add 6."""
        x = self.trace.inputs(op, 0).astype(F64)
        weight = self.model.weight(self.name(op))
        eps = self.model.rms_eps
        relative = ((7 + x.shape[1] / 64) / 2 + 6) * U
        exact = llama.rms_norm(x, weight, eps)
        inverse = 1 / np.sqrt(np.mean(x * x, axis=1) + eps)
        records = [op[p] for p in sorted(op)]
        given = np.array([r["inv_rms"][1] for r in records])
        assert all(np.float32(r["eps"][1]) == np.float32(eps) for r in records)
        assert all(r["count"] == x.shape[1] for r in records)
        assert (np.abs(given - inverse) <= relative * inverse).all()
        return share(self.trace.outputs(op), exact, relative * np.abs(exact))

    def quantize(self, op):
        """Scales within two roundings. A code is off by at most one step, where the rounding of
        x * (127 / a) crosses a half: in less than one of 1000."""
        code, d = blocks.quantize(self.trace.inputs(op, 0))
        seen_code, seen_d = self.trace.outputs(op)
        step = np.abs(seen_code - code)
        assert step.max() <= 1 and (step > 0).mean() < 1e-3
        return share(seen_d, d, 2 * U * d)

    def matmul(self, op):
        """1e-6 of the sum of magnitudes: of |x_i| (|scale * code| + |minimum|), or |x_i w_i|."""
        x, weight = self.trace.inputs(op, 0), self.model.tensors[self.name(op)]
        is_int8 = isinstance(x, tuple)
        assert is_int8 == (self.trace.header["act"] == "q8" and blocks.has_codes(weight))
        exact, magnitude = blocks.dot(blocks.activations(*x) if is_int8 else x.astype(F64), weight)
        if self.name(op, 1):
            bias = self.model.weight(self.name(op, 1)).astype(F64)
            exact, magnitude = exact + bias, magnitude + np.abs(bias)
        return share(self.trace.outputs(op), exact, 1e-6 * magnitude)

    def rope(self, op):
        """y = a cos - b sin: cos and sin are rounded once, then two roundings."""
        x = self.trace.inputs(op, 0).astype(F64)
        heads = x.reshape(len(x), -1, self.model.head_dim)
        exact = llama.rope(heads, sorted(op), self.model).reshape(x.shape)
        pairs = np.abs(x).reshape(len(x), -1, 2).sum(axis=2)
        return share(self.trace.outputs(op), exact, 3 * U * np.repeat(pairs, 2, axis=1))

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
        exact = llama.attention(q, k, v, m)
        by_query_head = lambda x: np.repeat(x, m.n_head // m.n_head_kv, axis=1)
        score = np.einsum("qhd,khd->qhk", np.abs(q), by_query_head(np.abs(k)))
        visible = np.tril(np.ones((n, n)))[:, None]
        worst = (score * visible).max(axis=2) * m.attention_scale * np.sqrt(m.head_dim) * U
        magnitude = llama.attention(q, k, np.abs(v), m)
        relative = np.repeat(2 * worst + 16 * U, m.head_dim, axis=1)
        return share(self.trace.outputs(op), exact, relative * magnitude)

    def add(self, op):
        return same_bits(self.trace.outputs(op),
                         self.trace.inputs(op, 0) + self.trace.inputs(op, 1))

    def glu(self, op):
        """exp within 2 ULP, 1 + e, quotient, product."""
        gate, up = (self.trace.inputs(op, i).astype(F64) for i in (0, 1))
        exact = llama.silu(gate) * up
        return share(self.trace.outputs(op), exact, 8 * U * np.abs(exact))
