"""greta score: a small exam, its figures computed once more from its lines, and going on after a
stop. What the referee should answer is asked at the end, of the bugs that the exam found it wrong
about; everywhere else, that the table says what the lines say.
"""
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import engine
import pytest
from command import answer, cli, refused  # noqa: F401 (fixtures)
from test_oracle import random_ids
from volume import either

METHODS = "first cosine growth allclose report".split()


@pytest.fixture(scope="module")
def exam(mkmodel, scratch, greta):
    """The command, its folder, and the table that it printed as JSON."""
    model, folder = mkmodel("--type", "Q8_0", "--layers", 2), scratch / "exam"
    command = ["score", "-m", model, "--one-of", either(8, 75), "--seed", 3, "--jobs", 2,
               "--out", folder, "--json"]
    return command, folder, json.loads(greta(*command))


def lines_of(folder):
    lines = [json.loads(line) for path in sorted(folder.glob("cases*.jsonl"))
             for line in path.read_text().splitlines()]
    return sorted(lines, key=lambda line: line["case"])


# ---- The table, computed once more ---------------------------------------------------------------

def is_planted(line):
    return line["sort"] in ("fault", "stack", "real")


def is_on_cpu(line):
    return line["mode"] != "device" and line["sort"] != "real"


SETS = {
    "device": lambda line: line["mode"] == "device",
    "real": lambda line: line["mode"] != "device" and line["sort"] == "real",
    "late": lambda line: is_on_cpu(line) and line["planted"]["is_late"],
    "planted": lambda line: is_on_cpu(line) and not line["planted"]["is_late"],
    "tune": lambda line: SETS["planted"](line) and line["half"] == 0,
    "held": lambda line: SETS["planted"](line) and line["half"] == 1,
}


def told(line):
    """The cause that the referee names; a pair refused for other tokens names them."""
    referee = line["referee"]
    if line["planted"]["cause"] == "T_tokens" and referee["state"] == "NOT_COMPARABLE":
        return "T_tokens"
    return referee["bucket"] if referee["bucket"][1:2] == "_" else "NONE"


def right_cause(line):
    expected, found = line["planted"]["cause"], told(line)
    return found == expected or (expected, found) == ("P_precision_policy", "X_nonfinite_origin")


def alarm(line):
    is_policy = line["planted"]["cause"] == told(line) == "P_precision_policy"
    return line["referee"]["verdict"] == "fault" or is_planted(line) and (
        is_policy or told(line) == "T_tokens")


def macro_f1(pairs):
    causes = {cause for pair in pairs for cause in pair} - {"NONE"}
    each = []
    for cause in causes:
        hits = sum(a == b == cause for a, b in pairs)
        precision = hits / max(1, sum(b == cause for _, b in pairs))
        recall = hits / max(1, sum(a == cause for a, _ in pairs))
        each.append(2 * precision * recall / (precision + recall) if hits else 0)
    return sum(each) / len(each)


def share(part, whole):
    return part / whole if whole else None


def places(lines, ranks):
    """top1, top3, mean rank and EXAM over the lines that have a rank."""
    placed = [(rank, line["places"]) for rank, line in zip(ranks, lines) if rank]
    n = len(placed)
    return {"placed": n, "top1": share(sum(r == 1 for r, _ in placed), n),
            "top3": share(sum(r <= 3 for r, _ in placed), n),
            "mean_rank": share(sum(r for r, _ in placed), n),
            "exam": share(sum(r / p for r, p in placed), n)}


