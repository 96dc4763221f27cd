"""Traces against docs/trace-format.md: the page's own example, the sample trace that uses every
member (tests/trace_sample.h), and the trace of a real run, each read by a reader written from
the page. What the sample holds is computed here once more."""
import re
import struct
import subprocess
import os
from pathlib import Path

import numpy as np
import pytest

import greta_trace as gt

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/trace-format.md").read_text()
WIDTH, RECORDS = 96, 24


@pytest.fixture(scope="module")
def sample(scratch):
    path = scratch / "sample.jsonl"
    subprocess.run([Path(os.environ["GRETA_TOOLS"]) / "trace_tool", path], check=True)
    return path


def test_example_of_the_page():
    text = re.search(r"```json\n(.*?\n)```", PAGE, re.S).group(1).encode()
    trace = gt.Reader(b"").read(text)
    assert trace.status == "complete" and trace.header["process"] == 4711
    [tensor] = trace.records[0]["weight"]
    ones = np.ones(64, "<f4")
    assert (tensor["hash"], tensor["bag"]) == gt.content_hash("F32", ones)
    for place in range(0, len(text) - 1, 7):
        damaged = bytearray(text)
        damaged[place] ^= 2
        with pytest.raises(gt.TraceError):
            gt.Reader(b"").read(bytes(damaged))


def members_of(value):
    """All member names in a parsed line."""
    if isinstance(value, dict):
        yield from value
        value = value.values()
    if isinstance(value, list) or not isinstance(value, (str, int, float)):
        for inside in value:
            yield from members_of(inside)


def test_page_names_every_member_and_stage(sample):
    """What is written is documented, and what is documented is written."""
    used = set()
    for line in sample.read_bytes().splitlines():
        used.update(members_of(gt.parse(line)))
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.M)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert used == documented | {"sum"}
    read = {*gt.HEADER, *gt.NORM, *gt.TENSOR, *gt.FOOTER, *gt.KINDS["row"]}
    assert read | {"buffers", "in", "weight", "out", "blob"} == documented

    listed = re.findall(r'X\(\w+, "(\w+)", (\d)\)', (ROOT / "src/base/stage.h").read_text())
    page = re.search(r"^`tokens embed .*? logits`", PAGE, re.S | re.M).group(0)
    assert re.findall(r"\w+", page) == [name for name, _ in listed]
    assert sorted(gt.LAYER_STAGES) == sorted(name for name, layer in listed if layer == "1")


def sample_float(k, i):
    hard = [0.0, -0.0, 1e-45, -1e-40, 3.4028235e38, 0.1, 16777216.0]
    return hard[(i + k) % 7] if i < 7 else None


def test_sample(sample):
    """Every kind of record and tensor comes back with the values that went in."""
    trace = gt.read(sample)
    header = trace.header
    assert trace.status == "complete" and len(trace.records) == RECORDS
    assert header["model"] == 'a "quoted\\" name\twith \x01, \u00e9, \U0001f642'
    assert header["model_hash"] == 0xFEDCBA9876543210 and header["mxcsr"] == 0x1F80
    assert header["buffers"] == {"x0": (0x7F12345678AB, 4096), "kv.k.1": (2**64 - 1, 1 << 20)}
    for k, record in enumerate(trace.records):
        kind = ("row", "row", "index", "weight")[k % 4]
        assert record["n"] == k and record["kind"] == kind
        if kind == "row":
            assert record["position"] == k and record["token"] == 100 + k
            assert record["phase"] == ("prefill" if k < RECORDS / 2 else "decode")
        [check_norm, check_attention, check_index, check_weight][k % 4](trace, record, k)


def check_norm(trace, record, k):
    assert (record["stage"], record["layer"]) == ("ffn_norm", k % 3)
    assert np.float32(record["eps"]) == np.float32(1e-5) and record["count"] == WIDTH
    [x], [weight], [y] = record["in"], record["weight"], record["out"]
    assert (x["stage"], x["buffer"], x["row"], x["offset"]) == ("x_after_attn", "x0", k, 384 * k)
    values = trace.values(x)
    for i in range(7):
        assert values[i].tobytes() == np.float32(sample_float(k, i)).tobytes()
    rest = np.sin(np.arange(k * WIDTH + 7, (k + 1) * WIDTH)) * (1 + k)
    assert np.allclose(values[7:], rest, rtol=1e-5, atol=1e-6)
    assert weight["tensor"] == f"blk.{k % 3}.ffn_norm.weight" and weight["first_row"] == 7
    assert trace.values(weight).tolist() == [np.float32(1) / np.float32(i + 1) for i in range(5)]
    output = trace.values(y)
    finite = output[np.isfinite(output)]
    assert y["nonfinite"] == WIDTH - len(finite)
    assert y["max"] == finite.max() and y["min"] == min(finite.min(), 0)


