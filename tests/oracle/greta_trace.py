"""greta_trace.py - a stranger's reader of traces, written from docs/trace-format.md alone.

It shares nothing with the C code. read(path) checks all that the page says a reader owes and
returns a Trace, or raises TraceError with the line.
"""
import json
import struct
from pathlib import Path

import numpy as np
import xxhash

VERSION = 1
LINE_MAX, DEPTH_MAX = 1 << 20, 32
MASK = (1 << 64) - 1
BLOB_TYPES = {"F32": "<f4", "F16": "<f2", "I32": "<i4"}
WEIGHT_TYPES = {"BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
                "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"}

MODEL_STAGES = "tokens embed embed_scaled final_norm final_norm_q8 logits_raw logits".split()
LAYER_STAGES = """attn_norm attn_norm_q8 q k v q_norm k_norm q_rope k_rope k_cache v_cache scores
    probs attn_out attn_out_q8 wo_out attn_post_norm x_after_attn ffn_norm ffn_norm_q8 router
    expert_ids expert_weights gate up act act_q8 expert_out mlp_out ffn_post_norm
    x_after_mlp""".split()

INT, HEX, FLOAT, TEXT, NAME = "int", "hex", "float", "text", "name"
NEEDED = object()

# member: (kind, what its absence stands for)
HEADER = {
    **{name: (INT, NEEDED) for name in """greta_trace process arithmetic stage_list n_layer n_embd
       n_vocab n_ctx n_sequence n_chunk n_thread sample bytes_max""".split()},
    **{name: (TEXT, NEEDED) for name in """greta model arch prompt_id kv act kernel cpu compiler
       stages layers phases tokens notes""".split()},
    "rounding": (TEXT, ""), "device": (TEXT, ""),
    "model_hash": (HEX, NEEDED), "tokenizer_hash": (HEX, NEEDED), "mxcsr": (HEX, NEEDED),
}
COMMON = {"n": (INT, NEEDED), "kind": (NAME, NEEDED), "stage": (NAME, NEEDED), "layer": (INT, -1),
          "op": (TEXT, None), "kernel": (TEXT, None)}
PASS = {"phase": (NAME, NEEDED), "pass": (INT, NEEDED), "rows": (INT, NEEDED), "row": (INT, NEEDED),
        "sequence": (INT, 0), "first_position": (INT, 0)}
KINDS = {
    "row": {**COMMON, **PASS, "prefix": (HEX, NEEDED), "token": (INT, NEEDED),
            "position": (INT, NEEDED)},
    "index": {**COMMON, **PASS},
    "weight": COMMON,
}
NORM = {"eps": (FLOAT, NEEDED), "inv_rms": (FLOAT, NEEDED), "count": (INT, NEEDED)}
TENSOR = {
    "stage": (NAME, None), "layer": (INT, -1), "tensor": (TEXT, ""), "first_row": (INT, 0),
    "buffer": (TEXT, ""), "row": (INT, 0), "offset": (INT, 0), "stride": (INT, 0),
    "slot": (INT, -1), "generation": (INT, 0), "type": (NAME, NEEDED), "n": (INT, NEEDED),
    "min": (FLOAT, 0.0), "max": (FLOAT, 0.0), "sumsq": (FLOAT, 0.0), "nonfinite": (INT, 0),
    "hash": (HEX, 0), "bag": (HEX, 0), "kept": (INT, 0), "at": (INT, 0), "bytes": (INT, 0),
}
FOOTER = {"end": (NAME, NEEDED), "records": (INT, NEEDED), "blob_bytes": (INT, NEEDED),
          "digest": (HEX, NEEDED)}


class TraceError(Exception):
    pass