def expected_table(lines):
    counted = [line for line in lines if not line["refused"]]
    faults = [line for line in counted if is_planted(line) and line["differs"]]
    quiet = [line for line in counted if not is_planted(line)]
    right = [line for line in faults if right_cause(line)
             and (line["referee"]["rank"] == 1 or line["planted"]["cause"] == "T_tokens")]
    confirmed = [line for line in faults if line["referee"]["state"] == "CONFIRMED"]
    sure = sum(line in confirmed for line in right)
    pairs = [(line["planted"]["cause"],
              line["planted"]["cause"] if right_cause(line) else told(line)) for line in faults]
    ranks = [line["referee"]["rank"] for line in faults]
    exact = sum(line["referee"]["rank"] == 1 and line["referee"]["position"] == line["position"]
                for line in faults)
    referee = {
        "faults": len(faults), "detected": sum(map(alarm, faults)),
        "recall": share(sum(map(alarm, faults)), len(faults)),
        "quiet": len(quiet), "false_alarms": sum(map(alarm, quiet)),
        "quiet_differing": sum(line["differs"] for line in quiet),
        "false_alarms_differing": sum(line["differs"] and alarm(line) for line in quiet),
        "false_alarm_limit": None if any(map(alarm, quiet)) else share(3, len(quiet)),
        **places(faults, ranks),
        "exact": share(exact, sum(rank is not None for rank in ranks)),
        "cause_right": share(sum(map(right_cause, faults)), len(faults)),
        "macro_f1": macro_f1(pairs) if pairs else None}
    methods = {}
    for name in METHODS:
        said = [line["methods"][name] for line in faults]
        rest = [line["methods"][name]["alarm"] for line in quiet]
        methods[name] = {
            "detected": sum(one["alarm"] for one in said), "false_alarms": sum(rest),
            "recall": share(sum(one["alarm"] for one in said), len(faults)),
            **places(faults, [one["rank"] for one in said])}
    return {"cases": len(lines), "refused": len(lines) - len(counted),
            "equal": sum(is_planted(line) and not line["differs"] for line in counted),
            "confirmed_among_right": share(sure, len(right)),
            "right_among_confirmed": share(sure, len(confirmed)),
            "wrong_and_confirmed": len(confirmed) - sure,
            "seconds": math.fsum(line["seconds"] for line in lines),
            "bytes": sum(line["bytes"] for line in lines),
            "referee": referee, "methods": methods}


def same(found, expected, where=""):
    for key, value in expected.items():
        at = f"{where}.{key}"
        if isinstance(value, dict):
            same(found[key], value, at)
        elif isinstance(value, float):
            assert found[key] == pytest.approx(value, rel=1e-12), at
        else:
            assert found[key] == value, at


def test_the_table_is_that_of_the_lines(exam):
    _, folder, table = exam
    lines = lines_of(folder)
    assert len({line["case"] for line in lines}) == len(lines) >= 20
    for name, is_in in SETS.items():
        same(table[name], expected_table(list(filter(is_in, lines))), name)
    most = [name for name in SETS if name != "device"]
    wanted = either(most, ["planted", "tune", "held", "real"])
    assert min(table[name]["cases"] for name in wanted) > 0


def test_the_table_of_answers_that_were_drawn(exam, greta, tmp_path):
    """The same lines with other answers, right and wrong ones: every figure moves."""
    pick, lines = random.Random(5), lines_of(exam[1])
    causes = sorted({line["planted"]["cause"] for line in lines} | {"NONE", "INCONCLUSIVE"})
    with open(tmp_path / "cases.jsonl", "w") as out:
        for i in range(8):
            for line in lines:
                line = json.loads(json.dumps(line)) | {"case": f"{line['case']}/{i}"}
                line["half"], line["differs"] = pick.randrange(2), pick.random() < 0.9
                line["planted"]["is_late"] = pick.random() < 0.2
                line["mode"] = "device" if i == 7 else line["mode"]
                line["referee"] |= {
                    "verdict": pick.choice(["fault", "fault", "aligned", "no verdict"]),
                    "state": pick.choice(["CONFIRMED", "SUSPECTED", "NOT_COMPARABLE", "EQUAL"]),
                    "bucket": pick.choice([*causes, line["planted"]["cause"]]),
                    "rank": pick.choice([None, 1, 1, 2, 3, 4, 17]),
                    "position": pick.choice([line["position"], 0])}
                for one in line["methods"].values():
                    one |= {"alarm": pick.random() < 0.5, "rank": pick.choice([None, 1, 2, 3, 9])}
                out.write(json.dumps(line) + "\n")
    table = json.loads(greta("score", "--table", "--json", "--out", tmp_path))
    lines = lines_of(tmp_path)
    for name, is_in in SETS.items():
        same(table[name], expected_table(list(filter(is_in, lines))), name)
    assert 0 < table["planted"]["wrong_and_confirmed"]
    assert 0 < table["planted"]["referee"]["exact"] < 1


def test_groups_are_those_of_the_lines(exam):
    _, folder, table = exam
    lines = [line for line in lines_of(folder) if not line["refused"]]
    benign = table["groups"]["variants"]
    for name in {line["planted"]["variant"] for line in lines} - {""}:
        of = [line for line in lines if line["planted"]["variant"] == name]
        assert benign[name]["quiet_differing"] == sum(line["differs"] for line in of), name
        assert benign[name]["false_alarms"] == sum(map(alarm, of)), name
    for name, group in table["groups"]["real"].items():
        of = [line for line in lines if line["planted"]["order"] == name and line["differs"]]
        right = [line for line in of if alarm(line) and line["referee"]["rank"] == 1
                 and right_cause(line)]
        assert (group["faults"], group["cause_right"]) == (len(of), len(right)), name
    assert sum(group["cases"] for group in table["groups"]["models"].values()) == len(
        lines_of(folder))


