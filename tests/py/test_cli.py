"""The command line: flags, prompts, variables, output, signals, and what each command answers.

The table `REFUSED` is the catalogue of bad flags, variables and prompts: each line is what a user
does, the exit code, and words that must stand in the one line on stderr. The rest asks the program
about itself (text and ids, threads and chunks) or recomputes its figures here.
"""
import json
import os
import re
import resource
import signal
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
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
    (["compare", "a"], 2, "compare needs A.jsonl B.jsonl"),
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
    assert {"run", "trace", "isolate", "compare", "faults", "inspect", "tokenize", "eval",
            "pull"} == set(commands)
    for command in commands:
        text = answer(cli(command, "--help")).decode()
        assert text.startswith(f"usage: greta {command} ") and "--json" in text
    done = cli()
    assert done.returncode == 2 and done.stderr.decode() == overview


def test_documented(cli):
    """docs/commands.md has a section for each command and names each of its flags."""
    text = (Path(__file__).resolve().parents[2] / "docs/commands.md").read_text()
    for command in ("run", "trace", "isolate", "compare", "faults", "inspect", "tokenize", "eval",
                    "pull"):
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


# ---- Tokens and text -----------------------------------------------------------------------------

def ids_of(cli, model, *arguments, **how):
    return json.loads(answer(cli("tokenize", "-m", model, "--json", *arguments, **how)))


def list_of(ids):
    return ",".join(map(str, ids))


@pytest.mark.parametrize("text", [
    b"Hello", b"", b"tabs\tand\r\nnewlines\n\n\n",
    "\u00fcml\u00e4ut \u6f22\u5b57 \U0001f600".encode(),
    b"\xef\xbb\xbfBOM", b"\xff\xfe bad \xc3( UTF-8 \xed\xa0\x80", b"nul\0inside\0",
    b"<|im_start|>user\n", b"  leading and trailing  ",
], ids=repr)
def test_tokens_are_byte_exact(cli, model, tmp_path, text):
    """From a file and from stdin: the same ids, and decoding gives the bytes back."""
    (tmp_path / "text").write_bytes(text)
    for special in ([], ["--special"]):
        ids = ids_of(cli, model, "-f", "text", *special)
        assert ids_of(cli, model, "-f", "-", *special, input=text) == ids
        if b"\0" not in text:
            assert ids_of(cli, model, "-p", text.decode(errors="surrogateescape"), *special) == ids
        if ids:
            back = answer(cli("tokenize", "-m", model, "--decode", "--tokens", list_of(ids)))
            assert back == text
            told = json.loads(answer(cli("tokenize", "-m", model, "--decode", "--json", "--tokens",
                                         list_of(ids))))
            assert bytes.fromhex(told["text_bytes_hex"]) == text
            assert told["text"] == text.decode(errors="replace") or b"\xed" in text
        else:
            assert text == b""


def test_special(cli, model):
    text = "<|im_start|>user"
    plain, special = ids_of(cli, model, "-p", text), ids_of(cli, model, "-p", text, "--special")
    assert len(special) < len(plain) and special[0] == 1  # mkmodel's id of <|im_start|>
    run = ["run", "-m", model, "-p", text, "-n", 0, "--json"]
    assert json.loads(answer(cli(*run)))["prompt_tokens"] == special
    assert json.loads(answer(cli(*run, "--no-special")))["prompt_tokens"] == plain
    human = answer(cli("tokenize", "-m", model, "-p", text, "--special")).decode().splitlines()
    assert human[0].split() == ["1", '"<|im_start|>"'] and len(human) == len(special)


def test_bos(cli, model, tmp_path):
    """With a model that asks for BOS: once, unless --no-bos; and at the start of each window."""
    key = b"tokenizer.ggml.add_bos_token" + struct.pack("<I", 7)
    data = model.read_bytes()
    assert data.count(key + b"\0") == 1
    (tmp_path / "bos.gguf").write_bytes(data.replace(key + b"\0", key + b"\1"))
    plain = ids_of(cli, model, "-p", PROMPT)
    assert ids_of(cli, "./bos.gguf", "-p", PROMPT) == [1, *plain]
    assert ids_of(cli, "./bos.gguf", "-p", PROMPT, "--no-bos") == plain
    assert json.loads(answer(cli("run", "-m", "./bos.gguf", "-p", "", "-n", 0, "--json")))[
        "prompt_tokens"] == [1]

    told, rows = perplexity(cli, "./bos.gguf", tmp_path, "-p", PROMPT, "--window", 4)
    starts = range(0, len(plain), 3)
    windows = [[1, *plain[first:first + 3]] for first in starts]
    assert told["bos"] and told["n"] == len(plain) and told["windows"] == len(windows)
    assert told["nll"] == pytest.approx(nll_of(windows, rows), rel=1e-12)


