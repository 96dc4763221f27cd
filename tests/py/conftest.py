"""What the Python tests share: the programs under test, the models, and the path of the oracle.

The runner says where things are: GRETA_BIN (the program), GRETA_TOOLS (folder of mkmodel),
GRETA_TMP (a scratch folder), GRETA_SMOLLM2 (the real model; unset means offline). Models are
written once per run and named by their options, so that tests share them.
"""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))


def place(variable):
    value = os.environ.get(variable)
    if not value:
        pytest.fail(f"{variable} is not set; run the tests with `make check`")
    return Path(value)


@pytest.fixture(scope="session")
def scratch():
    """A folder of its own for each test session, so that two runs cannot meet. It is emptied at the
    end: logits of a real model take 200 KB a position."""
    folder = place("GRETA_TMP") / f"py-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def mkmodel(scratch):
    """mkmodel(options...) writes a model and returns its path; the same options, the same file."""
    program = place("GRETA_TOOLS") / "mkmodel"

    def make(*options):
        name = "-".join(str(o).lstrip("-") for o in options) or "default"
        path = scratch / f"{name}.gguf"
        if not path.exists():
            command = [program, "--out", path, *map(str, options)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return path

    return make


@pytest.fixture(scope="session")
def smollm2():
    """The real model, SmolLM2-135M-Instruct."""
    path = os.environ.get("GRETA_SMOLLM2")
    if not path:
        pytest.skip("offline: the real model is not here")
    return Path(path)


@pytest.fixture(scope="session")
def greta():
    """greta(arguments...) runs the program and returns its stdout; it must succeed."""
    program = place("GRETA_BIN")

    def run(*arguments):
        command = [str(program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True)
        if done.returncode:
            message = done.stderr.decode(errors="replace").strip()
            pytest.fail(f"exit {done.returncode}: {' '.join(command)[:300]}\n{message}")
        return done.stdout

    return run
