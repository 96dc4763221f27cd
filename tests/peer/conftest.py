"""What the tests share: the programs of both sides, models of mkmodel, and one record of each.

tests/peer/run.sh says where things are: GRETA_BIN, GRETA_TOOLS, GRETA_TMP, PEER (llama.cpp's source
folder), PEER_LIB (the folder of its built libraries), PEER_RECORD (the recorder built against
them), GRETA_MODELS (real models, or nothing).
"""
import array
import os
import re
import shutil
import subprocess
from pathlib import Path

import gguf
import peer_ops
import pytest

N_TOKEN = 50
CONTEXTS = {"as it comes": [], "without flash attention": ["no-flash"]}
# For the end of the session: {op: (how many, largest share, where)} of llama.cpp and GRETA; text.
figures, ours, lines = {}, {}, []


def place(variable):
    value = os.environ.get(variable)
    if not value:
        pytest.fail(f"{variable} is not set; run the tests with `make check-peer PEER=...`")
    return Path(value)


# What llama.cpp asks of a model of an architecture beyond mkmodel's defaults: it takes the heads of
# these to share the width of the model, and reads no window of phi3. Gemma's logits are capped
# because they would be one-hot, and any two distributions the same. OLMo has a head of its own.
SHARED = ["--embd", 256, "--heads", 4, "--head-dim", 64]
FITTING = {"qwen2": SHARED, "phi3": [*SHARED, "--window", 100_000], "gemma3": ["--logit-cap", 8],
           "olmo2": [*SHARED, "--untied"]}


def listed(after, before, needed):
    """The words between two marks of mkmodel's help."""
    text = subprocess.run([place("GRETA_TOOLS") / "mkmodel", "--help"], capture_output=True,
                          text=True, check=True).stdout
    words = re.findall(r"[A-Za-z0-9_]+", text.split(after, 1)[1].split(before, 1)[0])
    if not needed <= set(words):
        raise ValueError(f"the help of mkmodel lists {words} after {after}")
    return words


def written_types():
    words = listed("of matmul weights:", "(default", {"F32", "Q8_0", "Q6_K"})
    return [word for word in words if hasattr(gguf.GGMLQuantizationType, word)]


def written_models():
    """Options of mkmodel: every architecture with every type."""
    arches = listed("--arch NAME", ", with", {"llama", "phi3"})
    return [["--arch", arch, "--type", kind, *FITTING.get(arch, [])]
            for arch in arches if arch != "or" for kind in written_types()]


def label(options):
    """llama-Q8_0"""
    return f"{options[1]}-{options[3]}"


def pytest_terminal_summary(terminalreporter):
    for who, found in (("llama.cpp", figures), ("greta", ours)):
        if found:
            terminalreporter.write_line(f"ops of {who}: number, largest share of the bound, where")
        for op, (n, share, where) in sorted(found.items()):
            terminalreporter.write_line(f"  {op:15}{n:6} {share:7.3f}  {where}")
    if lines:
        terminalreporter.write_line("end to end:")
    for line in lines:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def scratch():
    folder = place("GRETA_TMP") / f"peer-{os.getpid()}"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def mkmodel(scratch):
    """mkmodel(options...) writes a model and returns its path; the same options, the same file."""
    def make(*options):
        name = "-".join(str(o).lstrip("-") for o in options)
        path = scratch / f"{name}.gguf"
        if not path.exists():
            subprocess.run([place("GRETA_TOOLS") / "mkmodel", "--out", path, *map(str, options)],
                           check=True, stdout=subprocess.DEVNULL)
        return path
    return make


@pytest.fixture(scope="session")
def record(scratch):
    """record(model, ids, context) runs llama.cpp and returns the path of the record."""
    def run(model, ids, options):
        out = scratch / "peer.record"
        command = [place("PEER_RECORD"), model, out, "1", *options]
        done = subprocess.run(command, input=array.array("i", ids).tobytes(), capture_output=True)
        if done.returncode:
            pytest.fail(f"exit {done.returncode}: {done.stderr.decode(errors='replace')[-800:]}")
        return out
    return run


def note(where, found, figures=figures):
    """Keeps the largest share of each op for the summary."""
    for op, (n, share, name) in found.items():
        before = figures.get(op, (0, -1.0, ""))
        kept = before[1:] if before[1] >= share else (share, f"{where} {name}")
        figures[op] = (before[0] + n, *kept)


@pytest.fixture(scope="session")
def judged(record):
    """judged(model, ids, context): {op: (nodes, share, name)} of llama.cpp on a model."""
    def run(model, ids, context):
        found = peer_ops.judge(record(model, ids, CONTEXTS[context]), model)
        note(f"{model.stem}, {context}:", found)
        return found
    return run
