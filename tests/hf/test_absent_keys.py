"""config.json with one key less: what transformers takes in its place, or a refusal.

Published folders leave out what their class has as a default, and the defaults of the classes
differ (tie_word_embeddings, norm_topk_prob, rope_theta, sliding_window ...). Each key of each
family is removed in turn, in both spellings of the rotary settings. Where transformers still opens
the folder, GRETA must agree with it at every position, or refuse with exit 3.
"""
import json
import shutil

import files
import pytest
import reference
import stages
import torch
from transformers import AutoModelForCausalLM

CASES = ["llama-tied", "llama-yarn", "mistral-window", "qwen2-window", "qwen3", "gemma2", "gemma3",
         "gemma3-linear", "olmo2", "olmo3", "olmo3-yarn", "phi3-longrope-long", "phi3-partial",
         "mixtral", "qwen3moe", "qwen3moe-no-norm"]
KEPT = {"architectures", "model_type", "transformers_version", "dtype", "torch_dtype"}
N = 50


def opened(folder):
    """The model as transformers opens the folder; None: it does not, or draws some weights."""
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager",
            experts_implementation="eager", output_loading_info=True)
    except Exception:  # whatever a class raises at a configuration it cannot use
        return None
    return None if found["missing_keys"] or found["mismatched_keys"] else model.eval()


def without(folder, key):
    """Paths in config.json to remove: a key, or one inside of the rotary settings."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    *outer, last = key
    inner = config
    for name in outer:
        inner = inner[name]
    del inner[last]
    path.write_text(json.dumps(config))


def keys_of(config):
    for key, value in config.items():
        if key not in KEPT:
            yield (key,)
        if key.startswith("rope_") and isinstance(value, dict):
            yield from ((key, *inner) for inner in keys_of(value))


@pytest.mark.parametrize("is_published", [False, True], ids=["", "published"])
@pytest.mark.parametrize("name", CASES)
def test_absent(subject, name, is_published):
    s = subject(name)
    origin, folder = s.scratch / "whole", s.scratch / "lacking"
    files.write_folder(s.model, origin)
    if is_published:
        files.respell(origin)
    ids, wrong, n_refused, n_right, n_closed = s.prompt()[:N], [], 0, 0, 0
    for key in list(keys_of(json.loads((origin / "config.json").read_text()))):
        shutil.copytree(origin, folder)
        without(folder, key)
        model = opened(folder)
        try:
            logits = stages.all_logits(s.greta, folder, s.scratch / "lacking.f32", ids, N)
            if model is None:
                n_closed += 1
            else:
                expected = reference.run(model, ids, own_table=True)["logits", -1]
                n_right += 1
                if not stages.ratio(logits, expected) <= stages.LIMIT:
                    wrong.append(".".join(key))
        except stages.Refused as refusal:
            n_refused += 1
            if refusal.status != 3:
                wrong.append(f"{'.'.join(key)}: exit {refusal.status}")
        shutil.rmtree(folder)
    shutil.rmtree(origin)
    stages.figures.append(f"{name:22}{'published' if is_published else '':10} a key less: "
                          f"{n_right} right, {n_refused} refused, {n_closed} open here only")
    assert not wrong
    assert n_right > 5