class Trace:
    """header; records, each with its members and defaults; footer (None: torn); the blob."""

    def __init__(self):
        self.header, self.records, self.footer, self.blob = None, [], None, b""

    @property
    def status(self):
        return self.footer["end"] if self.footer else "torn"

    def values(self, tensor):
        """Kept values: an array; (codes, scales) of ACT_Q8; (rows, 2) hashes of an index."""
        at, kept, data = tensor["at"], tensor["kept"], self.blob
        if tensor["type"] == "ACT_Q8" and kept:
            return (np.frombuffer(data, "i1", kept, at),
                    np.frombuffer(data, "<f4", kept // 32, at + kept))
        if tensor["bytes"] and not kept:
            return np.frombuffer(data, "<u8", tensor["bytes"] // 8, at).reshape(-1, 2)
        return np.frombuffer(data, BLOB_TYPES[tensor["type"]], kept, at)


# ---- Hashes --------------------------------------------------------------------------------------

def words_of(type_name, values):
    """The 32-bit words of a row, as the content hashes take them."""
    if type_name == "ACT_Q8":
        codes, scales = values
        return np.concatenate([codes.astype(np.int32).view(np.uint32), words_of("F32", scales)])
    if type_name == "F32":
        return np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32))
    if type_name == "F16":
        return np.where(np.isnan(values), 0x7E00, values.view(np.uint16)).astype(np.uint32)
    return values.view(np.uint32)


def mix64(words, keys):
    turned = (words << np.uint32(16)) | (words >> np.uint32(16))
    left = (words + keys).astype(np.uint64)
    return left * (turned ^ keys ^ np.uint32(0x85EBCA6B)).astype(np.uint64)


def content_hash(type_name, values):
    words = words_of(type_name, values)
    index = np.arange(len(words), dtype=np.uint64)
    keys = ((index * 0x9E3779B9 + 0x7F4A7C15) & 0xFFFFFFFF).astype(np.uint32)
    return (int(mix64(words, keys).sum(dtype=np.uint64)),
            int(mix64(words, np.zeros_like(words)).sum(dtype=np.uint64)))


def prefix_hash(ids):
    h = 0
    for token in ids:
        h = ((h ^ (token + 0x9E3779B97F4A7C15)) * 0xFF51AFD7ED558CCD) & MASK
        h = ((h ^ (h >> 32)) * 0xC4CEB9FE1A85EC53) & MASK
        h ^= h >> 29
    return h


# ---- Lines ---------------------------------------------------------------------------------------

def unique(pairs):
    members = dict(pairs)
    if len(members) != len(pairs):
        raise TraceError("a member stands twice")
    return members


def depth(value):
    inside = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, inside), default=0) if isinstance(value, (dict, list)) else 0


def no_constant(name):
    raise TraceError(f"{name} is not JSON")


def parse(line):
    try:
        members = json.loads(line.decode(), object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as problem:
        raise TraceError(f"not JSON: {problem}") from None
    if not isinstance(members, dict) or depth(members) > DEPTH_MAX:
        raise TraceError("not an object, or nested too deep")
    return members


def check_sum(line, seed):
    place = line.rfind(b',"sum":"')
    if place < 0 or line[place:] != b',"sum":"%s"}' % xxhash.xxh64_hexdigest(
            line[:place], seed).encode():
        raise TraceError("checksum does not match")
    return xxhash.xxh64_intdigest(line[:place], seed)


def number(value):
    if not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)):
        raise TraceError("not a number")
    bits, decimal = int(value[0], 16), value[1]
    exact = struct.unpack("<f", struct.pack("<I", bits))[0]
    if isinstance(decimal, str):
        fits = decimal == str(exact) and bits in (0x7FC00000, 0x7F800000, 0xFF800000)
    else:
        fits = np.isfinite(exact) and np.float32(str(decimal)) == np.float32(exact)
    if not fits:
        raise TraceError(f"{value[0]} is not {decimal}")
    return exact


def member(kind, value):
    if kind == INT and (not isinstance(value, int) or isinstance(value, bool)):
        raise TraceError("not a whole number")
    if kind in (TEXT, NAME, HEX) and not isinstance(value, str):
        raise TraceError("not a string")
    if kind == HEX and (len(value) not in (8, 16) or value != value.lower()):
        raise TraceError("not a hash")
    return int(value, 16) if kind == HEX else number(value) if kind == FLOAT else value


def members(table, given):
    """The members a table names, with their defaults; others are skipped."""
    result = {}
    for key, (kind, absent) in table.items():
        if key not in given and absent is NEEDED:
            raise TraceError(f'"{key}" is missing')
        try:
            result[key] = member(kind, given[key]) if key in given else absent
        except (TraceError, ValueError) as problem:
            raise TraceError(f'"{key}": {problem}') from None
    return result


# ---- Records -------------------------------------------------------------------------------------

def check_place(stage, layer, n_layer):
    in_layer = stage in LAYER_STAGES
    if not in_layer and stage not in MODEL_STAGES:
        raise TraceError(f"unknown stage {stage}")
    if not (0 <= layer < n_layer if in_layer else layer == -1):
        raise TraceError(f"stage {stage} in layer {layer}")


def kept_bytes(tensor):
    kept = tensor["kept"]
    if tensor["type"] == "ACT_Q8":
        return kept + kept // 32 * 4 if kept % 32 == 0 else -1
    return kept * np.dtype(BLOB_TYPES[tensor["type"]]).itemsize if kept else 0


