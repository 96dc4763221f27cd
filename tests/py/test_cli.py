"""The command line refuses, warns and fails as it promises: flags, prompts, variables, output.

The table `REFUSED` is the catalogue of bad flags, variables and prompts: each line is what a user
does, the exit code, and words that must stand in the one line on stderr. What the commands answer
when all is well is the business of test_commands.py.
"""
import json
import os
import re
import resource
import signal
import subprocess
from pathlib import Path

import pytest
from command import PROMPT, answer, cli, model, refused  # noqa: F401 (fixtures)


# ---- What is refused -----------------------------------------------------------------------------

RUN = ["run", "-m", "MODEL", "-p", PROMPT, "-n", "1"]

REFUSED = [
    # C01: unknown, without a value, twice
    (["run", "--thread", "3"], 2, "unknown flag --thread; did you mean --threads?"),
    (["run", "--tokns=1"], 2, "unknown flag --tokns; did you mean --tokens?"),
    (["run", "--completely-unknown"], 2, "unknown flag --completely-unknown; see greta run --help"),
    (["rnu"], 2, "unknown command rnu; did you mean greta run?"),
    (["--verson"], 2, "unknown flag --verson"),
    (["run", "extra"], 2, 'unexpected argument "extra"'),
    (["run", "-m"], 2, "-m needs a value (NAME|FILE)"),
    (["run", "-m", "--json"], 2, '-m "--json" is not a name'),
    (["run", "--json=1"], 2, "--json takes no value"),
    ([*RUN, "--threads", "3", "--threads", "4"], 2, '--threads is given twice, as "3" and "4"'),
    (["run", "-p", "a", "--prompt", "b"], 2, "given twice"),
    # C02: numbers
    *[([*RUN, "--threads", value], 2, f'--threads "{value}" is not a whole number from 1 to 512')
      for value in ("0", "-1", "1e9", "abc", "3x", "", " 3", "+3", "513", "99999999999999999999")],
    ([*RUN, "--ctx", "0"], 2, '--ctx "0" is not a whole number from 1 to 16777216'),
    ([*RUN, "--ctx", "2147483648"], 2, '--ctx "2147483648" is not a whole number'),
    ([*RUN, "--seed", "-1"], 2, '--seed "-1" is not a whole number from 0 to 18446744073709551615'),
    ([*RUN, "--seed", "18446744073709551616"], 2, "--seed"),
    ([*RUN, "--temp", "0,5"], 2, '--temp "0,5" is not a number'),
    ([*RUN, "--temp", "nan"], 2, '--temp "nan" is not a number'),
    ([*RUN, "--top-p", "1.5"], 2, '--top-p "1.5" is not a number from 0 to 1'),
    ([*RUN, "--kv", "f8"], 2, '--kv "f8" is not one of f16|f32'),
    (["run", "-n", "x"], 2, '-n "x" is not a whole number'),
    (["trace", "--max-bytes", "4X"], 2, '--max-bytes "4X" is not a size'),
    (["trace", "--max-bytes", "99999999999G"], 2, "--max-bytes"),
    (["trace", "--sample", "-3"], 2, '--sample "-3" is not a whole number from 0, or all'),
    # C03: kernel tables
    ([*RUN, "--cpu", "foo"], 2, "--cpu: this machine has no foo (has: "),
    ([*RUN, "--cpu", "re"], 2, "this machine has no re (has: "),
    # C04: outputs
    ([*RUN, "--logits-out", "MODEL", "--force"], 2, "cannot be its output"),
    ([*RUN, "--logits-out", "none/x.f32"], 2, "none/x.f32: its folder is not there"),
    ([*RUN, "--logits-out", "."], 2, "is there and no regular file"),
    (["trace", "-m", "MODEL", "-p", "a", "-o", "MODEL", "--force"], 2, "cannot replace the model"),
    # P01, P02, P05, P06: prompts
    (["run", "-m", "MODEL", "-f", "absent"], 4, "absent: cannot read prompt: no such file"),
    (["run", "-m", "MODEL", "-f", "."], 4, "cannot read prompt: is a directory"),
    (["run", "-m", "MODEL", "-f", "/dev/zero"], 4, "cannot read prompt: is a device"),
    (["run", "-m", "MODEL", "-f", "/dev/null"], 4, "-f - reads standard input"),
    (["run", "-m", "MODEL", "-f", "-"], 3, "the prompt has no tokens"),
    (["run", "-m", "MODEL", "-p", ""], 3, "the prompt has no tokens"),
    (["run", "-m", "MODEL", "--tokens", "5,5,5,5,5", "--ctx", "4"], 3,
     "prompt is 5 tokens, context 4; raise --ctx or shorten"),
    (["run", "-m", "MODEL", "--tokens", "1,,2"], 3, 'token 2: "" is not a number'),
    (["run", "-m", "MODEL", "--tokens", "1,2,abc"], 3, 'token 3: "abc" is not a number'),
    (["run", "-m", "MODEL", "--tokens", "-1"], 3, "token 1: -1 is outside the vocabulary"),
    (["run", "-m", "MODEL", "--tokens", "0,VOCAB"], 3, "token 2: VOCAB is outside the vocabulary"),
    (["run", "-m", "MODEL"], 2, "no prompt is given"),
    (["run", "-p", "a"], 2, "no model is given"),
    (["run", "-m", "MODEL", "-p", "a", "-f", "b"], 2, "only one of -p, -f and --tokens"),
    (["run", "-m", "MODEL", "-p", "a", "--system", "b"], 2, "--system has a meaning only with"),
    (["run", "-m", "MODEL", "--tokens", "5", "--chat"], 2, "--chat needs text"),
    (["run", "-m", "smollm2-135m", "-p", "a"], 4, "has not been pulled; run: greta pull smollm2"),
    (["run", "-m", "no-such-model", "-p", "a"], 4, "no-such-model: no such file or model"),
    # combinations
    ([*RUN, "--logits", "0"], 2, "--logits needs --json or --logits-out"),
    ([*RUN, "--json", "--logits", "0,999999"], 2, "--logits: 999999 is outside 0 to "),
    (["run", "-m", "MODEL", "--tokens", "5,6,7", "-n", "0", "--json", "--logits", "1,3"], 2,
     "--logits: 3 is outside 0 to 2"),
    ([*RUN, "--json", "--logits", "2-1"], 2, "--logits: 2-1 is outside 0 to "),
    ([*RUN, "--json", "--logits", "3-x"], 2, '--logits "3-x" is not a list like 0,3-5 or all'),
    (["eval", "-m", "MODEL", "--tokens", "5"], 3, "nothing to score"),
    (["eval", "-m", "MODEL", "-p", "a", "--window", "9", "--ctx", "8"], 2, "--window 9 is longer"),
    (["trace", "-m", "MODEL", "-p", "a"], 2, "no output is given"),
    (["trace", "-m", "MODEL", "--tokens", "5,6", "-o", "t.jsonl", "--ctx", "4", "-n", "3"], 2,
     "-n 3: the context of 4 has room for 2"),
    (["trace", "-m", "MODEL", "-p", "a", "-o", "t", "--fault", "x"], 2, "--fault needs --e1"),
    (["isolate", "-m", "MODEL", "-p", "a", "--prompts", "."], 2, "only one of --prompts"),
    (["isolate", "-m", "MODEL", "--prompts", "."], 3, ". has no *.txt"),
    (["isolate", "-m", "MODEL", "--prompts", "absent"], 4, "cannot read the prompts of absent"),
    (["isolate", "-m", "MODEL"], 2, "no prompt is given"),
    (["compare", "a"], 2, "compare needs [-m MODEL [--model-b MODEL]] A.jsonl B.jsonl"),
    (["audit"], 2, "audit needs"),
    (["compare", "absent-a", "absent-b"], 4, "absent-a"),
    (["inspect"], 2, "inspect needs NAME|FILE"),
    (["inspect", "./absent.gguf"], 4, "absent.gguf"),
    (["tokenize", "-m", "MODEL", "--decode", "-p", "a"], 2, "--decode needs --tokens"),
    (["pull", "smollm2"], 2, "unknown model smollm2; did you mean smollm2-135m?"),
]