def chat_model(model, path):
    """The tiny model with a ChatML template: one more key at the end of the metadata."""
    from gguf import GGUFReader  # the layout of the file, read by someone else
    template = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
                "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if "
                "add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}").encode()
    data = bytearray(model.read_bytes())
    reader = GGUFReader(model)
    if "tokenizer.chat_template" in reader.fields:
        path.write_bytes(data)
        return path
    first = reader.tensors[0]
    start, offset = first.field.offset, reader.data_offset
    key = b"tokenizer.chat_template"
    added = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(template)) + template
    count = struct.unpack_from("<Q", data, 16)[0]
    struct.pack_into("<Q", data, 16, count + 1)
    head = bytes(data[:start]) + added
    directory_end = max(t.field.offset + sum(p.nbytes for p in t.field.parts)
                        for t in reader.tensors)
    head += bytes(data[start:directory_end])
    path.write_bytes(head + b"\0" * (-len(head) % 32) + bytes(data[offset:]))
    return path


def test_chat(cli, model, tmp_path):
    chat = chat_model(model, tmp_path / "chat.gguf")
    rendered = "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n" \
               "<|im_start|>assistant\n"
    flags = ["-m", chat, "--chat", "--system", "Be brief", "-p", "Hi"]
    assert answer(cli("tokenize", *flags)).decode() == rendered
    told = json.loads(answer(cli("tokenize", *flags, "--json")))
    assert told["text"] == rendered
    assert told["tokens"] == ids_of(cli, chat, "-p", rendered, "--special", "--no-bos")
    ran = json.loads(answer(cli("run", *flags, "-n", 0, "--json")))
    assert ran["prompt_tokens"] == told["tokens"]
    (tmp_path / "nul").write_bytes(b"ab\0c")
    refused(cli("run", "-m", chat, "--chat", "-f", "nul"), 3, "byte 2: ", "NUL")


# ---- Generation ----------------------------------------------------------------------------------

def run_json(cli, model, *arguments):
    return json.loads(answer(cli("run", "-m", model, "-p", PROMPT, "--json", *arguments)))


def bits_of(told):
    return {row["position"]: np.frombuffer(bytes.fromhex(row["bits"]), "<f4")
            for row in told["logits"]}


def test_streamed_text_is_the_tokens(cli, model):
    for sampling in ([], ["--temp", "1.5", "--seed", "7"], ["--temp", "2", "--top-k", "40"],
                     ["--temp", "2", "--top-p", "0.9", "--min-p", "0.01", "--seed", "3"]):
        flags = ["-n", 40, "--ignore-eos", *sampling]
        told = run_json(cli, model, *flags)
        text = answer(cli("run", "-m", model, "-p", PROMPT, *flags))
        assert len(told["tokens"]) == 40 and told["stop"] == "length"
        assert bytes.fromhex(told["text_bytes_hex"]) == text
        assert answer(cli("tokenize", "-m", model, "--decode", "--tokens",
                          list_of(told["tokens"]))) == text