class Reader:
    def __init__(self, blob):
        self.trace, self.blob_end = Trace(), 0
        self.trace.blob = blob

    def tensor(self, given, kind, rows):
        tensor = members(TENSOR, given)
        if tensor["stage"] is not None:
            check_place(tensor["stage"], tensor["layer"], self.trace.header["n_layer"])
        if tensor["type"] not in (*BLOB_TYPES, *WEIGHT_TYPES, "ACT_Q8"):
            raise TraceError(f"unknown type {tensor['type']}")
        if not 0 <= tensor["kept"] <= tensor["n"] or tensor["n"] < 1:
            raise TraceError("counts")
        wanted = 16 * rows if kind == "index" else kept_bytes(tensor)
        if tensor["bytes"] != wanted or tensor["at"] % 64:
            raise TraceError("bytes do not fit the counts")
        return tensor

    def span(self, given, has_footer):
        """The record's part of the blob; None where it never reached the disk."""
        offset, size, wanted = given
        if offset != self.blob_end or size % 64 or size <= 0:
            raise TraceError("the record's part of the blob is out of place")
        if offset + size > len(self.trace.blob):
            if has_footer:
                raise TraceError("the blob is too short")
            return None
        if xxhash.xxh64_hexdigest(self.trace.blob[offset:offset + size]) != wanted:
            raise TraceError("the record's part of the blob is damaged")
        self.blob_end = offset + size
        return offset, offset + size

    def record(self, given, has_footer):
        """One record; None where its values never reached the disk."""
        if given.get("kind") not in KINDS:
            raise TraceError("unknown kind")
        table = {**KINDS[given["kind"]], **(NORM if "eps" in given else {})}
        record = members(table, given)
        if record["n"] != len(self.trace.records):
            raise TraceError("a record out of turn")
        check_place(record["stage"], record["layer"], self.trace.header["n_layer"])
        span = (0, 0)
        for part in ("in", "weight", "out"):
            record[part] = [self.tensor(each, record["kind"], record.get("rows", 0))
                            for each in given.get(part, [])]
        if "blob" in given:
            span = self.span(given["blob"], has_footer)
            if span is None:
                return None
        for tensor in record["in"] + record["weight"] + record["out"]:
            if tensor["bytes"] and not (
                    span[0] <= tensor["at"] and tensor["at"] + tensor["bytes"] <= span[1]):
                raise TraceError("values outside the record's part of the blob")
            if tensor["kept"] == tensor["n"] and (tensor["hash"] or tensor["bag"]):
                found = content_hash(tensor["type"], self.trace.values(tensor))
                if found != (tensor["hash"], tensor["bag"]):
                    raise TraceError("a row and its content hash do not match")
        return record

    def footer(self, given, digest):
        footer = members(FOOTER, given)
        if footer["end"] not in ("complete", "interrupted", "truncated"):
            raise TraceError("unknown end")
        if (footer["records"] != len(self.trace.records) or footer["digest"] != digest
                or not footer["blob_bytes"] == self.blob_end == len(self.trace.blob)):
            raise TraceError("the footer does not bind what precedes it")
        return footer

    def read(self, text):
        """All lines of a trace."""
        lines = text.split(b"\n")[:-1]  # what follows the last newline is torn
        has_footer = text.endswith(b"\n") and lines[-1].startswith(b'{"end":')
        digest, seed = xxhash.xxh64(), 0
        for number_of_line, line in enumerate(lines, 1):
            try:
                if self.trace.footer:
                    raise TraceError("a line behind the footer")
                if len(line) > LINE_MAX:
                    raise TraceError("a line too long")
                if number_of_line == 1:
                    self.header(line)
                else:
                    seed = check_sum(line, seed)
                    given = parse(line)
                    if "end" in given:
                        self.trace.footer = self.footer(given, digest.intdigest())
                    else:
                        record = self.record(given, has_footer)
                        if record is None:
                            return self.trace
                        self.trace.records.append(record)
            except TraceError as problem:
                raise TraceError(f"line {number_of_line}: {problem}") from None
            digest.update(line + b"\n")
        if self.trace.header is None:
            raise TraceError("line 1: no header")
        self.agree()
        return self.trace

    def agree(self):
        """A row's hash in an index is that of its own record."""
        index = {}
        for record in self.trace.records:
            if record["kind"] == "index" and record["out"][0]["bytes"]:
                for i, (ordered, bag) in enumerate(self.trace.values(record["out"][0])):
                    index[(*(record[k] for k in ("stage", "layer", "pass", "sequence")),
                           record["first_position"] + i)] = int(ordered), int(bag)
        for record in self.trace.records:
            if record["kind"] == "row":
                out = record["out"][0]
                found = index.get((*(record[k] for k in ("stage", "layer", "pass", "sequence")),
                                   record["position"]), (0, 0))
                own = out["hash"], out["bag"]
                if any(found) and any(own) and found != own:
                    raise TraceError("an index and a row's record do not agree")

    def header(self, line):
        if not line.startswith(b'{"greta_trace":'):
            raise TraceError("not a greta trace")
        check_sum(line, 0)
        given = parse(line)
        self.trace.header = members(HEADER, given)
        if not 1 <= self.trace.header["greta_trace"] <= VERSION:
            raise TraceError("a later version")
        self.trace.header["buffers"] = {name: (int(address, 16), size)
                                        for name, address, size in given["buffers"]}


def read(path):
    """Reads x.jsonl, or the unfinished x.jsonl.partial."""
    path = Path(path)
    blob = Path(f"{path}.blob")
    if path.suffix == ".partial":
        blob = Path(f"{path.with_suffix('')}.blob.partial")
    if blob.is_symlink():
        raise TraceError("the blob is a symbolic link")
    return Reader(blob.read_bytes()).read(path.read_bytes())
