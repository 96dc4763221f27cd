"""Judges every node of llama.cpp's graph by itself: from its recorded operands, against f64.

A node stands when |result - exact| <= bound for every element; a judge returns the share of the
bound that was used. Bounds are sound for the contract that ggml's CPU code states, not calibrated
to what was seen: u = 2^-24 is one rounding to f32, sums of n terms may be taken in any order.
What meets a weight is first rounded to the type that the weight's dot product reads
(ggml_type_traits_cpu: vec_dot_type), and that step is most of the bound:

    Q8_0   d = max|x| / 127 of 32, kept as f16: half a step, and 127 codes times d 2^-11
    Q8_1   the same, and the sum of a block, which meets the minimum, is kept as f16
    Q8_K   d of 256 in f32: half a step
    F16, BF16   one rounding of x

Shapes here are outer to inner, so the reverse of ggml's `ne`.
"""
import json
import sys
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))
import blocks  # noqa: E402

U, U_F16, U_BF16 = 2.0**-24, 2.0**-11, 2.0**-8
SMALLEST = 2.0**-126
F64 = np.float64
MEETS = {"F32": "F32", "F16": "F16", "BF16": "BF16", "Q4_1": "Q8_1", "Q5_1": "Q8_1",
         "Q8_0": "Q8_0", "Q4_0": "Q8_0", "Q5_0": "Q8_0", "IQ4_NL": "Q8_0", "MXFP4": "Q8_0",
         "Q2_K": "Q8_K", "Q3_K": "Q8_K", "Q4_K": "Q8_K", "Q5_K": "Q8_K", "Q6_K": "Q8_K",
         "IQ4_XS": "Q8_K"}
PLAIN = {"f32": "<f4", "f16": "<f2", "i32": "<i4", "i64": "<i8"}


# ---- Records ------------------------------------------------------------------------------------


class Node:
    """op, params (as i32), src and out: arrays; a weight is a gguf tensor."""

    def __init__(self, record, blob, tensors):
        self.op, self.name = record["op"], record["out"]["name"]
        self.params = np.array(record["params"], "<i4")
        self.src = [read(t, blob, tensors) for t in record["src"] if t]
        self.names = [t["name"] for t in record["src"] if t]
        self.out = read(record["out"], blob, tensors)

    def number(self, i):
        return float(self.params[i:i + 1].view("<f4")[0])


def read(tensor, blob, tensors):
    if tensor.get("weight"):
        return tensors[tensor["name"].removesuffix(" (view)")]
    shape = tensor["ne"][::-1]
    kind = PLAIN.get(tensor["type"])
    if kind is None:
        raise ValueError(f"{tensor['name']} has type {tensor['type']}")
    return np.frombuffer(blob, kind, int(np.prod(shape)), tensor["at"]).reshape(shape)


def nodes(path, model):
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
    blob = Path(f"{path}.blob").read_bytes()
    for line in Path(path).read_text().splitlines():
        yield Node(json.loads(line), blob, tensors)


def is_weight(x):
    return not isinstance(x, np.ndarray)


def values(x):
    """Of an operand: the exact value, in f64, outer to inner."""
    if is_weight(x):
        exact = gguf.quants.dequantize(x.data, x.tensor_type)
        return exact.reshape(x.shape[::-1]).astype(F64)
    return x.astype(F64)


def share(recorded, exact, bound):
    recorded = recorded.astype(F64)
    used = np.abs(recorded - exact) / np.maximum(bound, SMALLEST)
    return np.where(recorded == exact, 0, np.where(np.isfinite(recorded), used, np.inf))


# ---- Products -----------------------------------------------------------------------------------


