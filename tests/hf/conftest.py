"""What the tests share: the program, a scratch folder, and each case as a model, GGUF and folder.

tests/hf/run.sh says where things are: GRETA_BIN, GRETA_TMP. Everything of a case is made when it is
first asked for and kept for the session; the models are tiny.
"""
import os
import shutil
from pathlib import Path

import families
import files
import numpy as np
import pytest
import reference
import stages
import torch

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


def pytest_report_header():
    import transformers
    return f"transformers {transformers.__version__}, torch {torch.__version__}"


def pytest_terminal_summary(terminalreporter):
    for line in stages.figures:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def greta():
    program = os.environ.get("GRETA_BIN")
    if not program:
        pytest.fail("GRETA_BIN is not set; run the tests with `make check-hf`")
    return Path(program)


@pytest.fixture(scope="session")
def scratch():
    folder = Path(os.environ["GRETA_TMP"]) / f"hf-{os.getpid()}"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


class Subject:
    """A case and what was made of it so far."""

    def __init__(self, case, greta, scratch):
        self.case, self.greta, self.scratch = case, greta, scratch
        self.model = families.build(case)
        self.made, self.references = {}, {}

    def prompt(self):
        draw = np.random.default_rng(len(self.case.name)).integers(
            3, self.model.config.vocab_size, self.case.n_prompt)
        return [int(i) for i in draw]

    def once(self, name, make):
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def path(self, kind):
        """kind: gguf, or folder."""
        def make():
            if kind == "gguf":
                path = self.scratch / f"{self.case}.gguf"
                files.write_gguf(self.case, self.model, path)
            else:
                path = self.scratch / f"{self.case}-folder"
                files.write_folder(self.model, path)
            return path
        return self.once(f"path {kind}", make)

    def side(self, kind):
        return self.once(f"side {kind}", lambda: stages.traced(
            self.greta, self.path(kind), self.scratch / f"{self.case}-{kind}.jsonl",
            self.prompt(), families.N_DECODE, self.case.n_ctx))

    def is_long(self):
        parameters = self.model.config.rope_parameters
        return self.case.n_ctx > parameters.get("original_max_position_embeddings", 1 << 30)

    def reference_of(self, ids):
        key = tuple(ids)
        if key not in self.references:
            self.references[key] = reference.run(self.model, ids, is_long=self.is_long())
        return self.references[key]

    def ordered(self, stage, kind):
        """The stages of a reference with q and k in the order of GRETA's rows."""
        if kind == "folder" or self.case.arch != "llama":
            return stage
        head_dim = self.model.config.head_dim
        return {key: files.neighbours(value.T, head_dim).T if key[0] in stages.TURNED else value
                for key, value in stage.items()}


@pytest.fixture(scope="session")
def subject(greta, scratch):
    """subject(name or case)."""
    known = {}

    def get(case):
        case = families.by_name(case) if isinstance(case, str) else case
        if case.name not in known:
            known[case.name] = Subject(case, greta, scratch)
        return known[case.name]

    return get
