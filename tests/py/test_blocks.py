"""Weight blocks against the gguf package, and products against the text of docs/numerics.md.

blocks_tool shows what the kernels make of bytes that we choose: random codes under every kind of
scale. Values must be gguf's to the last bit, up to what the text says is ours. A quantised product
is a chain of roundings; here it is done in rationals, so that each is exactly the text's.
"""
import subprocess
from fractions import Fraction

import blocks
import gguf
import numpy as np
import pytest
from conftest import place

KINDS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
         "MXFP4", "Q2_K", "Q3_K"]
HALVES = {"Q4_1": [0, 2], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
          "Q2_K": [80, 82], "Q3_K": [108], "MXFP4": []}  # where f16 scales lie; others: at 0
K = 1280                                                 # a segment of 1024 and a part of one


def quant(kind):
    return gguf.GGMLQuantizationType[kind]


def random_blocks(rng, kind, n, wild=False):
    """n blocks of random bytes. Scales are small, or any f16 (Inf and NaN, too) and any E8M0."""
    data = rng.integers(0, 256, (n, gguf.GGML_QUANT_SIZES[quant(kind)][1]), dtype=np.uint8)
    for at in HALVES.get(kind, [0]):
        if not wild:
            scale = rng.uniform(-0.05, 0.05, n).astype("<f2")
            data[:, at:at + 2] = scale[:, None].view(np.uint8)
    if kind == "MXFP4":
        data[:, 0] = np.arange(n) % 256 if wild else rng.integers(115, 124, n)
    return data


def ask(kind, data, x, n_row):
    """What blocks_tool says: values, codes, scales, products of both contracts."""
    k, n_token = x.shape[1], len(x)
    command = [place("GRETA_TOOLS") / "blocks_tool", kind, str(k), str(n_row), str(n_token)]
    out = subprocess.run(command, input=data.tobytes() + x.astype("<f4").tobytes(), check=True,
                         stdout=subprocess.PIPE).stdout
    parts, at = [], 0
    for shape, form in [((n_row, k), "<f4"), ((n_token, k), "i1"), ((n_token, k // 32), "<f4"),
                        ((n_token, n_row), "<f4"), ((n_token, n_row), "<f4")]:
        n = shape[0] * shape[1]
        parts.append(np.frombuffer(out, form, n, at).reshape(shape))
        at += n * np.dtype(form).itemsize
    assert at == len(out)
    return parts


def same(a, b):
    """Equal to the last bit, but for the sign of zero; one NaN."""
    return (a == b) | (np.isnan(a) & np.isnan(b))


@pytest.mark.parametrize("wild", [False, True], ids=["small", "wild"])
@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_gguf(kind, wild):
    rng = np.random.default_rng(len(kind) + wild)
    size = gguf.GGML_QUANT_SIZES[quant(kind)][0]
    n = 4096 if size == 32 else 512
    data = random_blocks(rng, kind, n, wild)
    values = ask(kind, data, np.zeros((1, 256)), n * size // 256)[0].reshape(n, size)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(data, quant(kind)).reshape(n, size)
    good = same(values, expected)
    if kind == "MXFP4" and wild:     # OCP MX: a block of scale 255 is NaN; ggml reads 2^127
        is_nan = data[:, 0] == 255
        assert np.isnan(values[is_nan]).all() and is_nan.sum() == n // 256
        good |= is_nan[:, None]
        assert values[1, 0] == blocks.E2M1[data[1, 1] & 15] * 2.0**-127    # subnormal, kept
        assert values[0, 0] == blocks.E2M1[data[0, 1] & 15] * 2.0**-128
    assert good.all(), f"{(~good).sum()} of {good.size} values differ"
    assert wild or np.isfinite(values).all()


def test_values_of_another_scale_are_seen():
    """The judge: one scale an ulp off is noticed."""
    data = random_blocks(np.random.default_rng(1), "IQ4_NL", 8)
    values = ask("IQ4_NL", data, np.zeros((1, 256)), 1)[0].reshape(8, 32)
    data[5, 0] ^= 1
    assert list((~same(values, gguf.quants.dequantize(data, quant("IQ4_NL")))).any(axis=1)) == [
        i == 5 for i in range(8)]


# ---- Products, rounding by rounding -------------------------------------------------------------


def rn(x):
    """A rational rounded to binary32, nearest even. No test comes near overflow."""
    if x == 0:
        return Fraction(0)
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    exponent -= abs(x) < Fraction(2)**exponent
    ulp = Fraction(2)**(max(exponent, -126) - 23)
    return round(x / ulp) * ulp


def units(kind, data):
    """(ws, q, wm, m) of each 32 values: value = ws q + wm m; m has one number per 16 values."""
    code, scale, minimum = blocks.decode_block(data, quant(kind))
    n_unit = code.shape[1] // 32
    ws, q = scale, code.reshape(len(data), n_unit, 32)
    if scale.shape[1] == 2 * n_unit:             # two sub-scales in a unit
        ws = blocks.halves(data[:, HALVES[kind][0]:HALVES[kind][0] + 2])
        q = q * np.repeat(np.rint(scale / ws).astype(int), 16, axis=1).reshape(q.shape)
    wm, m = -minimum, np.ones((len(data), n_unit, 2), int)
    if minimum.shape[1] == 2 * n_unit:
        wm = -blocks.halves(data[:, HALVES[kind][1]:HALVES[kind][1] + 2])
        m = np.rint(minimum / -wm).astype(int).reshape(m.shape)
    wide = lambda part: np.broadcast_to(part, (len(data), n_unit)).ravel()
    return wide(ws), q.reshape(-1, 32), wide(wm), m.reshape(-1, 2)


def chained(row, code, d):
    """One output by the text: segments of 1024, a chain of blocks each."""
    ws, q, wm, m = row
    total = None
    for start in range(0, len(ws), 32):
        acc = Fraction(0)
        for b in range(start, min(start + 32, len(ws))):
            block, scale = code[32 * b:32 * b + 32].astype(int), Fraction(float(d[b]))
            idot, sums = int(q[b] @ block), block.reshape(2, 16).sum(axis=1)
            assert abs(idot) < 2**24
            acc = rn(rn(Fraction(float(ws[b])) * scale) * idot + acc)
            isum = int(m[b] @ sums)
            assert abs(isum) < 2**24
            acc = rn(Fraction(float(wm[b])) * rn(scale * isum) + acc)    # wm 0: as if not there
        total = acc if total is None else rn(total + acc)
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_the_text(kind):
    rng = np.random.default_rng(7)
    n_row, n_token = 3, 2
    n = n_row * K // gguf.GGML_QUANT_SIZES[quant(kind)][0]
    data = random_blocks(rng, kind, n)
    x = rng.normal(size=(n_token, K)).astype(np.float32)
    x[1, :64] *= 1e-4                            # scales that lie far apart
    _, code, d, products, _ = ask(kind, data, x, n_row)
    parts = [part.reshape(n_row, K // 32, *part.shape[1:]) for part in units(kind, data)]
    for r in range(n_row):
        for t in range(n_token):
            expected = chained([part[r] for part in parts], code[t], d[t])
            assert Fraction(float(products[t, r])) == expected, (r, t)
