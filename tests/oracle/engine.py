"""Another engine: a forward pass in NumPy, op by op in f32, that writes a trace of what it did.

It is no reference. It rounds where engines round, after every op, sums as NumPy and its BLAS sum,
and so differs from the program under test in the last bits of nearly every row. Its trace follows
docs/trace-format.md, and its header says what it is: no arithmetic of ours, rounding "f32".
Shapes as in llama.py. A `fault` is called with every row before it is written, and may change it.
"""
import hashlib
import json
from pathlib import Path

import blocks
import greta_trace
import llama
import numpy as np
import xxhash

F32, F64 = np.float32, np.float64


# ---- The trace -----------------------------------------------------------------------------------

class Writer:
    """Lines and blob of one trace, written at the end."""

    def __init__(self, header):
        self.lines, self.blob, self.sum, self.n = [], bytearray(), 0, 0
        self.put({"greta_trace": 1, **header}, 0)

    def put(self, members, seed):
        text = json.dumps(members, separators=(",", ":"), ensure_ascii=False)[:-1].encode()
        total = xxhash.xxh64_intdigest(text, seed)
        self.lines.append(text + b',"sum":"%016x"}' % total)
        return total

    def record(self, members, kept=()):
        """kept: (tensor of `members`, bytes of its values)."""
        start = len(self.blob)
        for tensor, data in kept:
            tensor |= {"at": len(self.blob), "bytes": len(data)}
            self.blob += data + bytes(-len(data) % 64)
        if kept:
            part = bytes(self.blob[start:])
            members["blob"] = [start, len(part), f"{xxhash.xxh64_intdigest(part):016x}"]
        self.sum = self.put({"n": self.n, **members}, self.sum)
        self.n += 1

    def end(self, path):
        body = b"\n".join(self.lines) + b"\n"
        self.put({"end": "complete", "records": self.n, "blob_bytes": len(self.blob),
                  "digest": f"{xxhash.xxh64_intdigest(body):016x}"}, self.sum)
        Path(path).write_bytes(b"\n".join(self.lines) + b"\n")
        Path(f"{path}.blob").write_bytes(self.blob)


def hashes(kind, values):
    ordered, bag = greta_trace.content_hash(kind, values)
    return {"hash": f"{ordered:016x}", "bag": f"{bag:016x}"}


def row_of(kind, rows, i):
    """Row i, as content_hash takes it."""
    return (rows[0][i], rows[1][i]) if kind == "ACT_Q8" else rows[i]


def bytes_of(kind, row):
    return row[0].tobytes() + row[1].tobytes() if kind == "ACT_Q8" else row.tobytes()


# ---- The engine ----------------------------------------------------------------------------------

