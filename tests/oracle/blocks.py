"""The int8 contract in NumPy, from its text: quantised activations, and dots of codes and scales.

A quantised weight is scale * code - minimum, a quantised activation d * code; here both are taken
apart in f64, so that a dot is judged against the exact one and against the sum of magnitudes that
bounds its rounding. Layouts are ggml's (ggml-common.h); decode() is itself held against the gguf
package by test_oracle.py.
"""
import gguf
import numpy as np

F64 = np.float64
ACT_BLOCK = 32
TYPE = gguf.GGMLQuantizationType
IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12])  # twice the value


def halves(column):
    """Two bytes of every block as f16, (n_block, 1) in f64."""
    return np.ascontiguousarray(column).view(np.float16).astype(F64)


def nibbles(data):
    """(n, g, w) bytes: the low halves of w bytes, then their high halves -> (n, g * 2 * w)."""
    return np.stack([data & 15, data >> 4], axis=2).reshape(len(data), -1).astype(int)


def bit_rows(data, n_bit):
    """(n, 32) bytes: all bits 0, then all bits 1, ... -> (n, n_bit * 32)."""
    return np.stack([data >> i & 1 for i in range(n_bit)], axis=1).reshape(len(data), -1)


def bit_pairs(data):
    """(n, g, w) bytes: bits 0, 1 of w bytes, then bits 2, 3, ... -> (n, g * 4 * w)."""
    pairs = np.stack([data >> i & 3 for i in (0, 2, 4, 6)], axis=2)
    return pairs.reshape(len(data), -1).astype(int)


def word_bits(data):
    """(n, 4) bytes: the 32 bits of a little-endian word."""
    return np.unpackbits(data, axis=1, bitorder="little").astype(int)


def scales_and_minima(packed):
    """Q4_K's and Q5_K's twelve bytes: eight 6-bit scales and eight 6-bit minima, (n, 8) each."""
    a, b, c = packed[:, 0:4].astype(int), packed[:, 4:8].astype(int), packed[:, 8:12].astype(int)
    scale = np.concatenate([a & 63, (c & 15) | (a >> 6) << 4], axis=1)
    minimum = np.concatenate([b & 63, (c >> 4) | (b >> 6) << 4], axis=1)
    return scale, minimum


def decode_block(b, kind):
    """Blocks (n, bytes) -> codes (n, block), scales and minima that repeat over them."""
    none = np.zeros((len(b), 1))
    if kind == TYPE.Q8_0:
        return b[:, 2:].view(np.int8).astype(int), halves(b[:, :2]), none
    if kind == TYPE.Q4_0:
        return nibbles(b[:, None, 2:]) - 8, halves(b[:, :2]), none
    if kind == TYPE.Q4_1:
        return nibbles(b[:, None, 4:]), halves(b[:, :2]), -halves(b[:, 2:4])
    if kind == TYPE.Q5_0:
        code = nibbles(b[:, None, 6:]) + 16 * word_bits(b[:, 2:6]) - 16
        return code, halves(b[:, :2]), none
    if kind == TYPE.Q5_1:
        code = nibbles(b[:, None, 8:]) + 16 * word_bits(b[:, 4:8])
        return code, halves(b[:, :2]), -halves(b[:, 2:4])
    if kind in (TYPE.Q4_K, TYPE.Q5_K):
        scale, minimum = scales_and_minima(b[:, 4:16])
        code = nibbles(b[:, -128:].reshape(-1, 4, 32))
        if kind == TYPE.Q5_K:
            code = code + 16 * bit_rows(b[:, 16:48], 8)
        return code, halves(b[:, :2]) * scale, halves(b[:, 2:4]) * minimum
    if kind == TYPE.Q2_K:
        code = bit_pairs(b[:, 16:80].reshape(-1, 2, 32))
        scale, minimum = b[:, :16] & 15, b[:, :16] >> 4
        return code, halves(b[:, 80:82]) * scale, halves(b[:, 82:84]) * minimum
    if kind == TYPE.Q3_K:
        third = bit_rows(b[:, :32], 8).astype(int)
        code = bit_pairs(b[:, 32:96].reshape(-1, 2, 32)) + 4 * third - 4
        low = nibbles(b[:, None, 96:104])
        high = np.concatenate([b[:, 104:108] >> i & 3 for i in (0, 2, 4, 6)], axis=1)
        return code, halves(b[:, 108:]) * (low + 16 * high.astype(int) - 32), none
    if kind == TYPE.Q6_K:
        low = nibbles(b[:, :128].reshape(-1, 2, 64))
        high = b[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6]).reshape(1, 1, 4, 1) & 3
        code = low + 16 * high.reshape(len(b), -1).astype(int) - 32
        return code, halves(b[:, 208:]) * np.ascontiguousarray(b[:, 192:208]).view(np.int8), none
    if kind == TYPE.IQ4_NL:
        return IQ4[nibbles(b[:, None, 2:])], halves(b[:, :2]), none
    if kind == TYPE.IQ4_XS:
        low = np.stack([b[:, 4:8] & 15, b[:, 4:8] >> 4], axis=2).reshape(len(b), 8)
        high = np.ascontiguousarray(b[:, 2:4]).view("<u2") >> 2 * np.arange(8) & 3
        scale = halves(b[:, :2]) * (low + 16 * high.astype(int) - 32)
        return IQ4[nibbles(b[:, 8:].reshape(-1, 8, 16))], scale, none
    if kind == TYPE.MXFP4:
        exponent = b[:, :1].astype(int)
        scale = np.where(exponent == 255, np.nan, np.ldexp(1.0, exponent - 128))
        return E2M1[nibbles(b[:, None, 1:])], scale, none
    raise ValueError(f"{kind.name} has no codes")


def has_codes(tensor):
    return gguf.GGML_QUANT_SIZES[tensor.tensor_type][0] > 1


def decode(tensor):
    """A quantised tensor -> (code, scale, minimum), each (rows, K) in f64."""
    block, size = gguf.GGML_QUANT_SIZES[tensor.tensor_type]
    parts = decode_block(tensor.data.reshape(-1, size), tensor.tensor_type)
    rows = tensor.data.shape[0]
    return [np.repeat(p, block // p.shape[1], axis=1).reshape(rows, -1).astype(F64) for p in parts]


def quantize(x):
    """Rows of activations (n, K) -> codes (n, K) and scales d (n, K / 32)."""
    blocks = np.asarray(x, F64).reshape(len(x), -1, ACT_BLOCK)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    finite = np.isfinite(blocks).all(axis=2, keepdims=True)
    live = finite & (largest >= 2.0**-100)
    divisor = np.where(live, largest, 1)
    code = np.where(live, np.rint(np.where(live, blocks, 0) * 127 / divisor), 0)
    d = np.where(live, largest / 127, np.where(finite, 0, np.nan))
    return code.reshape(len(x), -1), d[..., 0]


def activations(code, d):
    """The values that codes (n, K) and scales (n, K / 32) stand for."""
    return np.asarray(code, F64) * np.repeat(np.asarray(d, F64), ACT_BLOCK, axis=1)


def dot(x, tensor):
    """x (n, K) against all rows of a tensor: exact products summed in f64, and the sum of their
    magnitudes |x_i| (|scale * code| + |minimum|), both (n, rows)."""
    if has_codes(tensor):
        code, scale, minimum = decode(tensor)
        weight = scale * code - minimum
        magnitude = np.abs(scale * code) + np.abs(minimum)
    else:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(F64)
        magnitude = np.abs(weight)
    return x @ weight.T, np.abs(x) @ magnitude.T
