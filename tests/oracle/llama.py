"""The forward pass of a `llama` GGUF in NumPy, every sum in f64: what the engine is judged by.

It shares nothing with the engine: the file is read by the `gguf` package, weights are widened from
that package's values, and the formulas are those of the papers, in the plainest order. Several
sequences go through the layers together, so that each weight is widened once per pass.

Shapes, outer to inner: x (n, n_embd), q (n, n_head, head_dim), k and v (n, n_head_kv, head_dim),
weights (rows, K). n counts the tokens of all sequences of the pass, one after the other.
"""
import gguf
import numpy as np

F64 = np.float64


class Model:
    """Metadata as attributes, weights by name. Tests change attributes to see red."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.fields = reader.fields

        def key(name, default=None):
            return self.fields[name].contents() if name in self.fields else default

        if key("general.architecture") != "llama":
            raise ValueError("not a llama model")
        if key("llama.rope.scaling.type", "none") != "none":
            raise ValueError("rope scaling is not part of this reference")
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.widened = {}
        self.n_layer = key("llama.block_count")
        self.n_embd = key("llama.embedding_length")
        self.n_head = key("llama.attention.head_count")
        self.n_head_kv = key("llama.attention.head_count_kv", self.n_head)
        self.head_dim = key("llama.attention.key_length", self.n_embd // self.n_head)
        self.rms_eps = key("llama.attention.layer_norm_rms_epsilon")
        self.rope_dim = key("llama.rope.dimension_count", self.head_dim)
        self.rope_freq_base = key("llama.rope.freq_base", 10000.0)
        self.rope_factors = self.optional("rope_freqs.weight")  # divisors of the frequencies
        self.attention_scale = 1 / np.sqrt(self.head_dim)
        self.n_vocab = len(self.weight("token_embd.weight"))
        self.tied = "output.weight" not in self.tensors

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


def rope(x, position, model):
    """Turns the pairs (0, 1), (2, 3), ... of each head. x (n, heads, head_dim)."""
    pair = np.arange(model.rope_dim // 2)
    frequency = F64(model.rope_freq_base) ** (-2.0 * pair / model.rope_dim)
    if model.rope_factors is not None:
        frequency = frequency / model.rope_factors
    angle = np.asarray(position, F64)[:, None, None] * frequency
    even, odd = x[..., 0 : model.rope_dim : 2], x[..., 1 : model.rope_dim : 2]
    y = x.copy()
    y[..., 0 : model.rope_dim : 2] = even * np.cos(angle) - odd * np.sin(angle)
    y[..., 1 : model.rope_dim : 2] = even * np.sin(angle) + odd * np.cos(angle)
    return y


def attention(q, k, v, scale):
    """q (n, n_head, head_dim) are the last n positions of k, v (m, n_head_kv, head_dim)."""
    n, n_head, head_dim = q.shape
    m, n_head_kv, _ = k.shape
    group = n_head // n_head_kv  # query heads h * group .. share key head h
    q = q.reshape(n, n_head_kv, group, head_dim).transpose(1, 2, 0, 3)
    scores = q @ k.transpose(1, 2, 0)[:, None] * scale  # (n_head_kv, group, n, m)
    visible = np.arange(m) <= np.arange(m - n, m)[:, None]
    scores = np.where(visible, scores, -np.inf)
    probs = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    out = probs @ v.transpose(1, 0, 2)[:, None]  # (n_head_kv, group, n, head_dim)
    return out.transpose(2, 0, 1, 3).reshape(n, n_head * head_dim)


def silu(x):
    return x / (1 + np.exp(-x))


def forward(model, sequences, tokens):
    """Feeds tokens[i] to sequences[i]; returns logits [i] (len(tokens[i]), n_vocab)."""
    bounds = np.cumsum([0] + [len(t) for t in tokens])
    rows = [slice(a, b) for a, b in zip(bounds, bounds[1:])]
    position = np.concatenate([len(s) + np.arange(len(t)) for s, t in zip(sequences, tokens)])
    ids = np.concatenate([np.asarray(t, int) for t in tokens])
    x = model.weight("token_embd.weight")[ids].astype(F64)
    for layer in range(model.n_layer):
        w = lambda name: model.weight(f"blk.{layer}.{name}")
        b = lambda name: model.optional(f"blk.{layer}.{name}")
        h = rms_norm(x, w("attn_norm.weight"), model.rms_eps)
        q, k, v = (
            matmul(h, w(f"attn_{name}.weight"), b(f"attn_{name}.bias"))
            .reshape(len(ids), -1, model.head_dim)
            for name in "qkv"
        )
        q, k = rope(q, position, model), rope(k, position, model)
        out = np.empty((len(ids), model.n_head * model.head_dim))
        for sequence, r in zip(sequences, rows):
            sequence.k[layer] = np.concatenate([sequence.k[layer], k[r]])
            sequence.v[layer] = np.concatenate([sequence.v[layer], v[r]])
            out[r] = attention(
                q[r], sequence.k[layer], sequence.v[layer], model.attention_scale
            )
        x = x + matmul(out, w("attn_output.weight"))
        h = rms_norm(x, w("ffn_norm.weight"), model.rms_eps)
        act = silu(matmul(h, w("ffn_gate.weight"))) * matmul(h, w("ffn_up.weight"))
        x = x + matmul(act, w("ffn_down.weight"))
    x = rms_norm(x, model.weight("output_norm.weight"), model.rms_eps)
    logits = matmul(x, model.weight("token_embd.weight" if model.tied else "output.weight"))
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
