"""The forward pass of a GGUF in NumPy, every sum in f64: what the engine is judged by.

It shares nothing with the engine: the file is read by the `gguf` package, weights are widened from
that package's values, and the formulas are those of the papers, in the plainest order. Several
sequences go through the layers together, so that each weight is widened once per pass. All
architectures that the engine has are one function here too; what a file does not say comes from
the families' published configurations.

Shapes, outer to inner: x (n, n_embd), q (n, n_head, head_dim), k and v (n, n_head_kv, head_dim),
weights (rows, K). n counts the tokens of all sequences of the pass, one after the other.
"""
import ctypes

import gguf
import gguf_file
import numpy as np

F64 = np.float64
# glibc gives large arrays back to the system at once, which clears every new one: a third of the
# time of a pass. They are kept: M_MMAP_MAX 0, M_TRIM_THRESHOLD 2 GB.
if hasattr(ctypes.CDLL(None), "mallopt"):
    for option, value in ((-4, 0), (-1, 2**31 - 1)):
        ctypes.CDLL(None).mallopt(option, value)
# Pairs (i, i + dim / 2), and (2i, 2i + 1).
HALVES = ["qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3", "olmo2", "phi3"]
NEIGHBOURS = ["llama"]


class Model:
    """Metadata as attributes, weights by name. Tests change attributes to see red. `n_ctx`: of the
    session, which chooses longrope's factors."""

    def __init__(self, path, n_ctx=512):
        reader = gguf_file.read(path)
        self.fields = reader.fields
        arch = self.fields["general.architecture"].contents()
        if arch not in HALVES + NEIGHBOURS:
            raise ValueError(f"{arch} is not part of this reference")
        self.arch, self.n_ctx = arch, n_ctx

        def key(name, default=None):
            name = f"{arch}.{name}"
            return self.fields[name].contents() if name in self.fields else default

        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.widened = {}
        self.n_layer = key("block_count")
        self.n_embd = key("embedding_length")
        self.n_head = key("attention.head_count")
        self.n_head_kv = key("attention.head_count_kv", self.n_head)
        self.head_dim = key("attention.key_length", self.n_embd // self.n_head)
        self.rms_eps = key("attention.layer_norm_rms_epsilon")
        self.attention_scale = key("attention.scale", 1 / np.sqrt(self.head_dim))
        self.n_vocab = int(self.tensors["token_embd.weight"].shape[1])
        self.tied = "output.weight" not in self.tensors
        is_gemma = arch.startswith("gemma")
        self.gate = gelu_tanh if is_gemma else silu
        self.embd_scale = np.sqrt(self.n_embd) if is_gemma else 1.0
        self.score_cap = key("attn_logit_softcapping", 50.0 if arch == "gemma2" else 0.0)
        self.logit_cap = key("final_logit_softcapping", 30.0 if arch == "gemma2" else 0.0)
        self.n_expert_used = key("expert_used_count", 0) if key("expert_count", 0) else 0
        self.expert_norm = key("expert_weights_norm", True)
        self.window = key("attention.sliding_window", 4096 if arch == "gemma2" else 0)
        period = {"gemma2": 2, "gemma3": 6, "olmo2": 4}.get(arch, self.n_layer + 1)
        period = key("attention.sliding_window_pattern", period)
        self.is_local = [self.window > 0 and layer % period != period - 1
                         for layer in range(self.n_layer)]
        self.read_rope(key)

    def read_rope(self, key):
        self.halves = self.arch in HALVES
        self.rope_dim = key("rope.dimension_count", self.head_dim)
        self.rope_freq_base = key("rope.freq_base", 1e6 if self.arch == "gemma3" else 10000.0)
        local = {"gemma3": 1e4, "olmo2": self.rope_freq_base}.get(self.arch)
        self.rope_freq_base_local = local and key("rope.freq_base_swa", local)
        self.rope_factors = self.optional("rope_freqs.weight")  # divisors of the frequencies
        self.rope_scaling = key("rope.scaling.type", "none")
        self.rope_factor = key("rope.scaling.factor", 1.0)
        self.rope_original = key("rope.scaling.original_context_length", key("context_length"))
        self.rope_size = 1.0  # of cos and sin
        if self.rope_scaling == "yarn":
            self.rope_size = key("rope.scaling.attn_factor", 0.1 * np.log(self.rope_factor) + 1)
        if self.rope_scaling == "longrope":
            which = "long" if self.n_ctx > self.rope_original else "short"
            self.rope_factors = self.optional(f"rope_factors_{which}.weight")
            stretch = np.log(max(1, key("context_length") / self.rope_original))
            self.rope_size = key("rope.scaling.attn_factor",
                                 np.sqrt(1 + stretch / np.log(self.rope_original)))

    def weight(self, name):
        """Values as the file defines them, in f32: exact or rounded once."""
        if name not in self.widened:
            tensor = self.tensors[name]
            value = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            self.widened[name] = value.reshape(tensor.shape[::-1])
        return self.widened[name]

    def optional(self, name):
        return self.weight(name).astype(F64) if name in self.tensors else None


class Sequence:
    """The keys and values seen so far, per layer."""

    def __init__(self, model):
        empty = np.zeros((0, model.n_head_kv, model.head_dim))
        self.k = [empty] * model.n_layer
        self.v = [empty] * model.n_layer

    def __len__(self):
        return len(self.k[0])


def matmul(x, weight, bias=None):
    y = x @ weight.astype(F64).T
    return y if bias is None else y + bias


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight.astype(F64)


def yarn(frequency, model):
    """Peng et al. 2023, section 3.2: pairs that turn often keep their frequency."""
    turns = lambda n: (model.rope_dim * np.log(model.rope_original / (n * 2 * np.pi))
                       / (2 * np.log(model.rope_freq_base)))
    low, high = max(np.floor(turns(32)), 0), min(np.ceil(turns(1)), model.rope_dim - 1)
    pair = np.arange(len(frequency))
    stretched = np.clip((pair - low) / max(high - low, 0.001), 0, 1)
    return frequency * (1 - stretched) + frequency / model.rope_factor * stretched


def rope(x, position, model, local=False):
    """Turns the pairs of each head. x (n, heads, head_dim)."""
    pair = np.arange(model.rope_dim // 2)
    own_base = local and model.rope_freq_base_local is not None
    base = model.rope_freq_base_local if own_base else model.rope_freq_base
    frequency, size = F64(base) ** (-2.0 * pair / model.rope_dim), 1.0
    if not own_base:
        size = model.rope_size
        if model.rope_factors is not None:
            frequency = frequency / model.rope_factors
        if model.rope_scaling == "linear":
            frequency = frequency / model.rope_factor
        if model.rope_scaling == "yarn":
            frequency = yarn(frequency, model)
    angle = np.asarray(position, F64)[:, None, None] * frequency
    if model.halves:
        first, second = np.s_[..., : len(pair)], np.s_[..., len(pair) : model.rope_dim]
    else:
        first, second = np.s_[..., 0 : model.rope_dim : 2], np.s_[..., 1 : model.rope_dim : 2]
    y = x.copy()
    y[first] = (x[first] * np.cos(angle) - x[second] * np.sin(angle)) * size
    y[second] = (x[first] * np.sin(angle) + x[second] * np.cos(angle)) * size
    return y


def softcap(x, cap):
    return cap * np.tanh(x / cap) if cap else x


def attention(q, k, v, model, local=False):
    """q (n, n_head, head_dim) are the last n positions of k, v (m, n_head_kv, head_dim)."""
    n, n_head, head_dim = q.shape
    m, n_head_kv, _ = k.shape
    group = n_head // n_head_kv  # query heads h * group .. share key head h
    q = q.reshape(n, n_head_kv, group, head_dim).transpose(1, 2, 0, 3)
    scores = q @ k.transpose(1, 2, 0)[:, None] * model.attention_scale  # (n_head_kv, group, n, m)
    scores = softcap(scores, model.score_cap)
    behind = np.arange(m - n, m)[:, None] - np.arange(m)  # how far a key lies back
    visible = (behind >= 0) & (behind < (model.window if local else m))
    scores = np.where(visible, scores, -np.inf)
    probs = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    out = probs @ v.transpose(1, 0, 2)[:, None]  # (n_head_kv, group, n, head_dim)
    return out.transpose(2, 0, 1, 3).reshape(n, n_head * head_dim)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def qkv_of(model, layer, h):
    """q (n, n_head, head_dim), k and v (n, n_head_kv, head_dim), before norms and rotation."""
    n_q, n_kv = model.n_head * model.head_dim, model.n_head_kv * model.head_dim
    name = f"blk.{layer}.attn_"
    if name + "qkv.weight" in model.tensors:
        parts = np.split(matmul(h, model.weight(name + "qkv.weight")), [n_q, n_q + n_kv], axis=1)
    else:
        parts = [matmul(h, model.weight(f"{name}{part}.weight"),
                        model.optional(f"{name}{part}.bias")) for part in "qkv"]
    return [part.reshape(len(h), -1, model.head_dim) for part in parts]


def feed_forward(model, h, gate, up, down):
    return matmul(model.gate(matmul(h, gate)) * matmul(h, up), down)


def experts(model, layer, h):
    """The chosen experts' outputs, by a softmax over their router values or over all of them."""
    def matrix(part, e):
        whole = f"blk.{layer}.ffn_{part}_exps.weight"
        return (model.weight(whole)[e] if whole in model.tensors
                else model.weight(f"blk.{layer}.ffn_{part}.{e}.weight"))

    router = matmul(h, model.weight(f"blk.{layer}.ffn_gate_inp.weight"))
    probs = np.exp(router - router.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    y = np.zeros_like(h)
    for row, p in enumerate(probs):
        chosen = np.argsort(-p, kind="stable")[: model.n_expert_used]
        weights = p[chosen] / (p[chosen].sum() if model.expert_norm else 1)
        for e, w in zip(chosen, weights):
            y[row] += w * feed_forward(model, h[row], *(matrix(part, e)
                                                        for part in ("gate", "up", "down")))
    return y


def feed_forward_of(model, layer, h):
    name = f"blk.{layer}.ffn_"
    if model.n_expert_used:
        return experts(model, layer, h)
    up = model.weight(name + "up.weight")
    fused = name + "gate.weight" not in model.tensors
    gate, up = np.split(up, 2) if fused else (model.weight(name + "gate.weight"), up)
    return feed_forward(model, h, gate, up, model.weight(name + "down.weight"))


def forward(model, sequences, tokens, look=lambda stage, layer, x: None):
    """Feeds tokens[i] to sequences[i]; returns logits [i] (len(tokens[i]), n_vocab). `look` is
    shown stages by the names that traces give them."""
    bounds = np.cumsum([0] + [len(t) for t in tokens])
    rows = [slice(a, b) for a, b in zip(bounds, bounds[1:])]
    position = np.concatenate([len(s) + np.arange(len(t)) for s, t in zip(sequences, tokens)])
    ids = np.concatenate([np.asarray(t, int) for t in tokens])
    x = model.weight("token_embd.weight")[ids].astype(F64) * model.embd_scale
    for layer in range(model.n_layer):
        local = model.is_local[layer]

        def norm(stage, x, name):
            weight = model.optional(f"blk.{layer}.{name}.weight")
            if weight is None:
                return x
            # Of heads by themselves, or of all of them as one row.
            y = rms_norm(x.reshape(len(x), -1, len(weight)), weight, model.rms_eps)
            y = y.reshape(x.shape)
            look(stage, layer, y)
            return y

        h = norm("attn_norm", x, "attn_norm")
        q, k, v = qkv_of(model, layer, h)
        q, k = norm("q_norm", q, "attn_q_norm"), norm("k_norm", k, "attn_k_norm")
        q, k = rope(q, position, model, local), rope(k, position, model, local)
        look("q_rope", layer, q)
        out = np.empty((len(ids), model.n_head * model.head_dim))
        for sequence, r in zip(sequences, rows):
            sequence.k[layer] = np.concatenate([sequence.k[layer], k[r]])
            sequence.v[layer] = np.concatenate([sequence.v[layer], v[r]])
            out[r] = attention(q[r], sequence.k[layer], sequence.v[layer], model, local)
        look("attn_out", layer, out)
        out = matmul(out, model.weight(f"blk.{layer}.attn_output.weight"))
        x = x + norm("attn_post_norm", out, "post_attention_norm")
        look("x_after_attn", layer, x)
        h = norm("ffn_norm", x, "ffn_norm")
        y = feed_forward_of(model, layer, h)
        look("mlp_out", layer, y)
        x = x + norm("ffn_post_norm", y, "post_ffw_norm")
        look("x_after_mlp", layer, x)
    x = rms_norm(x, model.weight("output_norm.weight"), model.rms_eps)
    logits = matmul(x, model.weight("token_embd.weight" if model.tied else "output.weight"))
    logits = softcap(logits, model.logit_cap)
    return [logits[r] for r in rows]


def logits_of(model, sequences_of_tokens):
    """Logits of every position of fresh sequences, in one pass."""
    fresh = [Sequence(model) for _ in sequences_of_tokens]
    return forward(model, fresh, sequences_of_tokens)


def generate(model, prompt, n):
    """Greedy continuation: n ids, and the gap between the best and the second logit of each."""
    sequence, feed, ids, gaps = Sequence(model), list(prompt), [], []
    for _ in range(n):
        logits = forward(model, [sequence], [feed])[0][-1]
        second, first = np.sort(logits)[-2:]
        feed = [int(np.argmax(logits))]
        ids += feed
        gaps.append(first - second)
    return ids, gaps