@pytest.mark.parametrize("arguments, code, words", REFUSED,
                         ids=[" ".join(a)[:60] or "empty" for a, _, _ in REFUSED])
def test_refused(cli, model, arguments, code, words):
    vocab = "300"  # of mkmodel's tiny shape
    places = {"MODEL": str(model)}
    done = cli(*[places.get(a, a).replace("VOCAB", vocab) for a in arguments])
    refused(done, code, words.replace("VOCAB", vocab))


def test_fifo(cli, model, tmp_path):
    """A FIFO would wait for ever for a writer."""
    os.mkfifo(tmp_path / "fifo")
    refused(cli("run", "-m", model, "-f", "fifo"), 4, "fifo: cannot read prompt: is a FIFO")


def test_unreadable_prompt(cli, model, tmp_path):
    if os.geteuid() == 0:
        (tmp_path / "prompt").symlink_to("prompt")  # root reads everything, but no such loop
    else:
        (tmp_path / "prompt").touch(mode=0)
    refused(cli("run", "-m", model, "-f", "prompt"), 4, "prompt: cannot read prompt: ")


def test_huge_prompt(cli, model, tmp_path):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2 << 30)
    refused(cli("run", "-m", model, "-f", "huge"), 3, "the prompt is longer than 256 MiB")


