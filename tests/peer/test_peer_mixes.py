"""mkmodel's mixes of weight types beside what llama.cpp's quantiser makes of the same shapes.

PEER_LIB may have llama-quantize beside the libraries (`cmake --build lc -t llama-quantize`);
without it there is nothing to ask, and the tests say so.
"""
import subprocess

import conftest
import gguf
import pytest

COMMON = ["--layers", 16, "--embd", 256, "--heads", 4, "--heads-kv", 2, "--head-dim", 64,
          "--ff", 512]
SHAPES = {
    "llama": [],
    "untied": ["--layers", 9, "--heads-kv", 1, "--untied"],
    "narrow": ["--layers", 8, "--embd", 96],
    "fused": ["--arch", "phi3"],
    "fused, shared": ["--arch", "phi3", "--heads-kv", 1],
    "experts": ["--arch", "qwen3moe", "--ff-expert", 256],
    "post-norms": ["--arch", "gemma3"],
}
MIXES = {"Q2_K_MIX": "Q2_K", "Q3_K_M": "Q3_K_M", "Q4_K_M": "Q4_K_M"}


def types(path):
    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors
            if t.tensor_type.name != "F32"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mix", MIXES)
def test_mix(mkmodel, scratch, mix, shape):
    quantize = conftest.place("PEER_LIB") / "llama-quantize"
    if not quantize.exists():
        pytest.skip(f"no {quantize}")
    out = scratch / "mixed.gguf"
    options = [*COMMON, *SHAPES[shape]]
    plain = mkmodel("--type", "F16", "--embd-type", "F16", *options)
    subprocess.run([quantize, plain, out, MIXES[mix], "1"], check=True, capture_output=True)
    assert types(mkmodel("--type", mix, *options)) == types(out)
