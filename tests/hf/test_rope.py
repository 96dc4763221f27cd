"""Rotation at long positions: ours, transformers' own, and who is right.

transformers computes angle = position * inv_freq in f32, and cos and sin of that. The angle is off
by up to angle * 2^-23 or so, whatever is computed afterwards. GRETA's angles are f64. The arbiter
is the rotation of the recorded q in f64; the model has a window, so that the last positions of
100,001 tokens are also those of a short tail at the same positions, which is all that transformers
has to run.
"""
import families
import files
import numpy as np
import pytest
import reference
import rope_table
import stages

N = 100_001
PLACES = [64, 1_000, 4_000, 32_768, 100_000]
TAIL = 64                       # two layers with a window of 13 see 24 positions back
KINDS = {
    "default": families.rope(1e4),
    "linear": families.rope(1e4, rope_type="linear", factor=4.0),
    "llama3": families.rope(5e5, **families.LLAMA3),
    "yarn": families.rope(1e4, **families.YARN),
    "longrope": families.longrope(16),
}


@pytest.fixture(scope="module", params=KINDS, ids=str)
def run(request, greta, scratch):
    """(model, ids, GRETA's side): one pass over all tokens, kept at the places."""
    case = families.Case(f"long-{request.param}", "mistral", "llama", {
        **families.LLAMA, **KINDS[request.param], "head_dim": 32, "num_hidden_layers": 2,
        "sliding_window": 13, "max_position_embeddings": 131_072})
    model = families.build(case)
    tokens, _ = files.vocabulary(model.config.vocab_size)
    digits = np.random.default_rng(5).integers(0, 10, N)
    path, text, out = (scratch / f"{case}.{kind}" for kind in ("gguf", "txt", "jsonl"))
    files.write_gguf(case, model, path)
    text.write_text("".join(map(str, digits)))  # one token each: no merge joins digits
    stages.call(greta, "trace", "-m", path, "-f", text, "-n", 0, "--ctx", N, "--sample", "all",
                "--positions", stages.id_list(PLACES), "-o", out, *stages.PLAIN)
    side = stages.Side(out)
    for file in (path, out, out.with_name(out.name + ".blob")):
        file.unlink()
    return model, [tokens.index(str(digit)) for digit in digits], side


def tail_of(model, ids, place, own_table):
    """transformers' stages at one place, q and k in the order of the GGUF file."""
    first = max(0, place + 1 - TAIL)
    is_long = model.config.rope_parameters["rope_type"] == "longrope"
    found = reference.run(model, ids[first:place + 1], first_position=first,
                          own_table=own_table, is_long=is_long)
    return {key: files.neighbours(value[-1:].T, 32).T if key[0] in stages.TURNED else value[-1:]
            for key, value in found.items()}


def at(side, key, place):
    return side.stage[key][[side.position[key].index(place)]]


def test_with_one_table(run):
    model, ids, side = run
    for place in PLACES:
        expected = tail_of(model, ids, place, own_table=False)
        here = {key for key in expected if place in side.position[key]}
        assert {"q_rope", "k_rope", "x_after_mlp"} <= {name for name, _ in here}
        assert (("logits", -1) in here) == (place == N - 1)
        for key in here:
            assert stages.ratio(at(side, key, place), expected[key]) <= stages.LIMIT, (key, place)


def turned_in_f64(model, x, place):
    """x (1, heads * head_dim), pairs side by side."""
    frequency, factor = rope_table.frequencies(
        model.config, is_long=model.config.rope_parameters["rope_type"] == "longrope")
    pairs = x.astype(np.float64).reshape(-1, 16, 2)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * place * frequency) * factor
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def test_own_table(run):
    """GRETA's rotation is that of f64; transformers' differs by what its f32 angles explain."""
    model, ids, side = run
    kind = model.config.rope_parameters["rope_type"]
    for place in PLACES:
        own = tail_of(model, ids, place, own_table=True)
        exact = turned_in_f64(model, at(side, ("q", 0), place), place)
        ours = stages.ratio(at(side, ("q_rope", 0), place), exact)
        theirs = stages.ratio(own["q_rope", 0], exact)
        line = (f"rope {kind:9} position {place:6}: off f64 by {ours:.1e} (greta), "
                f"{theirs:.1e} (transformers)")
        if place == N - 1:
            logits = stages.ratio(at(side, ("logits", -1), place), own["logits", -1])
            line += f"; logits {logits:.1e} apart"
        stages.figures.append(line)
        assert ours <= 2e-7
        assert theirs <= 2e-7 + place * 2.0**-23
        if place == N - 1:
            assert theirs > stages.LIMIT
