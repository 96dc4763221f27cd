"""greta bench and the scripts of bench/: their fields, sums and refusals. No speed is asserted.

What a model must read and compute is counted here once more from the file's own directory, and
shares are computed again from the figures that the object gives.
"""
import json
import os
import stat
import statistics
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
from command import answer, cli, model, refused  # noqa: F401 (fixtures)

BENCH = Path(__file__).resolve().parents[2] / "bench"
CASES = ["--prompt", 20, "--gen", 3, "--depth", "0,6", "--batch", "1,3", "--repeat", 3]


@pytest.fixture(scope="module")
def bench(mkmodel):
    """bench(type, arguments...) runs greta bench on a tiny model of the type: path and answer."""

    def run(kind, *arguments):
        path = mkmodel("--type", kind)
        command = [os.environ["GRETA_BIN"], "bench", path, "--threads", 1, "--json", *arguments]
        done = subprocess.run([str(word) for word in command], capture_output=True)
        return path, json.loads(answer(done))

    return run


@pytest.fixture(scope="module")
def told(bench):
    return bench("Q4_0", *CASES, "--trace", "stats", "--seed", 7)


def matrices(path):
    """{name: (bytes, values, values of a row)} of the matrices of a model."""
    return {t.name: (int(t.n_bytes), int(t.n_elements), int(t.shape[0]))
            for t in gguf.GGUFReader(path).tensors if len(t.shape) == 2}


def is_summary(summary, values):
    assert summary["median"] == pytest.approx(statistics.median(values))
    assert (summary["min"], summary["max"]) == pytest.approx((min(values), max(values)))


def test_what_a_model_costs(bench, told):
    """From the directory of the file: the embedding is the head, so it is read whole and by row."""
    models = {"Q4_0": told, "F16": bench("F16", "--gen", 0, "--prompt", 5)}
    for kind, (path, found) in models.items():
        all_of = matrices(path)
        embedding, _, width = all_of["token_embd.weight"]
        row = embedding // 300
        assert len(all_of) == 2 * 7 + 1
        cost = found["model"]
        assert cost["bytes_weights_per_token"] == sum(m[0] for m in all_of.values()) + row
        assert cost["ops_per_token"] == 2 * sum(m[1] for m in all_of.values())
        head_dim = 64 if kind == "Q4_0" else 22
        assert cost["bytes_kv_per_position"] == 2 * 2 * head_dim * 2  # k and v, layers, f16
        head = 2 * 300 * width
        prompt = found["prefill"]["n"]
        expected = (cost["ops_per_token"] - head) * prompt + head  # the last token's logits alone
        mine, other = ("int8", "fma") if kind == "Q4_0" else ("fma", "int8")
        assert found["prefill"][f"ops_{mine}"] == expected
        assert found["prefill"][f"ops_{other}"] == 0 and found["prefill"][f"share_{other}"] is None


def test_prefill(told):
    found = told[1]
    prefill, machine = found["prefill"], found["machine"]
    assert prefill["n"] == 20 and len(prefill["seconds"]) == 3 and min(prefill["seconds"]) > 0
    is_summary(prefill["tokens_per_second"], [20 / s for s in prefill["seconds"]])
    rate = prefill["ops_int8"] / statistics.median(prefill["seconds"])
    assert prefill["share_int8"] == pytest.approx(rate / machine["int8"]["per_second"]["median"])
    for peak in (machine["int8"], machine["fma"]):
        assert peak["name"] and 0 < peak["per_second"]["min"] <= peak["per_second"]["median"]


def test_decode(told):
    """Each case between two probes; bytes are those of its steps, depth and sequences."""
    found = told[1]
    model_bytes, kv = (found["model"][name] for name in ("bytes_weights_per_token",
                                                         "bytes_kv_per_position"))
    row = matrices(told[0])["token_embd.weight"][0] // 300
    cases = {(case["depth"], case["batch"]): case for case in found["decode"]}
    assert list(cases) == [(0, 1), (0, 3), (6, 1), (6, 3)]
    for (depth, batch), case in cases.items():
        seconds = case["seconds"]
        assert case["n"] == 3 and len(seconds) == 3 and min(seconds) > 0
        is_summary(case["tokens_per_second"], [3 * batch / s for s in seconds])
        assert case["bytes_weights"] == 3 * (model_bytes - row + batch * row)
        assert case["bytes_kv"] == kv * batch * sum(depth + i + 1 for i in range(3))
        bytes_of_run = case["bytes_weights"] + case["bytes_kv"]
        probes = list(zip(case["read_before"], case["read_after"]))
        assert len(probes) == 3 and min(min(pair) for pair in probes) > 0
        shares = [bytes_of_run / s / statistics.mean(pair) for s, pair in zip(seconds, probes)]
        is_summary(case["share"], shares)
        packed = case["bytes_read"] + case["bytes_kv"]
        is_summary(case["share_packed"], [share * packed / bytes_of_run for share in shares])
        one = cases[depth, 1]["tokens_per_second"]["median"]
        assert case["over_one"] == (None if batch == 1 else
                                    pytest.approx(case["tokens_per_second"]["median"] / one))


