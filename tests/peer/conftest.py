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
figures, lines = {}, []  # {op: (nodes, largest share, where)}, and text, for the end of the session


def place(variable):
    value = os.environ.get(variable)
    if not value:
        pytest.fail(f"{variable} is not set; run the tests with `make check-peer PEER=...`")
    return Path(value)


def written_types():
    """Weight types as mkmodel's help lists them."""
    text = subprocess.run([place("GRETA_TOOLS") / "mkmodel", "--help"], capture_output=True,
                          text=True, check=True).stdout
    listed = text.split("of matmul weights:", 1)[1].split("(default", 1)[0]
    found = [word for word in re.findall(r"[A-Z0-9_]+", listed) if hasattr(
        gguf.GGMLQuantizationType, word)]
    if not {"F32", "Q8_0", "Q6_K"} <= set(found):
        raise ValueError(f"the help of mkmodel lists {found}")
    return found


def pytest_terminal_summary(terminalreporter):
    if figures:
        terminalreporter.write_line("llama.cpp's ops: nodes, largest share of the bound, where")
    for op, (n, share, where) in sorted(figures.items()):
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


def note(where, found):
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
