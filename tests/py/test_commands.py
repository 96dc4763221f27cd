"""What the commands answer: tokens, text, logits, perplexity, traces, verdicts, and signals.

The program is asked about itself (text and ids, threads and chunks), and its figures are computed
here once more. How it refuses is the business of test_cli.py.
"""
import json
import os
import signal
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from command import PROMPT, answer, cli, ids_of, list_of, model, refused  # noqa: F401 (fixtures)


# ---- Tokens and text -----------------------------------------------------------------------------

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


def ask_for_bos(model, path):
    """The model with its BOS switched on."""
    key = b"tokenizer.ggml.add_bos_token" + struct.pack("<I", 7)
    data = model.read_bytes()
    assert data.count(key + b"\0") == 1
    path.write_bytes(data.replace(key + b"\0", key + b"\1"))
    return path


def test_bos(cli, model, tmp_path):
    """With a model that asks for BOS: once, unless --no-bos; and at the start of each window."""
    ask_for_bos(model, tmp_path / "bos.gguf")
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
    with_bos = ask_for_bos(chat, tmp_path / "chat-bos.gguf")  # a template writes its own
    flags[1] = with_bos
    assert json.loads(answer(cli("tokenize", *flags, "--json")))["tokens"] == told["tokens"]
    assert ids_of(cli, with_bos, "-p", "Hi")[0] == 1
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


def test_narrow_sampling_is_greedy(cli, model):
    """However hot: among one candidate there is nothing to draw."""
    greedy = run_json(cli, model, "-n", 16, "--ignore-eos")["tokens"]
    for narrow in (["--top-k", 1], ["--top-p", "1e-9"], ["--min-p", 1]):
        told = run_json(cli, model, "-n", 16, "--ignore-eos", "--temp", 3, *narrow)
        assert told["tokens"] == greedy, narrow


def test_ties(cli, model, tmp_path):
    """A model whose logits are all zero: the lower id comes first, drawn and listed."""
    from gguf import GGUFReader
    data = bytearray(model.read_bytes())
    embedding = next(t for t in GGUFReader(model).tensors if t.name == "token_embd.weight")
    data[embedding.data_offset:embedding.data_offset + embedding.n_bytes] = \
        bytes(int(embedding.n_bytes))
    (tmp_path / "zero.gguf").write_bytes(data)
    told = run_json(cli, "./zero.gguf", "-n", 2, "--ignore-eos", "--top", 4)
    assert told["tokens"] == [0, 0]
    assert [[t["id"] for t in row["top"]] for row in told["top"]] == [[0, 1, 2, 3]] * 2


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
    assert told["perplexity"] == pytest.approx(np.exp(told["nll"]), rel=1e-15)
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
    # No buffer: what it took with the first byte, communicate() would not see.
    running = subprocess.Popen(command, env={**os.environ, **variables}, cwd=tmp_path, bufsize=0,
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


def test_interrupt_between_chunks(cli, model, tmp_path):
    """A long prompt is left between two chunks; what was traced of it stays, logits do not."""
    variables = {"GRETA_TRACE_STAGES": "final_norm", "GRETA_TRACE_OUT": "t.jsonl",
                 "GRETA_TRACE_SAMPLE": "0", "GRETA_THREADS": "1"}
    n = 30000
    command = [os.environ["GRETA_BIN"], "eval", "-m", str(model), "--tokens", list_of([5] * n),
               "--window", str(n), "--chunk", "4", "--logits-out", "l.f32"]
    running = subprocess.Popen(command, env={**os.environ, **variables}, cwd=tmp_path,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    partial = tmp_path / "l.f32.partial"
    while running.poll() is None and not (partial.exists() and partial.stat().st_size):
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, told = running.communicate(timeout=100)
    assert running.returncode == 130 and out == b"", told
    _, body, footer = trace_of(tmp_path / "t.jsonl")
    assert footer["end"] == "interrupted" and 0 < len(rows_of(body)) < n
    assert not list(tmp_path.glob("l.f32*"))


def test_broken_pipe_ends_the_trace(cli, model, tmp_path):
    """The reader of stdout goes away: the trace still gets its footer before the program dies."""
    variables = {"GRETA_TRACE_STAGES": "final_norm", "GRETA_TRACE_OUT": "t.jsonl"}
    reader, writer = os.pipe()
    os.close(reader)
    done = cli("run", "-m", model, "-p", PROMPT, "-n", 9, stdout=writer, env=variables)
    os.close(writer)
    assert done.returncode == -signal.SIGPIPE
    assert trace_of(tmp_path / "t.jsonl")[2]["end"] == "interrupted"


def test_model_shrinks(model, tmp_path):
    """A model that is cut while it runs: pages of the mapping are gone, and that is told."""
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model.read_bytes())
    command = [os.environ["GRETA_BIN"], "run", "-m", str(cut), "-p", PROMPT, "-n", "1000000",
               "--ctx", "60000", "--ignore-eos"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    running.stdout.read(1)
    os.truncate(cut, 0)
    _, told = running.communicate(timeout=100)
    assert running.returncode == 4
    assert told == b"greta: a file became shorter while it was read (the model?)\n"


def test_one_interrupt_ends_waiting(model, tmp_path):
    """Before there is anything to finish, a signal simply ends the program."""
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
    lines = table.split("\n\n")[0].splitlines()
    order = [line.split("\t")[0] for line in lines[lines.index(next(
        line for line in lines if line.startswith("prompt\t"))) + 1:]]
    assert order == sorted(order) and set(order) == {"a", "b"}
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
    real = [bug["name"] for bug in told["real"]]
    assert len(set(real)) == len(real) >= 15 and all(f"  {name} " in human for name in real)


def test_inspect(cli, model):
    told = json.loads(answer(cli("inspect", model, "--json")))
    human = answer(cli("inspect", model)).decode()
    assert told and "token_embd.weight" in human