def test_same_value_twice(cli, model):
    assert answer(cli(*at(RUN, model), "--threads", 2, "--threads", 2)) == \
        answer(cli(*at(RUN, model)))


def at(arguments, model):
    return [str(model) if a == "MODEL" else a for a in arguments]


# ---- Variables -----------------------------------------------------------------------------------

VARIABLES = [
    ({"GRETA_CPU": "foo"}, "GRETA_CPU: this machine has no foo (has: "),
    ({"GRETA_THREADS": ""}, 'GRETA_THREADS "" is not a whole number from 1 to 512'),
    ({"GRETA_THREADS": "3x"}, 'GRETA_THREADS "3x" is not a whole number from 1 to 512'),
    ({"GRETA_TRACE_RMSNORM": "yes"}, 'GRETA_TRACE_RMSNORM "yes" is not one of 0|1'),
    ({"GRETA_TRACE_RMSNORM": "1"}, "GRETA_TRACE_RMSNORM_OUT is not set"),
    ({"GRETA_TRACE_STAGES": "q"}, "GRETA_TRACE_OUT is not set"),
    ({"GRETA_TRACE_STAGES": "q", "GRETA_TRACE_OUT": "x", "GRETA_TRACE_SAMPLE": "x"},
     'GRETA_TRACE_SAMPLE "x" is not a whole number from 0, or all'),
    ({"GRETA_TRACE_STAGES": "q", "GRETA_TRACE_RMSNORM": "1"}, "are both set"),
]


@pytest.mark.parametrize("variables, words", VARIABLES, ids=[str(v) for v, _ in VARIABLES])
def test_variables_refused(cli, model, variables, words):
    refused(cli(*at(RUN, model), env=variables), 2, words)


@pytest.mark.parametrize("variables, words", [
    ({"GRETA_TRACE_STAGES": "q,kk"}, "GRETA_TRACE_STAGES: "),
    ({"GRETA_TRACE_STAGES": "q", "GRETA_TRACE_LAYERS": "99"}, "GRETA_TRACE_LAYERS: "),
])
def test_trace_variables_refused(cli, model, tmp_path, variables, words):
    done = cli(*at(RUN, model), env={"GRETA_TRACE_OUT": "t.jsonl", **variables})
    assert done.returncode == 2 and words in done.stderr.decode()
    assert not list(tmp_path.glob("t.jsonl*"))


def test_flag_wins_over_variable(cli, model):
    done = cli(*at(RUN, model), "--threads", 1, "--json", env={"GRETA_THREADS": "2"})
    assert json.loads(answer(done))["config"]["n_thread"] == 1
    done = cli(*at(RUN, model), "--json", env={"GRETA_THREADS": "2"})
    assert json.loads(answer(done))["config"]["n_thread"] == 2


def test_unknown_variable(cli):
    done = cli("--version", env={"GRETA_THREAD": "2", "GRETA_TMP": "x", "GRETA_OFFLINE": "1"})
    assert done.returncode == 0
    assert done.stderr.decode().splitlines() == [
        "greta: warning: unknown variable GRETA_THREAD; did you mean GRETA_THREADS?"]


# ---- Help and versions ---------------------------------------------------------------------------