def test_trace_stands_beside_the_untraced(told, cli, mkmodel):
    full = json.loads(answer(cli("bench", mkmodel("--type", "Q4_0"), "--prompt", 20, "--gen", 3,
                                 "--repeat", 1, "--trace", "full", "--json")))
    for found, kind in (told[1], "stats"), (full, "full"):
        for part in (found["prefill"], *found["decode"]):
            traced, plain = part["trace"], part["seconds"]
            assert traced["kind"] == kind and len(traced["seconds"]) == len(plain)
            is_summary(traced["slower"], [a / b for a, b in zip(traced["seconds"], plain)])
    # every value of 20 rows: at least logits, embedding, and what layers write in f32
    few, all_of = (found["prefill"]["trace"]["bytes"] for found in (told[1], full))
    assert few > 0 and all_of > few + 4 * (300 + 20 * (96 + 2 * (4 * 96 + 3 * 1056)))


def test_memory_and_packing(cli, mkmodel):
    """--no-pack has no second copy; --cpu, --kv and --act are the session's."""
    path = mkmodel("--type", "Q8_0")
    run = ["bench", path, "--prompt", 5, "--gen", 2, "--repeat", 1, "--json"]
    packed, mapped, plain = (json.loads(answer(cli(*run, *more))) for more in (
        [], ["--no-pack"], ["--kv", "f32", "--act", "f32", "--cpu", "ref"]))
    for found in (mapped, plain):
        assert not found["packed"] and found["memory"]["packed"] == 0
        cost = found["model"]
        assert cost["bytes_read_per_token"] == cost["bytes_weights_per_token"]
    assert packed["packed"] == (packed["kernels"] != "ref")  # tables with vectors pack Q8_0
    assert packed["packed"] == (packed["memory"]["packed"] >= packed["model"]["bytes"] * 0.9)
    assert (plain["kernels"], plain["kv"], plain["act"]) == ("ref", "f32", "f32")
    assert plain["memory"]["kv"] == 2 * packed["memory"]["kv"] > 0
    assert plain["prefill"]["ops_int8"] == 0 < plain["prefill"]["ops_fma"]
    for found in (packed, plain):
        assert found["threads"] == 1 and found["repeat"] == 1 and found["cpu"] and found["greta"]
        assert found["seconds_load"] > 0 and found["seconds_session"] > 0
        assert found["memory"]["resident"] > 0 and found["memory"]["buffers"] > 0
        assert found["n_ctx"] == 5


def test_table(cli, model):
    """The table has a line for each case, and says the kernels and the threads."""
    text = answer(cli("bench", model, *CASES[:-1], 1)).decode()
    for words in ("threads 1", "prefill 20 ", "decode 3 at 0 ", "decode 3 at 6, batch 3 ",
                  "GB/s before", "times one", "of int8 peak", "resident"):
        assert words in text, words
    assert "prefill" not in answer(cli("bench", model, "--prompt", 0, "--repeat", 1)).decode()


def test_a_device_has_no_share_of_this_machine(cli, model):  # noqa: F811
    """The probes are of the CPU: beside a device's work they would mislead."""
    arguments = ["bench", model, "--device", "reference", "--prompt", 5, "--gen", 2, "--repeat", 1]
    told = json.loads(answer(cli(*arguments, "--json")))
    assert told["device"] == "reference:0" and told["machine"] is None
    assert told["prefill"]["share_int8"] is None and told["prefill"]["ops_int8"] > 0
    assert told["decode"][0]["share"] is None and told["decode"][0]["read_before"] == []
    table = answer(cli(*arguments)).decode()
    assert "tokens/s" in table and "share" not in table and "peak" not in table


def test_probe(cli):
    found = json.loads(answer(cli("bench", "--probe", "--threads", 2, "--repeat", 2, "--json")))
    assert found["threads"] == 2 and set(found["machine"]) == {"read", "int8", "fma"}
    for probe in found["machine"].values():
        rate = probe["per_second"]
        assert probe["name"] and 0 < rate["min"] <= rate["median"] <= rate["max"]
    assert len(answer(cli("bench", "--probe", "--repeat", 1)).decode().splitlines()) == 4