class Engine:
    """One prefill of `ids`; rows[stage, layer] is what each op wrote: (type, rows)."""

    def __init__(self, path, ids, act="f32", kv="f32", fault=None, **header):
        self.path, self.ids, self.act, self.kv = path, ids, act, kv
        self.fault, self.claims = fault or (lambda stage, layer, rows: rows), header
        self.model = llama.Model(path)
        self.rows, self.ops = {("tokens", -1): ("I32", np.array(ids, np.int32)[:, None])}, []
        self.forward()

    def op(self, stage, layer, kind, rows, reads, weights=(), type_name="F32"):
        rows = self.fault(stage, layer, rows)
        self.rows[stage, layer] = (type_name, rows)
        self.ops.append((stage, layer, kind, reads, weights))
        return rows

    def norm(self, stage, layer, x, name, read, kind="rms_norm"):
        w = self.model.weight(name)
        inverse = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True, dtype=F32)
                              + F32(self.model.rms_eps))
        y = (x * inverse * w).astype(F32)
        return self.op(stage, layer, kind, y.reshape(len(x), -1), [read], [(name, 0, w)])

    def matmul(self, stage, layer, x, name, read, bias=None, part=None):
        m = self.model
        tensor = m.tensors[name]
        first, n = part or (0, len(tensor.data))
        w = m.weight(name)[first:first + n]
        weights = [(name, first, w)]
        if self.act == "q8" and blocks.has_codes(tensor):
            read = (f"{read[0]}_q8", read[1])
            x = self.quantized(read, x)
        y = x.astype(F32) @ w.T
        if bias in m.tensors:
            b = m.weight(bias)[first:first + n]
            y, weights = y + b, weights + [(bias, first, b)]
        return self.op(stage, layer, "matmul", y.astype(F32), [read], weights)

    def quantized(self, at, x):
        """The int8 form of a row, made once."""
        if at not in self.rows:
            code, d = blocks.quantize(x)
            rows = (code.astype(np.int8), d.astype(F32))
            self.op(*at, "quantize", rows, [(at[0][:-3], at[1])], type_name="ACT_Q8")
        return blocks.activations(*self.rows[at][1])

    def qkv(self, layer, h):
        m, name = self.model, f"blk.{layer}.attn_"
        n = [m.n_head * m.head_dim] + [m.n_head_kv * m.head_dim] * 2
        is_fused = name + "qkv.weight" in m.tensors
        for i, part in enumerate("qkv"):
            at = (sum(n[:i]), n[i]) if is_fused else None
            yield self.matmul(part, layer, h, name + ("qkv" if is_fused else part) + ".weight",
                              ("attn_norm", layer), f"{name}{part}.bias", at)

    def turned(self, part, layer, x):
        """A norm of heads, if there is one, and rotation by angles in f64, turned in f32."""
        m, heads, read = self.model, x.reshape(len(x), -1, self.model.head_dim), (part, layer)
        name = f"blk.{layer}.attn_{part}_norm.weight"
        if name in m.tensors:
            y = self.norm(f"{part}_norm", layer, heads, name, read, "head_norm")
            heads, read = y.reshape(heads.shape), (f"{part}_norm", layer)
        turn = lambda v: llama.rope(v, np.arange(len(x)), m, m.is_local[layer])
        half = m.rope_dim // 2
        cos, sin = (np.zeros((len(x), 1, m.head_dim)) for _ in range(2))
        first = np.s_[..., :half] if m.halves else np.s_[..., 0:m.rope_dim:2]
        second = np.s_[..., half:m.rope_dim] if m.halves else np.s_[..., 1:m.rope_dim:2]
        cos[first] = 1
        unit = turn(cos)  # pairs (1, 0) turn into (cos, sin)
        cos, sin = unit[first].astype(F32), unit[second].astype(F32)
        y = heads.copy()
        y[first] = heads[first] * cos - heads[second] * sin
        y[second] = heads[first] * sin + heads[second] * cos
        return self.op(f"{part}_rope", layer, "rope", y.reshape(len(x), -1), [read])

    def stored(self, part, layer, x, read):
        y = x.astype(np.float16 if self.kv == "f16" else F32)
        y = self.op(f"{part}_cache", layer, "kv_store", y, [read],
                    type_name=self.kv.upper())
        return y.astype(F32).reshape(len(x), self.model.n_head_kv, self.model.head_dim)

    def attention(self, layer, q, k, v):
        m, n = self.model, len(q)
        group = m.n_head // m.n_head_kv
        q = q.reshape(n, m.n_head_kv, group, m.head_dim).transpose(1, 2, 0, 3)
        scores = q @ k.transpose(1, 2, 0)[:, None] * F32(m.attention_scale)
        scores = llama.softcap(scores, m.score_cap).astype(F32)
        behind = np.arange(n)[:, None] - np.arange(n)
        seen = (behind >= 0) & (behind < (m.window if m.is_local[layer] else n))
        scores = np.where(seen, scores, F32(-np.inf))
        probs = np.exp(scores - scores.max(axis=-1, keepdims=True))
        probs /= probs.sum(axis=-1, keepdims=True)
        out = (probs @ v.transpose(1, 0, 2)[:, None]).transpose(2, 0, 1, 3).reshape(n, -1)
        return self.op("attn_out", layer, "attention", out.astype(F32),
                       [("q_rope", layer), ("k_cache", layer), ("v_cache", layer)])

    def residual(self, stage, layer, x, at, y, read, post, name):
        """x + y, y through a norm of its own where the model has one."""
        if name in self.model.tensors:
            y, read = self.norm(post, layer, y, name, read), (post, layer)
        return self.op(stage, layer, "add", x + y, [at, read]), (stage, layer)

    def feed_forward(self, layer, h):
        m, name, read = self.model, f"blk.{layer}.ffn_", ("ffn_norm", layer)
        n = len(m.tensors[name + "up.weight"].data)
        is_fused = name + "gate.weight" not in m.tensors
        of_gate = name + ("up" if is_fused else "gate") + ".weight"
        gate = self.matmul("gate", layer, h, of_gate, read, part=(0, n // 2) if is_fused else None)
        up = self.matmul("up", layer, h, name + "up.weight", read,
                         part=(n // 2, n // 2) if is_fused else None)
        act = (m.gate(gate.astype(F64)) * up).astype(F32)
        act = self.op("act", layer, "glu", act, [("gate", layer), ("up", layer)])
        return self.matmul("mlp_out", layer, act, name + "down.weight", ("act", layer))

    def layer(self, layer, x, at):
        name = f"blk.{layer}."
        h = self.norm("attn_norm", layer, x, name + "attn_norm.weight", at)
        q, k, v = self.qkv(layer, h)
        q, k = self.turned("q", layer, q), self.turned("k", layer, k)
        k = self.stored("k", layer, k, ("k_rope", layer))
        v = self.stored("v", layer, v, ("v", layer))
        y = self.attention(layer, q, k, v)
        y = self.matmul("wo_out", layer, y, name + "attn_output.weight", ("attn_out", layer))
        x, at = self.residual("x_after_attn", layer, x, at, y, ("wo_out", layer), "attn_post_norm",
                              name + "post_attention_norm.weight")
        h = self.norm("ffn_norm", layer, x, name + "ffn_norm.weight", at)
        y = self.feed_forward(layer, h)
        return self.residual("x_after_mlp", layer, x, at, y, ("mlp_out", layer), "ffn_post_norm",
                             name + "post_ffw_norm.weight")

    def forward(self):
        m, at = self.model, ("embed", -1)
        table = m.weight("token_embd.weight")
        x = self.op(*at, "embed", table[self.ids].astype(F32), [("tokens", -1)],
                    [("token_embd.weight", 0, table)])
        if m.embd_scale != 1:
            x = self.op("embed_scaled", -1, "scale", x * F32(m.embd_scale), [at])
            at = ("embed_scaled", -1)
        for layer in range(m.n_layer):
            x, at = self.layer(layer, x, at)
        h = self.norm("final_norm", -1, x, "output_norm.weight", at)
        stage = "logits_raw" if m.logit_cap else "logits"
        y = self.matmul(stage, -1, h, "token_embd.weight" if m.tied else "output.weight",
                        ("final_norm", -1))
        if m.logit_cap:
            cap = llama.softcap(y.astype(F64), m.logit_cap).astype(F32)
            self.op("logits", -1, "softcap", cap, [("logits_raw", -1)])

    # ---- Writing ---------------------------------------------------------------------------------

    def header(self, ours):
        """What the run was; of the model it says what a trace of ours of the same file says."""
        same = """stage_list model arch model_hash tokenizer_hash n_layer n_embd n_vocab n_ctx
                  n_sequence stages layers phases bytes_max""".split()
        return {**{key: ours[key] for key in same}, "process": 1, "greta": "numpy",
                "arithmetic": 0, "rounding": "f32", "prompt_id": "", "n_chunk": len(self.ids),
                "n_thread": 1, "kv": self.kv, "act": self.act, "kernel": "numpy", "cpu": "",
                "compiler": f"numpy {np.__version__}", "mxcsr": "00001f80", "tokens": "all",
                "sample": -1, "notes": "", "buffers": [], **self.claims}

    def weight(self, name, first, values):
        key = hashlib.sha256(f"{name} {first} {len(values)}".encode()).digest()
        self.known = getattr(self, "known", {})
        if key not in self.known:
            flat = np.ascontiguousarray(values, F32).ravel()
            kind = self.model.tensors[name].tensor_type.name
            self.known[key] = {"tensor": name, "first_row": first, "type": kind, "n": flat.size,
                               **hashes("F32", flat)}
        return dict(self.known[key])

    def read(self, at, i, stage):
        """What an op read of another: a row, or of a cache the rows of all positions."""
        kind, rows = self.rows[at]
        is_cache = stage == "attn_out" and at[0] in ("k_cache", "v_cache")
        row = rows[:i + 1].ravel() if is_cache else row_of(kind, rows, i)
        place = {"layer": at[1]} if at[1] >= 0 else {}
        n = len(row[0]) if kind == "ACT_Q8" else len(row)
        return {"stage": at[0], **place, "type": kind, "n": n, **hashes(kind, row)}

    def step(self, i, is_decoded):
        n = len(self.ids)
        if is_decoded and i == n - 1:
            return {"phase": "decode", "pass": 1, "rows": 1, "row": 0, "first_position": i}
        return {"phase": "prefill", "pass": 0, "rows": n - is_decoded, "row": i}

    def write(self, path, ours, is_decoded=False):
        """is_decoded: the last token is said to be a decode step of its own."""
        writer, ids = Writer(self.header(ours)), self.ids
        prefix = [f"{greta_trace.prefix_hash(ids[:i + 1]):016x}" for i in range(len(ids))]
        place = lambda stage, layer: {"stage": stage, **({"layer": layer} if layer >= 0 else {})}
        for stage, layer, kind, _, weights in self.ops:
            for weight in weights:
                writer.record({"kind": "weight", **place(stage, layer), "op": kind,
                               "weight": [self.weight(*weight)]})
        for stage, layer, kind, reads, weights in self.ops:
            type_name, rows = self.rows[stage, layer]
            for i, token in enumerate(ids):
                row = row_of(type_name, rows, i)
                n = len(row[0]) if type_name == "ACT_Q8" else len(row)
                out = {"type": type_name, "n": n, **hashes(type_name, row), "kept": n}
                record = {"kind": "row", **place(stage, layer), "prefix": prefix[i], "token": token,
                          "position": i, **self.step(i, is_decoded), "op": kind, "kernel": "numpy",
                          "in": [self.read(at, i, stage) for at in reads], "out": [out]}
                if weights:
                    record["weight"] = [self.weight(*weight) for weight in weights]
                writer.record(record, [(out, bytes_of(type_name, row))])
        writer.end(path)