def test_seed(cli, model):
    hot = ["-n", 24, "--ignore-eos", "--temp", 5]
    drawn = [run_json(cli, model, *hot, "--seed", seed)["tokens"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != run_json(cli, model, "-n", 24, "--ignore-eos")["tokens"]


def test_stops(cli, model):
    n_prompt = len(ids_of(cli, model, "-p", PROMPT))
    full = run_json(cli, model, "--ctx", n_prompt, "-n", 5, "--ignore-eos")
    assert full["stop"] == "context" and len(full["tokens"]) == 1
    more = run_json(cli, model, "--ctx", n_prompt + 2, "-n", 5, "--ignore-eos")
    assert more["stop"] == "context" and len(more["tokens"]) == 3
    assert run_json(cli, model, "--ctx", n_prompt, "-n", 1, "--ignore-eos")["stop"] == "length"
    none = run_json(cli, model, "--ctx", n_prompt, "-n", 0)
    assert none["tokens"] == [] and none["stop"] == "length" and none["text"] == ""
    assert [row["position"] for row in none["top"]] == [n_prompt - 1]


def test_end_token(cli, model):
    """Drawn from all tokens alike, an end token comes: it stands in the ids, not in the text."""
    hot = ["-n", 500, "--temp", 100, "--seed", 11]
    told = run_json(cli, model, *hot)
    assert told["stop"] == "eos" and len(told["tokens"]) < 500
    kept = list_of(told["tokens"][:-1])
    assert answer(cli("tokenize", "-m", model, "--decode", "--tokens", kept)) == \
        bytes.fromhex(told["text_bytes_hex"])
    on = run_json(cli, model, *hot, "--ignore-eos")
    assert on["tokens"][:len(told["tokens"])] == told["tokens"]
    assert len(on["tokens"]) > len(told["tokens"])


@pytest.mark.parametrize("options", [[], ["--type", "Q4_1"], ["--type", "F32"]], ids=str)
def test_logits_do_not_depend_on_the_work(cli, mkmodel, options):
    """Threads, chunks and kernel tables never change a bit; types of cache and activations do."""
    made = mkmodel(*options)
    flags = ["-n", 6, "--ignore-eos", "--logits", "all"]
    base = run_json(cli, made, *flags)
    n = len(base["prompt_tokens"]) + 5
    assert sorted(bits_of(base)) == list(range(n))
    for other in (["--threads", 1], ["--threads", 2], ["--threads", 3], ["--chunk", 1],
                  ["--chunk", 2], ["--chunk", 7, "--threads", 3], ["--cpu", "ref"]):
        told = run_json(cli, made, *flags, *other)
        assert told["logits"] == base["logits"] and told["tokens"] == base["tokens"], other
    assert run_json(cli, made, *flags, "--kv", "f32")["logits"] != base["logits"]


def test_logits_outputs_agree(cli, model, tmp_path):
    flags = ["-n", 4, "--ignore-eos"]
    every = bits_of(run_json(cli, model, *flags, "--logits", "all"))
    last = max(every)
    told = run_json(cli, model, *flags, "--logits", f"0,2-3,{last}", "--top", 5)
    some = bits_of(told)
    assert sorted(some) == [0, 2, 3, last] == [row["position"] for row in told["top"]]
    for row in told["top"]:
        logits = every[row["position"]]
        assert (some[row["position"]] == logits).all()
        best = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:5]
        assert [t["id"] for t in row["top"]] == best
        assert [np.float32(t["logit"]) for t in row["top"]] == [logits[i] for i in best]

    told = run_json(cli, model, *flags, "--logits", "0,3", "--logits-out", "l.f32")
    assert told["logits"] == [{"position": 0, "row": 0}, {"position": 3, "row": 1}]
    rows = np.fromfile(tmp_path / "l.f32", "<f4").reshape(2, -1)
    assert (rows[0] == every[0]).all() and (rows[1] == every[3]).all()
    refused(cli("run", "-m", model, "-p", PROMPT, *flags, "--logits-out", "l.f32"), 2,
            "l.f32 exists; --force replaces it")
    answer(cli("run", "-m", model, "-p", PROMPT, *flags, "--logits-out", "l.f32", "--force"))
    rows = np.fromfile(tmp_path / "l.f32", "<f4").reshape(len(every), -1)
    assert all((rows[p] == every[p]).all() for p in every)
    greedy = run_json(cli, model, *flags)
    n_prompt = len(greedy["prompt_tokens"])
    assert greedy["tokens"] == [int(every[n_prompt - 1 + i].argmax()) for i in range(4)]


# ---- Perplexity ----------------------------------------------------------------------------------

def perplexity(cli, model, folder, *arguments):
    told = json.loads(answer(cli("eval", "-m", model, "--json", "--logits-out", "e.f32", "--force",
                                 *arguments)))
    return told, np.fromfile(folder / "e.f32", "<f4").reshape(-1, 300)


def nll_of(windows, rows):
    """Mean of -log softmax in f64 over every position after the first of each window."""
    total, n, at = 0.0, 0, 0
    for ids in windows:
        for i, target in enumerate(ids[1:]):
            logits = rows[at + i].astype(np.float64)
            total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target]
            n += 1
        at += len(ids)
    assert at == len(rows)
    return total / n