@pytest.mark.parametrize("arguments, code, words", [
    ([], 2, "bench needs NAME|FILE, or --probe"),
    (["MODEL", "--probe"], 2, "--probe measures the machine and takes no model"),
    (["./absent.gguf"], 4, "absent.gguf"),
    (["MODEL", "--depth", "1,,2"], 2, '--depth "" is not a whole number from 0 to'),
    (["MODEL", "--depth", "0,x"], 2, '--depth "x" is not a whole number from 0 to'),
    (["MODEL", "--depth", "1,2,3,4,5,6,7,8,9"], 2, "--depth lists more than 8 cases"),
    (["MODEL", "--depth", "16777216", "--gen", "1"], 2, "reach beyond 16777216 positions"),
    (["MODEL", "--batch", "0"], 2, '--batch "0" is not a whole number from 1 to 1024'),
    (["MODEL", "--batch", "5", "--chunk", "4"], 2, "--batch 5 is more than --chunk 4"),
    (["MODEL", "--ctx", "11"], 2, "--ctx 11 is shorter than the longest case, 512"),
    (["MODEL", "--prompt", "0", "--gen", "0"], 2, "leave nothing to measure"),
    (["MODEL", "--repeat", "0"], 2, '--repeat "0" is not a whole number from 1 to 1000'),
    (["MODEL", "--trace", "all"], 2, '--trace "all" is not one of off|stats|full'),
])
def test_refused(cli, model, arguments, code, words):
    done = cli("bench", *[str(model) if a == "MODEL" else a for a in arguments])
    refused(done, code, words)


# ---- bench/ --------------------------------------------------------------------------------------

PEER = """#!{python}
import json, sys
if "--help" in sys.argv:
    print("  -m, --model\\n  -p, --n-prompt")
elif sys.argv[-4:-2] == ["-p", "4"] or "9" in sys.argv:
    print(json.dumps([{{"n_prompt": 4, "n_gen": 0, "avg_ts": 2.0}}]))
else:
    sys.exit("no such thing")
"""


@pytest.fixture
def peer(tmp_path):
    """A program that speaks like llama-bench: 2 tokens/s of prefill, no decode, no -d."""
    path = tmp_path / "llama-bench"
    path.write_text(PEER.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def script(name, *arguments):
    return subprocess.run([sys.executable, BENCH / name, "--greta", os.environ["GRETA_BIN"],
                           *map(str, arguments)], capture_output=True, text=True)


def test_compare_with_llama_bench(model, peer, tmp_path):
    """Rounds in turn, with probes between; what fails is said and spoils nothing."""
    out = tmp_path / "out.json"
    done = script("compare_llama_bench.py", "--llama-bench", f"peer={peer}", "--model", model,
                  "--threads", 1, "--rounds", 2, "--probes", 1, "--case", "pp4,tg2@d3", "--json",
                  out, "--lock", tmp_path / "lock")
    assert done.returncode == 0, done.stderr
    prefill, decode = json.loads(out.read_text())
    for result in (prefill, decode):
        assert [[run["engine"] for run in runs] for runs in result["rounds"]] == 2 * [
            ["greta", "peer"]]
        for one, two in result["rounds"]:
            assert one["after"] == two["before"] and set(two["after"]) == {"read", "int8", "fma"}
    runs = prefill["rounds"][0]
    assert runs[1]["rate"] == 2.0
    share = runs[1]["share"]["int8"] / runs[0]["share"]["int8"]
    mean = [(run["before"]["int8"] + run["after"]["int8"]) / 2 for run in runs]
    assert share == pytest.approx(2.0 / mean[1] / (runs[0]["rate"] / mean[0]))
    ratios = [one["rate"] / two["rate"] for one, two in prefill["rounds"]]
    is_summary(prefill["summary"]["peer"]["ratio"], ratios)
    assert decode["summary"]["peer"]["failed"] == "this llama-bench has no -d"
    assert decode["summary"]["greta"]["rate"]["median"] > 0
    assert "greta is" in done.stdout and "has no -d" in done.stdout


def test_scripts_refuse(model, tmp_path):
    done = script("compare_llama_bench.py", "--model", model, "--case", "xx4")
    assert done.returncode == 2 and "xx4 is not like pp512" in done.stderr
    done = script("compare_llama_bench.py", "--model", "absent.gguf", "--threads", 1, "--rounds", 1,
                  "--case", "tg1")
    assert done.returncode == 0 and "absent.gguf" in done.stdout
    done = script("goals.py", "--models", tmp_path, "--only", "135m-Q8_0.*traced", "--rounds", 1)
    assert done.returncode == 1 and "135m-Q8_0.gguf" in done.stderr
