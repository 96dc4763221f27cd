"""The folder that transformers wrote, read directly: the same model as GGUF, in every spelling.

Against GGUF bit for bit, where the rows of q and k stand in the same order; config.json as
published models spell it, weights in several files, weights of 16 bits.
"""
import families
import files
import numpy as np
import pytest
import reference
import stages
import torch

ALL = pytest.mark.parametrize("case", families.CASES, ids=str)


@ALL
def test_gguf_is_the_folder(subject, case):
    """The same numbers, bit for bit; where the rows of q and k stand in another order, their dots
    are sums in another order, and what follows agrees to rounding."""
    s = subject(case)
    gguf, folder = s.side("gguf"), s.side("folder")
    assert gguf.ids == folder.ids and gguf.stage.keys() == folder.stage.keys()
    head_dim = getattr(s.model.config, "head_dim", None)
    for key, value in gguf.stage.items():
        expected = folder.stage[key]
        if case.arch != "llama":
            assert np.array_equal(value, expected), key
        elif key in [("embed", -1), ("attn_norm", 0), ("v", 0)]:
            assert np.array_equal(value, expected), key
        elif key[1] == 0 and key[0] in stages.TURNED:
            assert np.array_equal(value, files.neighbours(expected.T, head_dim).T), key
    assert stages.ratio(gguf.stage["logits", -1], folder.stage["logits", -1]) <= stages.LIMIT


@pytest.mark.parametrize("case", [c for c in families.CASES if c.model_type != "mistral"], ids=str)
def test_published_spelling(subject, case):
    """config.json as published models spell it, and weights in several files: the same bits."""
    s = subject(case)
    folder = s.scratch / f"{case}-published"
    files.write_folder(s.model, folder, shard="60KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    files.respell(folder)
    side = stages.traced(s.greta, folder, s.scratch / "published.jsonl", s.prompt(),
                         families.N_DECODE, case.n_ctx)
    for key, value in s.side("folder").stage.items():
        assert np.array_equal(value, side.stage[key]), key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3", "olmo3-yarn", "phi3", "mixtral",
                                  "qwen3moe"])
def test_halves(subject, name, dtype):
    """Folders of 16-bit weights, as nearly all are published: transformers widens them to f32."""
    s = subject(name)
    folder = s.scratch / f"{name}-{dtype}".replace("torch.", "")
    model = families.build(s.case)
    files.write_folder(model.to(dtype), folder)
    widened = families.build(s.case)
    widened.load_state_dict(model.state_dict())
    side = stages.traced(s.greta, folder, s.scratch / "halves.jsonl", s.prompt(),
                         families.N_DECODE, s.case.n_ctx)
    found = stages.compare(side, reference.run(widened, side.ids))
    stages.report(folder.name, found)
    assert stages.first_over(found) is None