@pytest.mark.parametrize("window", [2, 5, 16, 512])
def test_eval(cli, model, tmp_path, window):
    text = "It was the best of times, it was the worst of times; it was the age of wisdom."
    ids = ids_of(cli, model, "-p", text)
    windows = [ids[i:i + window] for i in range(0, len(ids), window)]
    windows = [w for w in windows if len(w) > 1]
    told, rows = perplexity(cli, model, tmp_path, "-p", text, "--window", window)
    assert told["n"] == sum(len(w) - 1 for w in windows) and told["windows"] == len(windows)
    assert told["nll"] == pytest.approx(nll_of(windows, rows), rel=1e-12)
    assert told["perplexity"] == pytest.approx(np.exp(told["nll"]), rel=1e-12)
    assert not told["bos"]
    for other in (["--chunk", 3], ["--threads", 3], ["--ctx", 600]):
        again, other_rows = perplexity(cli, model, tmp_path, "-p", text, "--window", window, *other)
        assert again["nll"] == told["nll"] and (other_rows == rows).all(), other
    same, _ = perplexity(cli, model, tmp_path, "--tokens", list_of(ids), "--window", window)
    assert same["nll"] == told["nll"]
    human = answer(cli("eval", "-m", model, "-p", text, "--window", window)).decode().split()
    assert human[0::2] == ["perplexity", "nll", "n"]
    assert float(human[1]) == pytest.approx(told["perplexity"], rel=1e-6)
    run = bits_of(json.loads(answer(cli("run", "-m", model, "--tokens", list_of(windows[0]),
                                        "-n", 0, "--json", "--logits", "all"))))
    assert all((run[p] == rows[p]).all() for p in run)


# ---- Traces --------------------------------------------------------------------------------------

def trace_of(path):
    """Header, body, footer."""
    header, *body, footer = map(json.loads, Path(path).read_text().splitlines())
    assert Path(f"{path}.blob").exists() and not Path(f"{path}.partial").exists()
    return header, body, footer


def rows_of(body):
    return [record for record in body if record["kind"] == "row"]


def test_rmsnorm_switches(cli, model, tmp_path):
    switches = {"GRETA_TRACE_RMSNORM": "1", "GRETA_TRACE_RMSNORM_OUT": "n.jsonl",
                "GRETA_TRACE_RMSNORM_LAYERS": "0", "GRETA_TRACE_RMSNORM_SAMPLE": "16",
                "GRETA_TRACE_PROMPT_ID": "p0_short"}
    flags = ["run", "-m", model, "-p", PROMPT, "-n", 3, "--ignore-eos", "--json", "--logits", "all"]
    plain = answer(cli(*flags))
    done = cli(*flags, env=switches)
    assert answer(done) == plain  # tracing changes no bit
    assert b"greta: note: tracing to n.jsonl: at most " in done.stderr
    header, body, footer = trace_of(tmp_path / "n.jsonl")
    rows = rows_of(body)
    assert header["prompt_id"] == "p0_short" and footer["end"] == "complete"
    layered = {(r["stage"], r["layer"]) for r in rows if r.get("layer", -1) >= 0}
    assert layered == {("attn_norm", 0), ("ffn_norm", 0)}
    assert all(r["in"][0]["kept"] == 16 for r in rows)
    assert {r["phase"] for r in rows} == {"prefill", "decode"}
    size = sum((tmp_path / name).stat().st_size for name in ("n.jsonl", "n.jsonl.blob"))
    assert size > 0

    done = cli(*flags, env=switches)
    assert done.returncode == 2 and b"n.jsonl" in done.stderr and b"exists" in done.stderr
    assert cli(*flags, "--force", env=switches).returncode == 0
    off = cli(*flags, env={**switches, "GRETA_TRACE_RMSNORM": "0",
                           "GRETA_TRACE_RMSNORM_OUT": "off.jsonl"})
    assert answer(off) == plain and not (tmp_path / "off.jsonl").exists()
    idle = cli(*flags, env={"GRETA_TRACE_OUT": "idle.jsonl"})
    assert b"GRETA_TRACE_STAGES is not" in idle.stderr and not (tmp_path / "idle.jsonl").exists()


