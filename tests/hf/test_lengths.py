"""Prompts at and around every threshold, in chunks: the window, the original context, a tile of 64.

Logits of all positions, from GGUF and from the folder. At these positions transformers' own rotary
table is good enough, so that its own choice of longrope's factors is part of what is compared: it
goes by the length of the text, GRETA by the context that the session was opened with.
"""
import families
import numpy as np
import pytest
import reference
import rope_table
import stages
import torch

WINDOW, ORIGINAL = 13, 40
LENGTHS = [1, 2, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 63, 64, 65]
WINDOWED = ["mistral-window", "qwen2-window", "gemma2", "gemma3", "olmo3", "phi3-window"]
KINDS = pytest.mark.parametrize("kind", stages.KINDS)


def logits_of(s, kind, ids, n_ctx, *options):
    out = s.scratch / "lengths.logits"
    return stages.all_logits(s.greta, s.path(kind), out, ids, n_ctx, *options)


@KINDS
@pytest.mark.parametrize("name", WINDOWED)
def test_windows(subject, name, kind):
    s = subject(name)
    for n in LENGTHS:
        ids = s.prompt()[:n]
        expected = reference.run(s.model, ids, own_table=True)["logits", -1]
        whole = logits_of(s, kind, ids, 128)
        assert stages.ratio(whole, expected) <= stages.LIMIT, n
        assert np.array_equal(logits_of(s, kind, ids, 128, "--chunk", 5), whole), n


@KINDS
@pytest.mark.parametrize("name", ["phi3-longrope-long", "phi3-partial", "llama-longrope-long"])
def test_original_context(subject, name, kind):
    s = subject(name)
    for n in (ORIGINAL - 1, ORIGINAL, ORIGINAL + 1):
        ids = s.prompt()[:n]
        expected = reference.run(s.model, ids, own_table=True)["logits", -1]
        assert stages.ratio(logits_of(s, kind, ids, n), expected) <= stages.LIMIT, n
    # The other set, for the same text, is another model.
    short = reference.run(s.model, s.prompt()[:ORIGINAL], own_table=True)["logits", -1]
    long = logits_of(s, kind, s.prompt()[:ORIGINAL], ORIGINAL + 1)
    assert stages.ratio(long, short) > 1000 * stages.LIMIT


@pytest.mark.parametrize("case", families.CASES, ids=str)
def test_table_is_transformers(subject, case):
    """rope_table.py beside transformers' own table, where f32 angles are good to 1e-5."""
    s = subject(case)
    config, module = s.model.config, s.model.model.rotary_emb
    positions = torch.arange(case.n_prompt)[None]
    types = module.layer_types if hasattr(module, "layer_types") else [None]
    for layer_type in types:
        extra = () if layer_type is None else (layer_type,)
        own = module(torch.zeros(1), positions, *extra)
        ours = rope_table.table(config, positions[0].numpy(), layer_type, s.is_long())
        for a, b in zip(own, ours):
            assert np.abs(a[0].numpy() - b).max() <= 1e-5
