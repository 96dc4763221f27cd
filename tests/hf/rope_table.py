"""Cosines and sines of the rotary embedding in f64, rounded once to f32: GRETA's definition.

docs/numerics.md (Rotation) says what the table is; here it is computed again in NumPy, from a
transformers configuration. The formulas are those of the papers: linear scaling (Chen et al. 2023),
Llama 3.1's wavelengths, YaRN (Peng et al. 2023, section 3), LongRoPE (Ding et al. 2024) with the
attention factor of Phi-3. transformers computes the same in f32: the frequency, the product with
the position, and the function of the rounded angle. At position p that moves an angle by p * 2^-24
and more, which no port can reproduce; the tests inject this table there, and measure the difference
by itself (test_rope.py).
"""
import math

import numpy as np

F64 = np.float64


def llama3_factors(frequency, p):
    wavelength = 2 * np.pi / frequency
    original = p["original_max_position_embeddings"]
    smooth = (original / wavelength - p["low_freq_factor"]) / (
        p["high_freq_factor"] - p["low_freq_factor"])
    scaled = 1 / ((1 - smooth) / p["factor"] + smooth)
    factors = np.where(wavelength < original / p["high_freq_factor"], 1.0,
                       np.where(wavelength > original / p["low_freq_factor"], p["factor"], scaled))
    return factors.astype(np.float32).astype(F64)  # as GGUF's rope_freqs.weight holds them


def yarn(frequency, dim, p):
    """(frequencies, what cos and sin are multiplied by)."""
    original = p["original_max_position_embeddings"]

    def pair_of(turns):
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(p["rope_theta"]))

    low = max(math.floor(pair_of(p.get("beta_fast") or 32)), 0)
    high = min(math.ceil(pair_of(p.get("beta_slow") or 1)), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 1e-3), 0, 1)
    mixed = frequency / p["factor"] * ramp + frequency * (1 - ramp)
    factor = p.get("attention_factor")
    return mixed, 0.1 * math.log(p["factor"]) + 1 if factor is None else factor


def longrope(frequency, p, n_ctx_train, is_long):
    original = p["original_max_position_embeddings"]
    factors = np.float32(p["long_factor" if is_long else "short_factor"]).astype(F64)
    scale = p.get("factor") or n_ctx_train / original
    attention = p.get("attention_factor")
    if attention is None:
        attention = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    return frequency / factors, attention


def frequencies(config, layer_type=None, is_long=False):
    """(inverse frequency of each pair, factor of cos and sin) of layers of this type."""
    p = config.rope_parameters
    p = p[layer_type] if layer_type in p else p
    head_dim = getattr(config, "head_dim", None)
    head_dim = head_dim or config.hidden_size // config.num_attention_heads
    dim = int(head_dim * p.get("partial_rotary_factor", 1.0))
    frequency = F64(p["rope_theta"]) ** (-np.arange(0, dim, 2) / dim)
    kind = p["rope_type"]
    if kind == "default":
        return frequency, 1.0
    if kind == "linear":
        return frequency / p["factor"], 1.0
    if kind == "llama3":
        return frequency / llama3_factors(frequency, p), 1.0
    if kind == "yarn":
        return yarn(frequency, dim, p)
    if kind == "longrope":
        return longrope(frequency, p, config.max_position_embeddings, is_long)
    raise ValueError(f"rope type {kind}")


def table(config, positions, layer_type=None, is_long=False):
    """cos, sin: (positions, dim) in f32, each pair's value twice, as transformers lays them out."""
    frequency, factor = frequencies(config, layer_type, is_long)
    angle = np.asarray(positions, F64)[:, None] * frequency
    angle = np.concatenate([angle, angle], axis=1)
    return (np.float32(np.cos(angle) * factor), np.float32(np.sin(angle) * factor))