def test_stage_switches(cli, model, tmp_path):
    switches = {"GRETA_TRACE_STAGES": "q,k", "GRETA_TRACE_OUT": "s.jsonl",
                "GRETA_TRACE_LAYERS": "1", "GRETA_TRACE_PHASES": "prefill",
                "GRETA_TRACE_TOKENS": "0,2-3", "GRETA_TRACE_SAMPLE": "all"}
    flags = ["-m", model, "-p", PROMPT]
    for command in (["run", *flags, "-n", 3], ["eval", *flags]):
        answer(cli(*command, "--force", env=switches))
        _, body, _ = trace_of(tmp_path / "s.jsonl")
        rows = rows_of(body)
        assert {(r["stage"], r["layer"], r["position"]) for r in rows} == {
            (stage, 1, position) for stage in ("q", "k") for position in (0, 2, 3)}
        assert all(r["out"][0]["kept"] == r["out"][0]["n"] for r in rows)


def test_trace_command(cli, model, tmp_path):
    flags = ["trace", "-m", model, "-p", PROMPT, "--prompt-id", "hello", "--stages", "ffn_norm",
             "--layers", "0-1", "--positions", "last", "--sample", 8]
    told = json.loads(answer(cli(*flags, "-o", "t.jsonl", "-n", 2, "--json")))
    size = sum((tmp_path / name).stat().st_size for name in ("t.jsonl", "t.jsonl.blob"))
    header, body, footer = trace_of(tmp_path / "t.jsonl")
    n = len(ids_of(cli, model, "-p", PROMPT))
    assert told == {"out": "t.jsonl", "status": "complete", "n_prompt": n, "bytes": size}
    assert header["prompt_id"] == "hello" and footer["end"] == "complete"
    assert sorted((r["layer"], r["position"], r["phase"]) for r in rows_of(body)) == [
        (layer, n - 1 + i, "decode" if i else "prefill") for layer in (0, 1) for i in range(3)]
    assert cli(*flags, "-o", "t.jsonl").returncode == 2
    human = answer(cli(*flags, "-o", "t.jsonl", "--force")).decode()
    assert human.startswith(f"t.jsonl: complete, {n} prompt tokens, ")
    done = cli(*flags, "-o", "u.jsonl", env={"GRETA_TRACE_STAGES": "q"})
    refused(done, 2, "GRETA_TRACE_STAGES is set, but greta trace takes flags")


def test_trace_notes_the_text(cli, model, tmp_path):
    (tmp_path / "crlf").write_bytes(b"\xef\xbb\xbfa\r\nb\0c")
    answer(cli("trace", "-m", model, "-f", "crlf", "-o", "t.jsonl", "--stages", "final_norm"))
    notes = trace_of(tmp_path / "t.jsonl")[0]["notes"]
    assert notes == "begins with BOM; contains NUL; contains CRLF"


def test_trace_cap(cli, model, tmp_path):
    done = cli("trace", "-m", model, "-p", PROMPT, "-o", "t.jsonl", "--max-bytes", "64K")
    assert b"stops cleanly at 64.0 KiB" in done.stderr and done.returncode == 0
    _, _, footer = trace_of(tmp_path / "t.jsonl")
    size = sum((tmp_path / name).stat().st_size for name in ("t.jsonl", "t.jsonl.blob"))
    assert footer["end"] == "truncated" and 0 < size <= 64 << 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt(cli, model, tmp_path, number):
    """The token in work is finished, the trace gets its footer, the exit code names the signal."""
    variables = {"GRETA_TRACE_STAGES": "final_norm", "GRETA_TRACE_OUT": "t.jsonl",
                 "GRETA_TRACE_SAMPLE": "0"}
    command = [os.environ["GRETA_BIN"], "run", "-m", str(model), "-p", PROMPT, "-n", "1000000",
               "--ctx", "60000", "--ignore-eos", "--logits-out", "l.f32"]
    running = subprocess.Popen(command, env={**os.environ, **variables}, cwd=tmp_path,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first = running.stdout.read(1)
    running.send_signal(number)
    rest, told = running.communicate(timeout=60)
    assert running.returncode == 128 + number, told
    _, body, footer = trace_of(tmp_path / "t.jsonl")
    assert footer["end"] == "interrupted" and footer["records"] == len(body)
    assert first + rest == answer(cli("run", "-m", model, "-p", PROMPT, "--ignore-eos", "-n",
                                      len((first + rest)), "--ctx", 60000))[:len(first + rest)]
    assert (tmp_path / "l.f32").exists()


def test_second_interrupt_kills(model, tmp_path):
    """Whoever presses Ctrl-C twice wants the program gone, whatever it is doing."""
    command = [os.environ["GRETA_BIN"], "eval", "-m", str(model), "-f", "-"]
    running = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(0.05)  # it waits for its prompt, where one signal is enough
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=60) == -signal.SIGINT