def test_what_fell_short_is_listed(exam):
    _, folder, table = exam
    listed = {miss["case"]: miss["miss"] for miss in table["misses"]}
    for line in lines_of(folder):
        if line["refused"] or is_planted(line) and not line["differs"]:
            assert line["case"] not in listed
        elif is_planted(line) and not alarm(line):
            assert listed[line["case"]] == "not detected"
        elif not is_planted(line) and alarm(line):
            assert listed[line["case"]] == "false alarm"


def test_every_mode_and_sort_is_there(exam):
    _, folder, _ = exam
    lines = lines_of(folder)
    assert {line["mode"] for line in lines} == {"fresh", "warm", "engine", "batch", "reuse"}
    assert {line["sort"] for line in lines} >= {"fault", "outside", "benign", "clean", "real"}
    for line in lines:
        assert line["sort"] not in ("outside", "clean") or not line["differs"], line
        if is_planted(line) and line["differs"]:
            found = line["methods"]["allclose"]["rank"]
            assert found is None or 1 <= found <= line["places"]
    assert sum(line["sort"] == "fault" and line["differs"] for line in lines) >= 8


# ---- Going on ------------------------------------------------------------------------------------

def without_cost(lines):
    return [{key: line[key] for key in line if key != "seconds"} for line in lines]


