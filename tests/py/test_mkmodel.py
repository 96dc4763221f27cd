"""mkmodel's files are valid, of the promised scale and reproducible: judged by the gguf package."""
import subprocess

import gguf
import numpy as np
import pytest
from conftest import place
from tokenizers.models import BPE

FLOATS = ["F32", "F16", "BF16"]
BLOCKS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
          "MXFP4", "Q2_K", "Q3_K"]
EVERYTHING = ["--untied", "--bias", "--rope-factors"]


def tensors(path):
    return {t.name: t for t in gguf.GGUFReader(path).tensors}


def values(tensor):
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)


def keys(path):
    fields = gguf.GGUFReader(path).fields
    return {name: field.contents() for name, field in fields.items()}


def rms(x):
    return np.sqrt(np.mean(x * x))


@pytest.mark.parametrize("kind", FLOATS + BLOCKS)
def test_values_are_finite_and_of_the_promised_scale(mkmodel, kind):
    ratios = []
    for name, tensor in tensors(mkmodel("--type", kind, *EVERYTHING)).items():
        x = values(tensor)
        assert np.isfinite(x).all(), name
        if x.ndim == 2:
            expected = "Q8_0" if name == "token_embd.weight" and kind in BLOCKS else kind
            assert tensor.tensor_type.name == expected, name
            table = name in ("token_embd.weight", "output.weight")
            ratios.append(rms(x) * np.sqrt(x.shape[1]) / (2.5 if table else 1))
            assert abs(ratios[-1] - 1) < 0.1, name
            assert abs(x.mean()) < 0.1 * rms(x), name
            assert (rms(x[:, : x.shape[1] // 2]) / rms(x)) > 0.8, name  # no part is empty
        elif name.endswith("norm.weight"):
            assert 0.5 <= x.min() < 0.6 and 1.4 < x.max() < 1.5, name
        elif name == "rope_freqs.weight":
            assert 1 <= x.min() < 3 and 6 < x.max() < 8
        else:
            assert name.endswith(".bias") and 0.3 < rms(x) < 0.7, name
    assert len(ratios) == 2 * 7 + 2 and abs(np.mean(ratios) - 1) < 0.02


def test_codes_use_the_whole_range(mkmodel):
    """Bits that never change would hide a reader's mistakes: every bit of a block is 0 and 1."""
    for kind in BLOCKS:
        tensor = tensors(mkmodel("--type", kind, *EVERYTHING))["blk.1.ffn_down.weight"]
        size = gguf.GGML_QUANT_SIZES[tensor.tensor_type][1]
        blocks = tensor.data.reshape(-1, size)
        if kind in ("Q2_K", "Q3_K", "Q6_K"):
            codes = blocks[:, :{"Q2_K": 80, "Q3_K": 108, "Q6_K": 208}[kind]]
        elif kind == "MXFP4":
            codes = blocks[:, 1:]
        else:
            has_minimum = kind.endswith(("_1", "_K"))
            codes = blocks[:, 4:] if has_minimum else blocks[:, 2:]
        share = np.unpackbits(codes, axis=1).mean(axis=0)
        assert 0.3 < share.min() and share.max() < 0.7, kind


def test_mix(mkmodel):
    """Q4_K_M as llama.cpp's quantiser lays it out; 16 layers as in Llama-3.2-1B."""
    found = {name: t.tensor_type.name
             for name, t in tensors(mkmodel("--type", "Q4_K_M", "--layers", 16)).items()}
    high = {0, 1, 4, 7, 10, 13, 14, 15}  # first and last eighth, every third between them
    for layer in range(16):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            is_high = layer in high and name in ("attn_v", "ffn_down")
            assert found[f"blk.{layer}.{name}.weight"] == ("Q6_K" if is_high else "Q4_K")
    assert found["token_embd.weight"] == "Q6_K"  # it is the output too

    untied = tensors(mkmodel("--type", "Q4_K_M", "--untied"))
    assert untied["token_embd.weight"].tensor_type.name == "Q4_K"
    assert untied["output.weight"].tensor_type.name == "Q6_K"

    odd = mkmodel("--type", "Q4_K_M", "--embd", 96, "--ff", 512, "--layers", 1)
    found = {name: t.tensor_type.name for name, t in tensors(odd).items()}
    assert found["blk.0.attn_q.weight"] == "Q5_0" and found["blk.0.attn_v.weight"] == "Q8_0"
    assert found["token_embd.weight"] == "Q8_0" and found["blk.0.ffn_down.weight"] == "Q6_K"


# mix: output, attn_v of the first two layers, of others, ffn_down of the first layer, of others,
# attn_output, all else
MIXES = {
    "Q2_K_MIX": ("Q6_K", "Q3_K", "Q3_K", "Q3_K", "Q3_K", "Q3_K", "Q2_K"),
    "Q3_K_M": ("Q6_K", "Q5_K", "Q4_K", "Q5_K", "Q4_K", "Q4_K", "Q3_K"),
}


@pytest.mark.parametrize("mix", MIXES)
def test_low_mixes(mkmodel, mix):
    """What llama.cpp's quantiser makes of 16 layers; tests/peer asks it."""
    output, v_first, v, down_first, down, o, others = MIXES[mix]
    options = ["--type", mix, "--layers", 16, "--heads", 4, "--heads-kv", 2, "--untied"]
    found = {name: t.tensor_type.name for name, t in tensors(mkmodel(*options)).items()}
    expected = {"output.weight": output, "token_embd.weight": others}
    for layer in range(16):
        kinds = dict.fromkeys(["attn_q", "attn_k", "ffn_gate", "ffn_up"], others)
        kinds |= {"attn_v": v_first if layer < 2 else v, "attn_output": o,
                  "ffn_down": down_first if layer == 0 else down}
        expected |= {f"blk.{layer}.{name}.weight": kind for name, kind in kinds.items()}
    assert {name: found[name] for name in expected} == expected
    shared = tensors(mkmodel("--type", mix, "--heads", 4, "--heads-kv", 1))
    wanted = "Q4_K" if mix == "Q2_K_MIX" else "Q5_K"  # four query heads share what v makes
    assert shared["blk.0.attn_v.weight"].tensor_type.name == wanted


def test_same_seed_same_bytes(mkmodel, scratch):
    again = scratch / "again"
    for kind in ("F16", "Q5_K"):
        options = ["--type", kind, "--bias"]
        first = mkmodel(*options).read_bytes()
        command = [place("GRETA_TOOLS") / "mkmodel", "--out", again, *options, "--seed", "1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        assert again.read_bytes() == first


def test_other_seed_other_values(mkmodel):
    one, two = (tensors(mkmodel("--type", "Q4_1", "--seed", seed)) for seed in (1, 2))
    for name, tensor in one.items():
        assert (tensor.data != two[name].data).mean() > 0.5, name


def test_tensors_do_not_depend_on_options_of_others(mkmodel):
    plain = tensors(mkmodel("--type", "Q4_0"))
    other = tensors(mkmodel("--type", "Q4_0", "--embd-type", "F32", *EVERYTHING))
    for name in plain.keys() - {"token_embd.weight"}:
        assert np.array_equal(plain[name].data, other[name].data), name
    different = {values(t).tobytes() for t in other.values()}
    assert len(different) == len(other)  # no tensor repeats another


def test_options_arrive(mkmodel):
    path = mkmodel("--type", "F32", "--layers", 3, "--embd", 40, "--heads", 6, "--heads-kv", 2,
                   "--head-dim", 10, "--ff", 50, "--vocab", 271, "--ctx", 77, "--rope-base", 5e5,
                   "--eps", 3e-6, "--pre", "qwen2", "--gguf-version", 2)
    found = keys(path)
    expected = {
        "GGUF.version": 2, "general.architecture": "llama", "llama.block_count": 3,
        "llama.embedding_length": 40, "llama.attention.head_count": 6,
        "llama.attention.head_count_kv": 2, "llama.attention.key_length": 10,
        "llama.attention.value_length": 10, "llama.rope.dimension_count": 10,
        "llama.feed_forward_length": 50, "llama.vocab_size": 271, "llama.context_length": 77,
        "llama.rope.freq_base": 5e5, "llama.attention.layer_norm_rms_epsilon": np.float32(3e-6),
        "tokenizer.ggml.pre": "qwen2",
    }
    assert {name: found[name] for name in expected} == expected
    shapes = {name: tuple(map(int, t.shape)) for name, t in tensors(path).items()}
    layer = {
        "attn_norm.weight": (40,), "ffn_norm.weight": (40,), "attn_q.weight": (40, 60),
        "attn_k.weight": (40, 20), "attn_v.weight": (40, 20), "attn_output.weight": (60, 40),
        "ffn_gate.weight": (40, 50), "ffn_up.weight": (40, 50), "ffn_down.weight": (50, 40),
    }
    assert shapes == {
        "token_embd.weight": (40, 271), "output_norm.weight": (40,),
        **{f"blk.{i}.{name}": shape for i in range(3) for name, shape in layer.items()},
    }


def test_file_has_no_holes(mkmodel):
    path = mkmodel("--type", "Q6_K", *EVERYTHING)
    reader = gguf.GGUFReader(path)
    end = reader.data_offset
    for tensor in reader.tensors:
        assert tensor.data_offset == end and end % 32 == 0, tensor.name
        end = (end + int(tensor.n_bytes) + 31) // 32 * 32
    assert path.stat().st_size == end


@pytest.mark.parametrize("vocab", [259, 300, 20000])
def test_vocabulary(mkmodel, vocab):
    found = keys(mkmodel("--type", "F16", "--embd", 8, "--ff", 8, "--vocab", vocab))
    tokens, merges = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.merges"]
    types = found["tokenizer.ggml.token_type"]
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spelled = {chr(b) for b in printable} | {chr(0x100 + i) for i in range(256 - len(printable))}
    assert tokens[:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert set(tokens[3:259]) == spelled and tokens[259:260] in ([], ["Ġt"])
    assert types == [3] * 3 + [1] * (vocab - 3)
    assert len(tokens) == len(set(tokens)) == vocab
    assert [m.replace(" ", "") for m in merges] == tokens[259:]
    pairs = [tuple(m.split(" ")) for m in merges]
    assert len(set(pairs)) == len(pairs) == vocab - 259
    BPE({token: i for i, token in enumerate(tokens)}, pairs)  # raises when a half is unknown


@pytest.mark.parametrize("options, code, message", [
    ([], 2, "--out: is missing"),
    (["--out"], 2, "--out: value is missing"),
    (["--out", "/nonexistent/x"], 4, "/nonexistent/x: cannot create"),
    (["--bogus"], 2, "--bogus: unknown option"),
    (["--type", "IQ2_XS"], 2, "--type: IQ2_XS (F32 F16"),
    (["--shape", "70b"], 2, "--shape: 70b (135m"),
    (["--layers", "0"], 2, "--layers: 0 (1 to 1024)"),
    (["--layers", "1025"], 2, "--layers: 1025 (1 to 1024)"),
    (["--vocab", "258"], 2, "--vocab: 258 (259 to 1048576)"),
    (["--seed", "-1"], 2, "--seed: -1 (a whole number"),
    (["--eps", "nan"], 2, "--eps: nan (a number over 0)"),
    (["--heads", "3", "--heads-kv", "2"], 2, "--heads-kv: 2 kv heads for 3 heads"),
    (["--head-dim", "33"], 2, "--head-dim: is odd"),
    (["--shape", "135m", "--type", "Q4_K"], 2, "rows of 576 values cannot be Q4_K (a multiple of"),
])
def test_refusals(scratch, options, code, message):
    target = scratch / "refused"
    out = [] if not options or "--out" in options else ["--out", target]
    command = [place("GRETA_TOOLS") / "mkmodel", *out, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code and done.stdout == "" and not target.exists()
    assert done.stderr.startswith("mkmodel: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


def test_rounded_types_are_one_model(mkmodel):
    """--rounded: bytes of the gguf package's quantisers on the values of the F32 file."""
    shape = ("--rounded", "--shape", "tiny-32")
    exact = tensors(mkmodel("--type", "F32", *shape))
    for kind in ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]:
        for name, tensor in tensors(mkmodel("--type", kind, "--embd-type", kind, *shape)).items():
            want = gguf.quants.quantize(values(exact[name]).astype(np.float32), tensor.tensor_type)
            assert want.tobytes() == tensor.data.tobytes(), (kind, name)
