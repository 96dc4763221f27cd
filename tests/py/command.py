"""What the tests of the command line share: running the program, and reading its answers."""
import json
import os
import subprocess

import pytest

PROMPT = "Hello, how are you today?"


@pytest.fixture(scope="session")
def model(mkmodel):
    return mkmodel()


@pytest.fixture
def cli(tmp_path):
    """cli(arguments..., variables) runs the program in an empty folder, whatever its exit code."""
    program = os.environ["GRETA_BIN"]

    def run(*arguments, env=None, **how):
        variables = {name: value for name, value in os.environ.items()
                     if not name.startswith("GRETA_")}
        variables["GRETA_CACHE"] = str(tmp_path / "cache")
        variables["GRETA_THREADS"] = "1"  # tiny models; tests run side by side
        variables.update(env or {})
        how.setdefault("stdin", subprocess.DEVNULL)
        if "input" in how:
            del how["stdin"]
        how.setdefault("stdout", subprocess.PIPE)
        return subprocess.run([program, *map(str, arguments)], env=variables, cwd=tmp_path,
                              stderr=subprocess.PIPE, timeout=100, **how)

    return run


def answer(done):
    """Stdout of a run that must succeed."""
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def refused(done, code, *words):
    """The exit code, nothing on stdout, and one line that starts with greta and has the words."""
    lines = done.stderr.decode().splitlines()
    assert done.returncode == code, lines
    assert not done.stdout
    assert len(lines) == 1 and lines[0].startswith("greta: "), lines
    for word in words:
        assert word in lines[0]


def ids_of(cli, model, *arguments, **how):
    return json.loads(answer(cli("tokenize", "-m", model, "--json", *arguments, **how)))


def list_of(ids):
    return ",".join(map(str, ids))