def test_a_stopped_exam_goes_on(exam, greta):
    """A quarter of a process's lines lost and one torn: only these cases are sat again, with the
    same answers."""
    command, folder, _ = exam
    before = lines_of(folder)
    kept = folder / "cases-1.jsonl"
    text = kept.read_bytes()
    cut = text[:len(text) * 3 // 4]
    kept.write_bytes(cut)
    assert not cut.endswith(b"\n")
    greta(*command)
    after = lines_of(folder)
    assert without_cost(after) == without_cost(before)
    whole = cut[:cut.rfind(b"\n") + 1]
    assert kept.read_bytes().startswith(whole)  # these were not sat again
    # Nothing is left to do, and other processes than those that wrote them find the lines.
    greta(*command[:-5], "--out", folder, "--json", "--jobs", 1)
    assert lines_of(folder) == after
    assert not list(folder.glob("traces*"))


def test_damage_is_refused(exam, cli, tmp_path):  # noqa: F811
    _, folder, _ = exam
    lines = (folder / "cases-0.jsonl").read_text().splitlines(keepends=True)
    for i, damaged in enumerate((lines[0][:-9] + "\n", "{}\n", '{"case": 1, "case": 2}\n')):
        (tmp_path / f"cases{i}.jsonl").write_text(lines[0] + damaged + lines[1])
        refused(cli("score", "--table", "--out", tmp_path), 3, "line 2: is no line of an exam")
        (tmp_path / f"cases{i}.jsonl").unlink()
    refused(cli("score", "--table", "--out", tmp_path), 3, "has no case of an exam")


@pytest.mark.parametrize("arguments, code, words", [
    ([], 2, "no model is given (--models)"),
    (["-m", "./absent.gguf"], 4, "the exam stopped"),
    (["-m", "MODEL", "--modes", "fresh,cold"], 2, "the exam stopped"),
    (["-m", "MODEL", "--sorts", "fault,feigned"], 2, "the exam stopped"),
    (["-m", "MODEL", "--jobs", "0"], 2, '--jobs "0" is not a whole number from 1 to 64'),
    (["-m", "MODEL", "--prompts", "EMPTY"], 3, "the exam stopped"),
])
def test_refused(cli, mkmodel, tmp_path, arguments, code, words):  # noqa: F811
    given = {"MODEL": str(mkmodel()), "EMPTY": str(tmp_path)}
    done = cli("score", *[given.get(word, word) for word in arguments], "--out", tmp_path / "x")
    assert done.returncode == code and words in done.stderr.decode(), done.stderr


def test_table_as_text(exam, cli):  # noqa: F811
    _, folder, table = exam
    text = answer(cli("score", "--table", "--out", folder)).decode()
    for name in ["greta", *METHODS]:
        assert f"\n{name} " in text
    assert f"\nplanted, the held half: {table['held']['cases']} cases" in text
    assert f"\nbugs that happened: {table['real']['cases']} cases" in text
    assert f"what fell short: {len(table['misses'])}" in text


def test_what_the_readme_shows_is_written_from_the_lines(exam, tmp_path):
    _, folder, table = exam
    root = Path(__file__).resolve().parents[2]
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text((root / "README.md").read_text())
    subprocess.run([sys.executable, root / "tools/score_readme.py", os.environ["GRETA_BIN"], folder,
                    tmp_path], check=True)
    readme, page = ((tmp_path / name).read_text() for name in ("README.md", "docs/score.md"))
    of = table["planted"]["referee"]
    for text in (readme, page):
        assert (f"| greta | {100 * of['recall']:.2f} % | {of['false_alarms']} of {of['quiet']} | "
                f"{of['false_alarms_differing']} of {of['quiet_differing']} |") in text
    outside = (root / "README.md").read_text()
    begin, end = outside.index("<!-- score: begin"), outside.index("<!-- score: end -->")
    assert readme.startswith(outside[:begin]) and readme.endswith(outside[end:])
    for name, group in table["groups"]["variants"].items():
        assert f"| {name} | {group['quiet_differing']} |" in page
    assert f"## What fell short: {len(table['misses'])}\n" in page


# ---- What the exam has found ---------------------------------------------------------------------

def answers(greta, model, folder, *flags):
    greta("score", "-m", model, "--seed", 3, "--out", folder, *flags)
    return [line for line in lines_of(folder) if not line["refused"]]


def test_another_engine_is_no_fault(greta, mkmodel, tmp_path):
    """Its traces lie under the model's name; ours are recorded for the same tokens."""
    model = mkmodel("--type", "Q8_0", "--layers", 2)
    place = tmp_path / "foreign" / model.name.removesuffix(".gguf")
    place.mkdir(parents=True)
    ids = random_ids(9, 300)
    greta("trace", "-m", model, "--tokens", ",".join(map(str, ids)), "-o", tmp_path / "o.jsonl",
          "-n", 0, "--act", "f32")
    header = json.loads((tmp_path / "o.jsonl").read_text().splitlines()[0])
    engine.Engine(model, ids, "f32", "f16").write(place / "a.jsonl", {**header, "stages": "all"})
    (place / "b.jsonl").write_text("{}\n")  # no trace: told as such, and not counted
    greta("score", "-m", model, "--modes", "foreign", "--foreign", tmp_path / "foreign", "--out",
          tmp_path / "exam")
    line, refused_line = lines_of(tmp_path / "exam")
    assert line["differs"] and not alarm(line) and line["tokens"] == len(ids)
    assert line["planted"]["variant"] == "foreign" and refused_line["refused"]


def test_a_nan_is_not_explained_by_what_came_of_it(greta, mkmodel, tmp_path):
    """Rows of later layers hold the NaN, too: to read them gives it, and is no cause. Nor is a
    canary missed because a row has no value that could be a step off."""
    lines = answers(greta, mkmodel("--type", "Q8_0", "--layers", 2), tmp_path, "--sorts", "real",
                    "--faults", "transformers-32390")
    assert [(line["referee"]["verdict"], line["referee"]["bucket"]) for line in lines] == [
        ("fault", "X_nonfinite_origin")]


def test_one_explanation_holds_for_all_rows(greta, mkmodel, tmp_path):
    """Where all keys weigh alike, the second token looks as if both keys were the first one's."""
    line, = answers(greta, mkmodel("--type", "Q8_0", "--layers", 2), tmp_path, "--sorts", "real",
                    "--faults", "transformers-47651")
    assert line["referee"]["rank"] == 1 and line["referee"]["state"] != "CONFIRMED"


def test_zeros_may_be_what_nobody_wrote(greta, mkmodel, tmp_path):
    line, = answers(greta, mkmodel("--type", "Q8_0", "--layers", 2), tmp_path, "--sorts", "real",
                    "--faults", "mflux-489")
    assert (line["referee"]["state"], line["referee"]["bucket"]) == ("SUSPECTED", "D_kernel_math")


@pytest.mark.parametrize("fault", [
    "residual-missing:1@warm", "attention-values-of-next-layer:0"])  # what an earlier run left
def test_a_fault_of_warm_caches_is_none_in_a_fresh_session(
        cli, mkmodel, tmp_path, fault):  # noqa: F811
    """Nor is it tracing that changed the logits: the decode that is compared is reached alike."""
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "p.txt").write_text("The sky is blue, and the sea is, too.")
    done = cli("isolate", "-m", mkmodel("--type", "Q8_0", "--layers", 2), "--prompts",
               tmp_path / "prompts", "--out", tmp_path / "out", "--fault",
               fault, "--json")
    prompt, = json.loads(done.stdout)["prompts"]
    assert done.returncode == 0 and prompt["state"] == "EQUAL"
    assert prompt["tracing_keeps_logits"] is True