def test_help(cli):
    overview = answer(cli("--help")).decode()
    commands = [line.split()[0] for line in overview.splitlines()
                if line.startswith("  ") and not line.startswith("  greta")]
    assert {"run", "trace", "isolate", "compare", "audit", "faults", "score", "inspect", "tokenize",
            "eval", "bench", "pull", "doctor"} == set(commands)
    for command in commands:
        text = answer(cli(command, "--help")).decode()
        assert text.startswith(f"usage: greta {command} ") and "--json" in text
    done = cli()
    assert done.returncode == 2 and done.stderr.decode() == overview


def test_documented(cli):
    """docs/commands.md has a section for each command and names each of its flags."""
    text = (Path(__file__).resolve().parents[2] / "docs/commands.md").read_text()
    for command in ("run", "trace", "isolate", "compare", "audit", "faults", "score", "inspect",
                    "tokenize", "eval", "bench", "pull", "doctor"):
        assert f"## greta {command}" in text
        flags = re.findall(r"^  (-\w, )?(--[\w-]+)", answer(cli(command, "--help")).decode(), re.M)
        assert len(flags) > 1
        for _, flag in flags:
            assert f"`{flag}`" in text, f"{command} {flag}"


def test_version(cli):
    told = json.loads(answer(cli("--version", "--json")))
    assert set(told) == {"library", "api", "arithmetic", "trace_format", "stage_list", "cpu"}
    text = answer(cli("--version")).decode()
    for name, value in told.items():
        assert str(value) in text, name


# ---- Output --------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments", [
    RUN, [*RUN, "--json"], ["--help"], ["run", "--help"], ["--version"], ["faults"],
    ["inspect", "MODEL"], ["tokenize", "-m", "MODEL", "-p", PROMPT],
    ["eval", "-m", "MODEL", "-p", PROMPT],
], ids=lambda a: " ".join(a)[:30])
def test_output_fails(cli, model, arguments):
    """A full disk and a closed stdout are told; a closed pipe ends the program without a word."""
    with open("/dev/full", "wb") as full:
        done = cli(*at(arguments, model), stdout=full)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 4
    assert lines == ["greta: cannot write output: no space left on device"]

    done = cli(*at(arguments, model), stdout=None, preexec_fn=lambda: os.close(1))
    assert done.returncode == 4
    assert b"greta: cannot write output: bad file descriptor" in done.stderr

    for action in (signal.SIG_DFL, signal.SIG_IGN):
        reader, writer = os.pipe()
        os.close(reader)
        done = cli(*at(arguments, model), stdout=writer, restore_signals=False,
                   preexec_fn=lambda action=action: signal.signal(signal.SIGPIPE, action))
        os.close(writer)
        assert done.returncode == -signal.SIGPIPE and done.stderr == b""


def test_closed_stdin(cli, model):
    done = cli("run", "-m", model, "-f", "-", stdin=None, preexec_fn=lambda: os.close(0))
    refused(done, 4, "cannot read prompt: bad file descriptor")


def test_closed_stderr_stays_out_of_files(cli, model, tmp_path):
    """Without descriptor 2, a file that is opened must not become the error stream."""
    arguments = [*at(RUN, model), "--logits-out", "l.f32"]
    assert cli(*arguments).returncode == 0
    wanted = (tmp_path / "l.f32").read_bytes()
    done = cli(*arguments, "--force", env={"GRETA_WHATEVER": "1"},
               preexec_fn=lambda: os.close(2))
    assert done.returncode == 0 and (tmp_path / "l.f32").read_bytes() == wanted


def test_surroundings_change_nothing(cli, model):
    command = ["eval", "-m", model, "-p", PROMPT, "--json"]
    wanted = answer(cli(*command))
    done = cli(*command, env={"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE", "TZ": "Asia/Tokyo",
                              "LANGUAGE": "de"})
    assert answer(done) == wanted
    done = cli(*command, *["--no-special"] * 60000)  # 0.8 MB of arguments
    assert answer(done) == wanted
    variables = {"GRETA_THREADS": "1"}
    bare = subprocess.run([os.environ["GRETA_BIN"], *map(str, command)], env=variables,
                          stdout=subprocess.PIPE)
    assert bare.stdout == wanted


def test_file_size_limit(cli, model, tmp_path):
    """Logits that do not fit: an error with its reason, and no half file."""
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
    done = cli(*at(RUN, model), "--logits-out", "l.f32", preexec_fn=limit)
    assert done.returncode == 4
    assert b"cannot write l.f32: file too large" in done.stderr
    assert not list(tmp_path.glob("l.f32*"))