def step(x, kind):
    """The largest difference of each value of x (n, K) from what a dot of this type reads."""
    x = np.abs(x)
    if kind == "F32":
        return np.zeros_like(x)
    if kind in ("F16", "BF16"):
        return x * (U_F16 if kind == "F16" else U_BF16) + 2.0**-25
    block = 256 if kind == "Q8_K" else 32
    d = np.repeat(x.reshape(len(x), -1, block).max(axis=2) / 127, block, axis=1)
    if kind == "Q8_K":
        return d * 0.501
    found = d * (0.501 + 127 * U_F16) + 127 * 2.0**-25
    return found + U_F16 * (x + found) if kind == "Q8_1" else found


def product(x, tensor):
    """x (n, K) times the rows of a matrix: (exact, bound), both (n, rows)."""
    delta = step(x, MEETS[tensor.tensor_type.name])
    exact, magnitude = blocks.dot(x, tensor)
    moved = blocks.dot(delta, tensor)[1]
    terms = x.shape[1] / (16 if blocks.has_codes(tensor) else 1) + 16
    return exact, moved + terms * U * (magnitude + moved)


class Rows:
    """Rows of a tensor of experts, as blocks.dot wants a tensor."""

    def __init__(self, tensor, expert):
        self.tensor_type = tensor.tensor_type
        self.data = tensor.data[expert]


def mul_mat(node):
    weight, x = node.src
    if is_weight(weight):
        exact, bound = product(x.reshape(-1, x.shape[-1]).astype(F64), weight)
        return share(node.out.reshape(exact.shape), exact, bound)
    repeat = x.shape[1] // weight.shape[1]
    a, b = np.repeat(weight.astype(F64), repeat, axis=1).swapaxes(2, 3), x.astype(F64)
    kind = "F16" if weight.dtype == np.float16 else "F32"
    delta = step(np.abs(b).reshape(-1, b.shape[-1]), kind).reshape(b.shape)
    bound = delta @ np.abs(a) + (b.shape[-1] + 4) * U * (np.abs(b) @ np.abs(a))
    return share(node.out, b @ a, bound)


def mul_mat_id(node):
    """x (1, n, 1 or n_used, K), ids (1, 1, n, n_used) -> (1, n, n_used, rows)."""
    weight, x, ids = node.src
    ids, out = ids[0, 0], node.out[0]
    x = np.broadcast_to(x[0], (*out.shape[:2], x.shape[-1]))
    used = np.empty(out.shape)
    for expert in np.unique(ids):
        at = ids == expert
        exact, bound = product(x[at].astype(F64), Rows(weight, expert))
        used[at] = share(out[at], exact, bound)
    return used


# ---- Rows ---------------------------------------------------------------------------------------


def rms_norm(node):
    x = values(node.src[0])
    exact = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + node.number(0))
    return share(node.out, exact, 4 * U * np.abs(exact))


def binary(operation):
    def judge(node):
        exact = operation(values(node.src[0]), values(node.src[1]))
        return share(node.out, exact, 1.01 * U * np.abs(exact))
    return judge


def scale(node):
    x = values(node.src[0]) * node.number(0)
    return share(node.out, x + node.number(1), 2.01 * U * (np.abs(x) + abs(node.number(1))))


def tanh(node):
    exact = np.tanh(values(node.src[0]))
    return share(node.out, exact, 8 * U * np.abs(exact))


def sum_rows(node):
    x = values(node.src[0])
    return share(node.out, x.sum(axis=-1, keepdims=True),
                 x.shape[-1] * U * np.abs(x).sum(axis=-1, keepdims=True))


def clamp(node):
    exact = np.clip(node.src[0], np.float32(node.number(0)), np.float32(node.number(1)))
    return share(node.out, exact.astype(F64), 0.0)


def argsort(node):
    """Ids in descending order of their values (params: 1 is descending); none twice."""
    x = node.src[0]
    taken = np.take_along_axis(x, node.out, axis=-1)
    if node.op == "TOP_K":
        taken = -np.sort(-taken, axis=-1)
    expected = -np.sort(-x, axis=-1) if node.op == "TOP_K" or node.params[0] == 1 else np.sort(x)
    once = (np.diff(np.sort(node.out, axis=-1), axis=-1) > 0).all()
    return np.where((taken == expected[..., :taken.shape[-1]]) & once, 0, np.inf)