# ---- The main job --------------------------------------------------------------------------------

def test_isolate(cli, model, tmp_path):
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "b.txt").write_text(PROMPT)
    (prompts / "a.txt").write_text("A prompt of some length, so that there is a row before.")
    (prompts / "ignored.md").write_text("no")
    flags = ["isolate", "-m", model, "--prompts", "prompts", "--layers", "all"]
    told = json.loads(answer(cli(*flags, "--json")))
    assert told == json.loads((tmp_path / "greta-isolate/analysis.json").read_text())
    table = (tmp_path / "greta-isolate/analysis.tsv").read_text()
    assert table.index("\na\t") < table.index("\nb\t") and "ignored" not in table
    assert (tmp_path / "greta-isolate/report.md").exists()
    assert cli(*flags).returncode == 2  # an analysis is there
    human = answer(cli(*flags, "--force")).decode()
    assert "ffn_norm" in human and "input_mae" in human

    fault = ["--fault", "ffn_norm-reads-previous-position", "--fault-layer", 0]
    done = cli(*flags, *fault, "--out", "faulty")
    assert done.returncode == 1 and b"A_input_selection" in done.stdout
    again = cli("isolate", "--from", "faulty", "--out", "again")
    assert again.returncode == 1 and b"A_input_selection" in again.stdout
    done = cli(*flags, "--mode", "E0", "--out", "e0")
    assert done.returncode == 6 and b"NOT_COMPARABLE" in done.stdout
    one = cli("isolate", "-m", model, "--tokens", "5", "--out", "one")
    assert one.returncode == 6
    switched = cli(*flags, "--out", "switched", env={"GRETA_TRACE_STAGES": "q"})
    assert switched.returncode == 0 and b"GRETA_TRACE_STAGES does nothing here" in switched.stderr


def test_trace_pair(cli, model, tmp_path):
    """greta trace --e1 writes what isolate --from reads, healthy and with a fault."""
    flags = ["trace", "-m", model, "-p", PROMPT, "--prompt-id", "p", "--e1"]
    for extra, code in ([], 0), (["truncate"], 0), (["--fault", "ffn_norm-reads-previous-position",
                                                     "--fault-layer", 0], 1):
        folder = f"pair-{code}-{len(extra)}"
        answer(cli(*flags, *extra, "-o", folder))
        assert cli("isolate", "--from", folder, "--out", folder + "-analysis").returncode == code
    refused(cli(*flags, "--stages", "q", "-o", "x"), 2, "--e1 chooses stages")


def test_compare(cli, model, tmp_path):
    for name, extra in (("a", []), ("b", ["--threads", 3, "--chunk", 3]), ("c", ["--kv", "f32"])):
        answer(cli("trace", "-m", model, "-p", PROMPT, "-o", f"{name}.jsonl", *extra))
    assert cli("compare", "a.jsonl", "b.jsonl").returncode == 0
    other = cli("compare", "a.jsonl", "c.jsonl", "--json")
    assert other.returncode == 6 and json.loads(other.stdout)  # nothing promises equal bits
    assert cli("compare", "a.jsonl", "a.jsonl").returncode == 6

    fault = ["--fault", "ffn_norm-reads-previous-position", "--fault-layer", 0]
    answer(cli("trace", "-m", model, "-p", PROMPT, "--e1", *fault, "-o", "pair"))
    sides = sorted((tmp_path / "pair").glob("*.jsonl"))
    assert len(sides) == 2 and cli("compare", *sides).returncode == 1


def test_faults(cli):
    told = json.loads(answer(cli("faults", "--json")))
    human = answer(cli("faults")).decode()
    faults = told["faults"] if isinstance(told, dict) else told
    assert len(faults) >= 16 and all(fault["name"] in human for fault in faults)


def test_inspect(cli, model):
    told = json.loads(answer(cli("inspect", model, "--json")))
    human = answer(cli("inspect", model)).decode()
    assert told and "token_embd.weight" in human