def check_attention(trace, record, k):
    half, unkept, token = record["in"]
    assert (half["slot"], half["generation"], half["type"]) == (k, k + 1, "F16")
    expected = (np.arange(WIDTH) * 683 + k).astype(np.uint16)
    if k % 5 == 4:
        expected[3] = 0x7C01
    assert (trace.values(half).view(np.uint16) == expected).all()
    assert unkept["kept"] == 0 and unkept["hash"] != 0
    assert trace.values(token).tolist() == [100 + k]
    whole, part = record["out"]
    codes = (np.arange(WIDTH) * 7 + k).astype(np.uint8).view(np.int8)
    for tensor, kept in ((whole, WIDTH), (part, 64)):
        assert tensor["kept"] == kept
        got_codes, got_scales = trace.values(tensor)
        assert (got_codes == codes[:kept]).all()
        assert np.allclose(got_scales, 0.01 * (np.arange(kept // 32) + 1 + k), rtol=1e-6)


def check_index(trace, record, k):
    [out] = record["out"]
    rows = trace.values(out)
    assert record["rows"] == len(rows) == 6
    for i, (ordered, bag) in enumerate(rows.tolist()):
        assert (ordered, bag) == ((i + k) % 16 << 60 | 5, 2**64 - 1 - i)


def check_weight(trace, record, k):
    [weight] = record["weight"]
    assert weight["tensor"] == "output_norm.weight" and record["stage"] == "final_norm"
    whole = (np.float32(1) / np.arange(1, WIDTH + 1, dtype=np.float32)).astype("<f4")
    assert (weight["hash"], weight["bag"]) == gt.content_hash("F32", whole)


def test_damage_is_seen(sample):
    """Any bit of either file; a lost line; a torn tail is told from damage."""
    text, blob = sample.read_bytes(), Path(f"{sample}.blob").read_bytes()
    for place in range(0, len(text) - 1, 61):
        damaged = bytearray(text)
        damaged[place] ^= 1
        with pytest.raises(gt.TraceError):
            gt.Reader(blob).read(bytes(damaged))
    for place in range(0, len(blob), 61):
        damaged = bytearray(blob)
        damaged[place] ^= 1
        with pytest.raises(gt.TraceError, match="blob"):
            gt.Reader(bytes(damaged)).read(text)
    lines = text.splitlines(keepends=True)
    with pytest.raises(gt.TraceError, match="line 5"):
        gt.Reader(blob).read(b"".join(lines[:4] + lines[5:]))
    for cut in range(len(lines[0]), len(text), 997):
        trace = gt.Reader(blob).read(text[:cut])
        assert trace.status == "torn" and len(trace.records) == text[:cut].count(b"\n") - 1
    with pytest.raises(gt.TraceError):
        gt.Reader(blob[:-64]).read(text)
    assert gt.Reader(blob[:-64]).read(b"".join(lines[:-1])).status == "torn"


def test_program_reads_what_a_stranger_writes(sample, scratch):
    """The page is enough to write a trace, too: the sample's body under a header of our own is the
    same trace with the same body, so the program finds nothing to compare."""
    lines = sample.read_bytes().splitlines()
    copy = scratch / "stranger.jsonl"

    def seal(line, seed=0):
        content = line[: line.rindex(b',"sum":"')]
        total = gt.xxhash.xxh64_hexdigest(content, seed)
        return content + b',"sum":"' + total.encode() + b'"}\n'

    header = seal(lines[0].replace(b'"process":', b'"by_a_stranger":[1],"process":'))
    body = b"\n".join(lines[1:-1]) + b"\n"
    digest = gt.xxhash.xxh64_hexdigest(header + body).encode()
    footer = re.sub(rb'"digest":"\w+"', b'"digest":"' + digest + b'"', lines[-1])
    last = int(lines[-2][-18:-2], 16)
    copy.write_bytes(header + body + seal(footer, last))
    Path(f"{copy}.blob").write_bytes(Path(f"{sample}.blob").read_bytes())
    assert gt.read(copy).status == "complete"
    done = subprocess.run([os.environ["GRETA_BIN"], "compare", sample, copy], capture_output=True,
                          text=True)
    assert done.returncode == 6, done.stderr
    assert "nothing was compared" in done.stdout and "damaged" not in done.stdout


def resealed(header, body, footer):
    """The lines with checksums and digest made right again, as a writer that is wrong would."""
    def seal(line, seed):
        content = line[: line.rindex(b',"sum":"')]
        total = gt.xxhash.xxh64_hexdigest(content, seed)
        return content + b',"sum":"' + total.encode() + b'"}\n', int(total, 16)

    out, seed = seal(header, 0)[0], 0
    for line in body:
        line, seed = seal(line, seed)
        out += line
    digest = gt.xxhash.xxh64_hexdigest(out).encode()
    return out + seal(re.sub(rb'"digest":"\w+"', b'"digest":"' + digest + b'"', footer), seed)[0]


def test_an_index_that_contradicts_a_row_is_refused(mkmodel, scratch):
    """Rows of the last token of each pass, and the hashes of all rows that were stored: one changed
    hash of a row whose values were not kept is not to be had from the line alone."""
    path, model = scratch / "contradicts.jsonl", mkmodel()
    subprocess.run([os.environ["GRETA_BIN"], "trace", "-m", model, "--tokens", "5,9,30,7,12,40",
                    "-n", "1", "--sample", "8", "--positions", "last,cache", "-o", path],
                   check=True, capture_output=True)
    lines = path.read_bytes().splitlines()
    same = scratch / "same.jsonl"
    Path(f"{same}.blob").write_bytes(Path(f"{path}.blob").read_bytes())

    def audit():
        return subprocess.run([os.environ["GRETA_BIN"], "audit", "-m", model, same],
                              capture_output=True, text=True)

    same.write_bytes(resealed(lines[0], lines[1:-1], lines[-1]))
    assert same.read_bytes() == path.read_bytes() and audit().returncode == 6
    at, line = next((i, line) for i, line in enumerate(lines) if b'"kind":"row"' in line and
                    b'"stage":"v_cache","layer":1' in line and b'"phase":"decode"' in line)
    start = line.rindex(b'"hash":"') + 8
    digit = b"1" if line[start:start + 1] != b"1" else b"2"
    lines[at] = line[:start] + digit + line[start + 1:]
    same.write_bytes(resealed(lines[0], lines[1:-1], lines[-1]))
    done = audit()
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert "the hash of v_cache, layer 1, position 6 is not that of its own record, in line " \
        f"{at + 1}" in done.stderr
    with pytest.raises(gt.TraceError, match="an index"):
        gt.read(same)
    done = subprocess.run([os.environ["GRETA_BIN"], "compare", path, same], capture_output=True,
                          text=True)
    assert done.returncode == 3


# ---- A real run ----------------------------------------------------------------------------------

def test_trace_of_a_run(mkmodel, scratch):
    """The switches of the reference report on a small model: each norm's record alone allows its
    output to be computed again; keys and edges are what the page says."""
    path = scratch / "norms.jsonl"
    ids = [5, 9, 30, 7, 12, 40]
    env = {**os.environ, "GRETA_TRACE_RMSNORM": "1", "GRETA_TRACE_RMSNORM_OUT": str(path),
           "GRETA_TRACE_RMSNORM_LAYERS": "all", "GRETA_TRACE_RMSNORM_SAMPLE": "all",
           "GRETA_TRACE_PROMPT_ID": "p0_short"}
    subprocess.run([os.environ["GRETA_BIN"], "run", "-m", mkmodel(), "--tokens",
                    ",".join(map(str, ids)), "-n", "2", "--chunk", "4"], check=True, env=env,
                   capture_output=True)
    trace = gt.read(path)
    assert trace.status == "complete" and trace.header["prompt_id"] == "p0_short"
    rows = [r for r in trace.records if r["kind"] == "row"]
    stages = {r["stage"] for r in rows}
    assert stages == {"attn_norm", "ffn_norm", "final_norm"}
    assert {r["layer"] for r in rows} == {-1, *range(trace.header["n_layer"])}
    file = {(r["stage"], r["layer"]): r["weight"][0]["hash"]
            for r in trace.records if r["kind"] == "weight"}
    index = {(r["stage"], r["layer"], r["pass"]): r for r in trace.records if r["kind"] == "index"}
    for r in rows:
        x, w = (trace.values(r[part][0]).astype(np.float64) for part in ("in", "weight"))
        y = trace.values(r["out"][0])
        inv_rms = 1 / np.sqrt((x @ x) / r["count"] + r["eps"])
        assert np.allclose(y, x * inv_rms * w, rtol=2e-6, atol=1e-9)
        assert np.isclose(r["inv_rms"], inv_rms, rtol=1e-6)
        assert np.isclose(r["in"][0]["sumsq"], x @ x, rtol=1e-6)
        assert (r["in"][0]["min"], r["in"][0]["max"]) == (x.min(), x.max())
        assert r["weight"][0]["hash"] == file[r["stage"], r["layer"]]
        if r["position"] < len(ids):
            assert r["token"] == ids[r["position"]]
            assert r["prefix"] == gt.prefix_hash(ids[: r["position"] + 1])
        hashes = index.get((r["stage"], r["layer"], r["pass"]))
        if hashes:
            at = r["position"] - hashes["first_position"]
            assert trace.values(hashes["out"][0])[at, 0] == r["out"][0]["hash"]
    assert len(index) > 0
    assert {r["phase"] for r in rows} == {"prefill", "decode"}