def gate(node):
    a = values(node.src[0])
    a, b = (a, values(node.src[1])) if len(node.src) > 1 else np.split(a, 2, axis=-1)
    if node.params[1]:
        a, b = b, a
    if node.op == "SWIGLU":
        exact = a / (1 + np.exp(-a)) * b
        return share(node.out, exact, 12 * U * np.abs(exact))
    # GEGLU is a table of f16 from f16: argument and value are rounded, and the slope is below 1.2.
    inner = a * (1 + 0.044715 * a * a) * np.sqrt(2 / np.pi)
    f = a / 2 * (1 + np.tanh(inner))
    error = U_F16 * (1.2 * np.abs(a) + 1.01 * np.abs(f)) + 2.0**-24
    return share(node.out, f * b, (np.where(np.abs(a) < 10, error, 1e-7) + U * np.abs(f))
                 * np.abs(b))


def moved(x, kind):
    with np.errstate(over="ignore"):
        return x.astype(kind)


def get_rows(node):
    table, ids = node.src
    if is_weight(table):
        exact = gguf.quants.dequantize(table.data, table.tensor_type)
        exact = exact.reshape(table.shape[::-1])[ids[0, 0, 0]]
        return share(node.out.reshape(exact.shape), exact.astype(F64), 0.0)
    # Of each row of ids, rows of the matrix beside it.
    picked = np.stack([table[0][i % table.shape[1]][ids[0, 0, i]] for i in range(ids.shape[2])])
    return share(node.out.reshape(picked.shape), picked.astype(F64), 0.0)


def set_rows(node):
    """Rows of a cache: those named are written, rounded to its type, all others as before."""
    rows, ids, before = node.src
    expected = before.copy().reshape(node.out.shape)
    if rows.shape[:2] != (1, 1) or ids.shape[:3] != (1, 1, 1):
        raise ValueError(f"set_rows of {rows.shape} by {ids.shape}")
    expected[0, 0, ids[0, 0, 0]] = moved(rows[0, 0], expected.dtype)
    return share(node.out, expected.astype(F64), 0.0)


def copy(node):
    out = node.out
    expected = moved(node.src[0].reshape(out.shape), out.dtype)
    return share(out, expected.astype(F64), 0.0)


# ---- Attention ----------------------------------------------------------------------------------


def corrections(node, n_dim, n_ctx, base):
    """Ends of YaRN's ramp, as in ggml_rope_yarn_corr_dims."""
    def dim_of(turns):
        return n_dim * np.log(n_ctx / (turns * 2 * np.pi)) / (2 * np.log(base))
    low, high = np.floor(dim_of(node.number(9))), np.ceil(dim_of(node.number(10)))
    return max(0, low), min(n_dim - 1, high)


