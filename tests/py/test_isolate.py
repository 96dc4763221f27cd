"""`greta isolate` on the real model, through the command line, and its files against
docs/isolate.md.

The matrix of plants runs in tests/plants_tool.c, one process a prompt; what it found is counted
here.
"""
import csv
import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from volume import either

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = sorted((ROOT / "prompts").glob("*.txt"))
PAGE = (ROOT / "docs/isolate.md").read_text()
# Of the matrix; make check-long has all of it.
PLANTED = either(PROMPTS, PROMPTS[:1])
LAYERS = either(3, 1)
ONE_OF = either(1, 3)  # faults
# Numbers that scale a row by a factor close to 1: deep in a network they change no bit, or what
# another order of summation changes too. Everything else must be named wherever it is planted.
SUBTLE = ("-eps-", )


def isolate(code, *arguments):
    command = [os.environ["GRETA_BIN"], "isolate", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done.stderr + done.stdout[:2000]
    return done.stdout


def analysis(folder):
    return json.loads((folder / "analysis.json").read_text())


def decisive(prompt):
    return next(norm for norm in prompt["norms"] if norm["is_decisive"])


@pytest.fixture(scope="module")
def clean(smollm2, scratch):
    folder = scratch / "isolate-clean"
    return folder, isolate(0, "-m", smollm2, "--prompts", ROOT / "prompts", "--out", folder,
                           "--layers", "0,29")


# ---- The main job --------------------------------------------------------------------------------

def test_clean_model_is_aligned(clean):
    folder, text = clean
    names = [path.stem for path in PROMPTS]
    assert names == ["p0_short", "p4_sys", "p6_long"]
    assert text.startswith("prefill_last and decode0 agree bit for bit on " + ", ".join(names))
    for prompt in analysis(folder)["prompts"]:
        assert prompt["state"] == "EQUAL" and prompt["bucket"] == "NONE"
        coverage = prompt["coverage"]
        # embed, 21 stages in each of 30 layers, final norm, its codes, logits
        assert coverage == {"stages": 634, "equal": 634, "differ": 0, "unmeasured": 0}
        assert prompt["tracing_keeps_logits"] is True and prompt["canary"]["found"] is True
        assert prompt["sides"]["prefill_last"]["chunk_rows"] >= 2
        assert prompt["sides"]["decode0"]["chunk_rows"] == 1
    assert analysis(folder)["prompts"][2]["n_token"] >= 300


def test_traces_alone_give_the_same(clean):
    folder, _ = clean
    again = json.loads(isolate(0, "--from", folder, "--layers", "0,29", "--json", "--out",
                               folder / "again"))
    ran = analysis(folder)
    for prompt in ran["prompts"] + again["prompts"]:
        for member in ("tracing_keeps_logits", "n_token", "judged", "canaries"):
            del prompt[member]
    assert ran["prompts"] == again["prompts"]


def test_fault_is_isolated_with_its_source(smollm2, scratch):
    folder = scratch / "isolate-fault"
    text = isolate(1, "-m", smollm2, "-f", PROMPTS[0], "--prompt-id", "p0_short", "--out", folder,
                   "--fault", "ffn_norm-reads-previous-position", "--fault-layer", "7")
    [prompt] = analysis(folder)["prompts"]
    norm, last = decisive(prompt), prompt["n_token"] - 1
    assert (norm["state"], norm["bucket"], norm["layer"]) == ("CONFIRMED", "A_input_selection", 7)
    assert norm["wrong_sides"] == ["decode0"]
    assert (norm["source"]["stage"], norm["source"]["layer"]) == ("x_after_attn", 7)
    assert norm["source"]["position"] == last - 1
    assert text.splitlines()[0] == (
        f"p0_short: decode0 reads ffn_norm's input from x_after_attn of position {last - 1} (the "
        f"previous token): layer 7, position {last}; A_input_selection, CONFIRMED.")
    first = prompt["stages"][prompt["first_divergence"]]
    assert (first["stage"], first["layer"]) == ("ffn_norm", 7)
    assert all(stage["state"] == "equal" for stage in prompt["stages"][:prompt["first_divergence"]])
    # The plant is named by the echoed command, and nowhere else.
    for name in ("analysis.json", "analysis.tsv", "report.md"):
        lines = (folder / name).read_text().splitlines()
        assert all("greta isolate -m" in line for line in lines if "previous-position" in line)
    for trace in folder.glob("*.jsonl"):
        assert "fault" not in trace.read_text() and "previous" not in trace.read_text()


def test_e0_is_refused_not_bucketed(smollm2, scratch):
    folder = scratch / "isolate-e0"
    text = isolate(6, "-m", smollm2, "-f", PROMPTS[0], "--mode", "E0", "--out", folder)
    assert text.startswith("no verdict: ") and "NOT_COMPARABLE" in text.splitlines()[0]
    [prompt] = analysis(folder)["prompts"]
    assert [m["field"] for m in prompt["mismatch"]][:1] == ["position"]
    assert {"token", "prefix"} >= {m["field"] for m in prompt["mismatch"][1:]}
    assert not re.search(r"\b[A-Z]_[a-z_]+", text)


def test_truncate_agrees_too(smollm2, scratch):
    isolate(0, "-m", smollm2, "-f", PROMPTS[0], "--e1", "truncate", "--chunk", "6", "--out",
            scratch / "isolate-truncate")


def test_switches_of_the_reference_report(smollm2, scratch):
    """One run with GRETA_TRACE_RMSNORM, analysed afterwards: an E0 pair."""
    folder = scratch / "isolate-switches"
    folder.mkdir()
    variables = {"GRETA_TRACE_RMSNORM": "1", "GRETA_TRACE_RMSNORM_LAYERS": "0",
                 "GRETA_TRACE_RMSNORM_SAMPLE": "1024", "GRETA_TRACE_PROMPT_ID": "p0_short",
                 "GRETA_TRACE_RMSNORM_OUT": str(folder / "b3_42_rmsnorm_p0_short_E1.jsonl")}
    subprocess.run([os.environ["GRETA_BIN"], "run", "-m", smollm2, "-f", PROMPTS[0], "-n", "2"],
                   env=os.environ | variables, capture_output=True, check=True)
    found = json.loads(isolate(6, "--from", folder, "--out", folder, "--json"))
    [prompt] = found["prompts"]
    assert prompt["id"] == "p0_short" and prompt["state"] == "NOT_COMPARABLE"


# ---- The matrix ----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def matrix(smollm2, scratch):
    """One of ONE_OF faults on every planted prompt: rows of plants_tool, as dictionaries."""
    names = "prompt fault planted layer outcome state bucket differ phrase".split()
    program = Path(os.environ["GRETA_TOOLS"]) / "plants_tool"

    def run(path):
        folder = scratch / f"plants-{path.stem}"
        folder.mkdir()
        done = subprocess.run([program, smollm2, folder, str(LAYERS), str(ONE_OF), path],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [dict(zip(names, line.split("\t"))) for line in done.stdout.splitlines()]

    with ThreadPoolExecutor(2) as pool:
        # The longest first: it takes the most time.
        found = pool.map(run, sorted(PLANTED, key=lambda path: -path.stat().st_size))
        return [row for rows in found for row in rows]


def test_every_plant_is_named_on_every_prompt(matrix, greta):
    catalogue = [fault for fault in json.loads(greta("faults", "--json"))["faults"]
                 if fault["name"].startswith("ffn_norm-")]
    assert len({fault["cause"] for fault in catalogue}) == 4
    for cause in {fault["cause"] for fault in catalogue}:
        assert sum(fault["cause"] == cause for fault in catalogue) >= 4
    planted = catalogue[::ONE_OF]
    assert len({fault["cause"] for fault in planted}) == 4
    assert {row["fault"] for row in matrix} - {"-"} == {fault["name"] for fault in planted}
    apart = [row for row in matrix if row["outcome"] in ("no bit", "rounding")]
    for prompt in {path.stem for path in PLANTED}:
        for fault in planted:
            runs = [row for row in matrix
                    if row["prompt"] == prompt and row["fault"] == fault["name"]]
            named = {row["layer"] for row in runs if row["outcome"] == "named"}
            assert len(named) >= LAYERS, (prompt, fault["name"], runs)
            for row in runs:
                assert row["outcome"] != "missed", row
                assert row["planted"] == fault["cause"], row
                if row["outcome"] == "named":
                    assert (row["bucket"], row["state"]) == (fault["cause"], "CONFIRMED"), row
    print(f"{len(matrix)} runs; apart: {len(apart)}")
    for row in apart:
        print("\t".join(row[key] for key in ("prompt", "fault", "layer", "outcome", "phrase")))
        assert any(word in row["fault"] for word in SUBTLE), row


def test_the_clean_run_of_the_matrix_has_no_finding(matrix):
    clean = [row for row in matrix if row["outcome"] == "clean"]
    assert len(clean) == len(PLANTED)
    for row in clean:
        assert (row["state"], row["bucket"], row["differ"]) == ("EQUAL", "NONE", "0"), row


# ---- The files against their page ----------------------------------------------------------------

@pytest.fixture(scope="module")
def tiny(mkmodel, scratch):
    """Folders of a tiny model: aligned, one for each bucket, E0."""
    model, folders = mkmodel(), {}
    base = ("-m", model, "-p", "Hello, how are you today?", "--prompt-id", "hello|there")
    for name, code, more in (
            ("clean", 0, ()),
            ("a", 1, ("--fault", "ffn_norm-reads-layer-before")),
            ("b", 1, ("--fault", "ffn_norm-eps-plus-1e-3-hidden")),
            ("c", 1, ("--fault", "ffn_norm-weights-other-layer")),
            ("d", 1, ("--fault", "ffn_norm-no-root")),
            ("e0", 6, ("--mode", "E0"))):
        folders[name] = scratch / f"isolate-tiny-{name}"
        isolate(code, *base, "--out", folders[name], *more)
    return folders


def members_of(value):
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for inside in value:
            yield from members_of(inside)


def test_page_names_every_member(tiny):
    used = {name for folder in tiny.values() for name in members_of(analysis(folder))}
    section = PAGE.split("## analysis.json")[1].split("\n## ")[0]
    documented = set(re.findall(r"`(\w+)`", section))
    values = {"from", "E0", "aligned", "fault", "mismatch", "incomplete", "unmeasured", "tracing",
              "canary", "eps", "count"}
    assert used <= documented, used - documented
    assert documented - used <= values, documented - used - values


def test_page_names_every_column(tiny):
    lines = (tiny["a"] / "analysis.tsv").read_text().split("\n")
    tables = [lines[i + 1].split("\t") for i, line in enumerate(lines) if line.startswith("#")]
    section = PAGE.split("## analysis.tsv")[1].split("\n## ")[0]
    documented = [re.findall(r"`(\w+)`", row)
                  for row in re.findall(r"^\| (`.*?) \|", section, re.M)]
    assert [name for row in documented for name in row] == tables[0] + tables[1]
    assert tables[0] == ("prompt layer input_mae weight_mae output_mae eps_match sumsq_delta "
                         "inv_rms_delta input_ptr_match input_offset_match weight_hash_match "
                         "bucket").split()


def test_what_a_model_has_not_is_not_unmeasured(mkmodel, scratch):
    """OLMo 2 normalises what attention and the network write: there is no ffn_norm to be judged."""
    folder = scratch / "isolate-olmo2"
    text = isolate(0, "-m", mkmodel("--arch", "olmo2"), "-p", "Hello, how are you today?", "--out",
                   folder)
    [prompt] = analysis(folder)["prompts"]
    assert prompt["coverage"]["unmeasured"] == 0 and prompt["norms"] == []
    written = text + (folder / "report.md").read_text() + (folder / "analysis.tsv").read_text()
    assert "UNMEASURED" not in written and "not decided" not in written


def number(cell):
    return None if cell == "-" else {"true": True, "false": False}.get(cell, cell)


@pytest.mark.parametrize("name", ["clean", "a", "b", "c", "d", "e0"])
def test_tsv_and_json_agree(tiny, name):
    found = analysis(tiny[name])
    blocks = (tiny[name] / "analysis.tsv").read_text().split("\n\n")
    norms, stages = [list(csv.DictReader(block.splitlines()[1:], delimiter="\t",
                                         quoting=csv.QUOTE_NONE)) for block in blocks]
    chosen = [norm for norm in found["prompts"][0]["norms"] if norm["is_chosen"]]
    assert len(norms) == len(chosen) == 1
    for row, norm in zip(norms, chosen):
        assert row["bucket"] == norm["bucket"] and int(row["layer"]) == norm["layer"]
        for column, value in norm["numbers"].items():
            cell = number(row[column])
            if isinstance(value, float):
                assert abs(float(cell) - value) <= 0.006 * abs(value), column
            else:
                assert cell == value, column
    assert len(stages) == len(found["prompts"][0]["stages"])
    for index, (row, stage) in enumerate(zip(stages, found["prompts"][0]["stages"])):
        assert (row["stage"], row["state"]) == (stage["stage"], stage["state"])
        assert (row["first_divergence"] == "first") == (
            index == found["prompts"][0]["first_divergence"])


@pytest.mark.parametrize("name", ["clean", "a", "b", "c", "d", "e0"])
def test_report_says_the_same_in_both_languages(tiny, name):
    """The facts (numbers, names, buckets) of each Spanish section are those of the English one."""
    report = (tiny[name] / "report.md").read_text()
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", report, re.M | re.S))
    assert "hello|there" in report
    pairs = {"Resumen Ejecutivo (ES)": "Executive Summary (EN)", "Metodología (ES)": "Method (EN)",
             "Resultados (ES)": "Results (EN)", "Conclusión (ES)": "Conclusion (EN)",
             "Próximo paso (ES)": "Next step (EN)"}
    for spanish, english in pairs.items():
        facts = [re.findall(r"[\w.+-]*\d[\w.+-]*|[A-Z]_\w+|[A-Z_]{5,}|ffn_norm|decode0|x_after_\w+",
                            sections[title]) for title in (spanish, english)]
        es, en = ([fact.rstrip(".") for fact in side] for side in facts)
        assert es == en, (spanish, es, en)
        assert sections[spanish] != sections[english]
    bucket = analysis(tiny[name])["prompts"][0]["bucket"]
    for title in ("Resumen Ejecutivo (ES)", "Executive Summary (EN)", "Conclusión (ES)"):
        assert bucket == "NONE" or bucket in sections[title]
    answer = analysis(tiny[name])["headline"]
    assert answer["en"] in sections["Conclusion (EN)"]
    assert answer["es"] in sections["Conclusión (ES)"]