def rope(node):
    """Angles are built in f32 by repeated multiplication: pair i of position p is off by about
    (2 i + 4) u times its angle."""
    x, position = values(node.src[0])[0], node.src[1].reshape(-1).astype(F64)
    n_dim, mode, n_ctx = (int(node.params[i]) for i in (1, 2, 4))
    base, freq_scale, ext, attn = (node.number(i) for i in (5, 6, 7, 8))
    pair = np.arange(n_dim // 2)
    plain = base ** (-2.0 * pair / n_dim)
    if len(node.src) > 2:
        plain = plain / values(node.src[2]).reshape(-1)[:n_dim // 2]
    frequency = plain * freq_scale
    if ext != 0:
        low, high = corrections(node, n_dim, n_ctx, base)
        ramp = (1 - np.clip((pair - low) / max(0.001, high - low), 0, 1)) * ext
        frequency = frequency * (1 - ramp) + plain * ramp
        attn *= 1 + 0.1 * np.log(1 / freq_scale)
    angle = position[:, None, None] * frequency
    error = position[:, None, None] * plain * (2 * pair + 6) * U + 6 * U
    turn = np.exp(1j * angle) * attn
    exact, bound = x.copy(), np.zeros_like(x)
    first, second = ((slice(0, n_dim // 2), slice(n_dim // 2, n_dim)) if mode & 2 else
                     (slice(0, n_dim, 2), slice(1, n_dim, 2)))
    turned = (x[..., first] + 1j * x[..., second]) * turn
    size = np.abs(x[..., first] + 1j * x[..., second]) * attn
    for part, value in ((first, turned.real), (second, turned.imag)):
        exact[..., part], bound[..., part] = value, size * error
    return share(node.out[0], exact, bound)


def soft_max(node):
    s = values(node.src[0]) * node.number(0)
    if len(node.src) > 1:
        s = s + values(node.src[1])[..., :s.shape[-2], :]
    top = s.max(axis=-1, keepdims=True)
    e = np.exp(s - top)
    exact = e / e.sum(axis=-1, keepdims=True)
    size = np.where(np.isfinite(s), np.abs(s), 0)
    relative = (2 * (size + np.abs(top)) + 8 + s.shape[-1]) * U
    return share(node.out, exact, relative * exact)


def flash_attention(node):
    """q (1, h, n, d), k and v (1, h_kv, m, d), mask (.., n, m) -> (1, n, h, d). Where the cache is
    f16, q is rounded to it, and the sum of values may be kept in it."""
    q, k, v = (values(x)[0] for x in node.src[:3])
    mask = values(node.src[3])[0, 0, :q.shape[1]] if len(node.src) > 3 else 0.0
    is_f16 = node.src[1].dtype == np.float16
    factor, cap = node.number(0), node.number(2)
    repeat = q.shape[0] // k.shape[0]
    k, v = np.repeat(k, repeat, axis=0), np.repeat(v, repeat, axis=0)
    s = q @ k.swapaxes(1, 2) * factor
    size = np.abs(q) @ np.abs(k).swapaxes(1, 2) * factor
    if cap:
        s = cap * np.tanh(s / cap)
    seen = np.isfinite(mask + 0 * s)
    s = np.where(seen, s + mask, -np.inf)
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    n = seen.sum(axis=-1).max()
    off = np.where(seen, size, 0).max(axis=-1)[..., None] * (
        (U_F16 if is_f16 else 0) + (q.shape[-1] + 4) * U)
    relative = 2 * off + (n + 2) * (U_F16 if is_f16 else U) + (n + 16) * U
    exact, magnitude = p @ v, p @ np.abs(v)
    bound = relative * magnitude + (n * 2.0**-24 if is_f16 else 0)
    return share(node.out[0].swapaxes(0, 1), exact, bound)


JUDGES = {
    "MUL_MAT": mul_mat, "MUL_MAT_ID": mul_mat_id, "RMS_NORM": rms_norm,
    "MUL": binary(np.multiply), "ADD": binary(np.add), "DIV": binary(np.divide),
    "SCALE": scale, "TANH": tanh, "SUM_ROWS": sum_rows, "CLAMP": clamp, "ARGSORT": argsort,
    "TOP_K": argsort, "SWIGLU": gate, "GEGLU": gate, "GET_ROWS": get_rows, "SET_ROWS": set_rows,
    "CPY": copy, "CONT": copy, "ROPE": rope, "SOFT_MAX": soft_max,
    "FLASH_ATTN_EXT": flash_attention,
}


def judge(path, model):
    """{op: (nodes, largest share, name of its node)}; a node without a judge is an error."""
    found = {}
    for node in nodes(path, model):
        used = float(JUDGES[node.op](node).max())
        n, worst, name = found.get(node.op, (0, -1.0, ""))
        found[node.op] = (n + 1, *((used, node.name) if used > worst else (worst, name)))
    return found
