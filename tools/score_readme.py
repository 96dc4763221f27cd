"""score_readme.py GRETA RESULT [ROOT]: writes what an exam says into README.md and docs/score.md.

RESULT is the folder of its lines (BUILD/score of `make score`). README.md gets the table between
its two marks; docs/score.md is written whole: both halves, late kinds, bugs that happened, benign
variants, modes, and every miss with its reason. No figure of theirs is typed by hand but those of
FIRST, which cannot be computed again.
"""
import collections
import json
import pathlib
import subprocess
import sys

BEGIN, END = "<!-- score: begin (make score-readme) -->", "<!-- score: end -->"
METHODS = {
    "greta": "greta", "first": "first tensor over 1e-3", "cosine": "cosine below 0.99",
    "growth": "growth of distances (CRADLE)", "allclose": "constant allclose",
    "report": "rules of the reference report"}
FIRST = """All were written before the referee was asked about any. Asked for the first time, in
181 runs that showed them, it saw 95.6 %, accused the right op in all, told the right cause in
86.2 %, and was wrong and CONFIRMED in 16. Three mistakes of its own came to light: a row of NaN
was explained by rows that the NaN had reached; a canary was counted as missed where no value of a
row was finite; and what explained an output at one token alone was CONFIRMED. They were mended (as
was one bug's case, whose runs did not show it, and what it then showed: rows of zeros that nobody
had written were told as weights of zero). No hypothesis was added for any of these bugs, and what
is below is the second time."""
SETS = {
    "planted": "all", "tune": "half that rules may be tuned on", "held": "held half",
    "late": "kinds written after the rules were frozen", "real": "bugs that happened",
    "device": "devices with one mistake"}


def percent(value):
    return "-" if value is None else f"{100 * value:.2f} %"


def number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


def rows(titles, lines):
    yield "| " + " | ".join(titles) + " |"
    yield "|" + "---|" * len(titles)
    for line in lines:
        yield "| " + " | ".join(str(cell) for cell in line) + " |"


def methods(part):
    for name, title in METHODS.items():
        of = part["referee"] if name == "greta" else part["methods"][name]
        yield (title, percent(of["recall"]), f"{of['false_alarms']} of {of['quiet']}",
               f"{of['false_alarms_differing']} of {of['quiet_differing']}", percent(of["top1"]),
               number(of["mean_rank"], 2), percent(of["exam"]), number(of["macro_f1"], 3))


def methods_table(part):
    return rows(("method", "recall", "false alarms", "of those, where bits differ",
                 "top-1 (layer, stage)", "mean rank", "EXAM", "macro-F1 of causes"), methods(part))


def sets_table(table):
    yield from rows(
        ("faults", "that change bits", "seen", "right op", "and position", "right cause",
         "CONFIRMED among right", "right among CONFIRMED", "wrong and CONFIRMED", "no verdict"),
        [(title, of["faults"], percent(of["recall"]), percent(of["top1"]), percent(of["exact"]),
          percent(of["cause_right"]), percent(table[name]["confirmed_among_right"]),
          percent(table[name]["right_among_confirmed"]), table[name]["wrong_and_confirmed"],
          table[name]["abstained"])
         for name, title in SETS.items() for of in [table[name]["referee"]]])


def limits(part):
    of = part["referee"]
    if of["false_alarm_limit"] is None:
        return f"False alarms: {of['false_alarms']} of {of['quiet']}."
    n, n_differ = of["quiet"], of["quiet_differing"]
    told = f"No false alarm in {n} cases without a fault"
    limit = f"the 95 % upper limit of the rate is 3/{n} = {of['false_alarm_limit']:.4f}"
    if not n_differ:
        return f"{told}: {limit}."
    return (f"{told}, {n_differ} of which really differ in bits: {limit}, where bits differ "
            f"3/{n_differ} = {of['false_alarm_limit_differing']:.4f}.")


def variants_table(table):
    return rows(("benign variant", "differ in bits", "equal", "false alarms"),
                [(name, of["quiet_differing"], of["quiet"] - of["quiet_differing"],
                  of["false_alarms"]) for name, of in sorted(table["groups"]["variants"].items())])


def readme(table):
    part, n = table["planted"], sum(table[name]["cases"] for name in ("planted", "late", "real"))
    device = table["device"]["referee"]
    real = table["groups"]["real"]
    named = [of for of in real.values() if of["faults"]]
    whole = sum(of["cause_right"] == of["faults"] for of in named)
    yield (f"{n} cases: {part['referee']['faults']} planted faults that change bits, "
           f"{part['referee']['quiet']} cases in which nothing may be said, "
           f"{table['late']['referee']['faults']} faults of kinds that were written after the "
           f"rules were frozen, and {table['real']['referee']['faults']} runs of {len(named)} bugs "
           "that happened in other engines. Beside them, "
           f"{device['faults']} runs on devices with one mistake.")
    yield ""
    yield from methods_table(part)
    yield ""
    yield limits(part)
    yield ""
    yield from sets_table(table)
    yield ""
    yield (f"Of the {len(named)} bugs that happened, {whole} are told by the right op and cause in "
           f"every model that shows them. [docs/score.md](docs/score.md) lists them, every benign "
           f"variant, and every miss with its reason.")


def reasons(misses):
    """Misses that read alike but for the case: how many, and one of them."""
    groups = collections.OrderedDict()
    for miss in misses:
        order = miss["case"].split("/")
        what = order[4:-1]
        kind = "/".join(what) if order[3] in ("real", "stack") else what[0].split("@")[0]
        key = (miss["miss"], kind, miss["expected"], miss["bucket"], miss["state"])
        groups.setdefault(key, []).append(miss)
    for (miss, kind, expected, bucket, state), of in groups.items():
        why = of[0]["why"].replace("|", "\\|")
        yield miss, len(of), kind, expected, f"{bucket}, {state}", why


def devices(group):
    if not group:
        return
    yield "## Devices with one mistake"
    yield ""
    yield ("`libgreta-faulty.so` of a build is a device without a GPU, whose number n makes one "
           "mistake in every op that it concerns ([gpu.md](gpu.md#mistakes-of-gpus)). The CPU's "
           "run is compared with its. All were written after the referee's rules, and with them "
           "hypotheses that it lacked: outputs left from before, indices of 8 and 16 bits, sums "
           "left in shared memory, factors cut to TF32, fused squares, processors that flush.")
    yield ""
    yield from rows(("mistake", "runs that it changes", "seen", "right op", "and cause",
                     "CONFIRMED", "changes no bit", "runs it does not concern",
                     "false alarms there"),
                    [(name or "none", of["faults"], of["detected"], of["placed"],
                      of["cause_right"], of["confirmed"], of["equal"], of["quiet"],
                      of["false_alarms"]) for name, of in group.items()])
    yield ""


def page(table):
    groups = table["groups"]
    yield "# What the exam says"
    yield ""
    yield ("Written by `make score-readme` from the lines of `make score`. "
           "[commands.md](commands.md#greta-score) says what each figure is, "
           "[isolate.md](isolate.md) what a verdict rests on.")
    yield ""
    yield "## Planted faults"
    yield ""
    yield from methods_table(table["planted"])
    yield ""
    yield limits(table["planted"])
    yield ""
    yield from sets_table(table)
    yield ""
    yield ("A case belongs to a half by a hash of its name, whatever the seed. Kinds marked late "
           "in the catalogue, and all bugs that happened, were written after the referee's rules.")
    yield ""
    yield "## How the two runs were made"
    yield ""
    yield ("With late kinds, and devices with one mistake; bugs that happened are in the second "
           "table only.")
    yield ""
    yield from rows(
        ("mode", "cases", "faults that change bits", "seen", "right op", "and cause", "CONFIRMED",
         "without a fault", "differ", "false alarms"),
        [(name, of["cases"], of["faults"], of["detected"], of["placed"], of["cause_right"],
          of["confirmed"], of["quiet"], of["quiet_differing"], of["false_alarms"])
         for name, of in groups["modes"].items()])
    yield ""
    yield from rows(("model", "cases", "faults that change bits", "right op and cause",
                     "without a fault", "false alarms"),
                    [(name, of["cases"], of["faults"], of["cause_right"], of["quiet"],
                      of["false_alarms"]) for name, of in groups["models"].items()])
    yield ""
    yield "## Causes of single planted faults"
    yield ""
    yield "Without late kinds."
    yield ""
    yield from rows(("cause", "that change bits", "seen", "right op", "and cause", "CONFIRMED",
                     "change no bit"),
                    [(name, of["faults"], of["detected"], of["placed"], of["cause_right"],
                      of["confirmed"], of["equal"]) for name, of in sorted(groups["causes"].items())
                     if of["faults"] or of["equal"]])
    yield ""
    yield from devices(groups["devices"])
    yield "## Benign variants"
    yield ""
    yield from variants_table(table)
    yield ""
    yield "## Bugs that happened"
    yield ""
    yield ("`greta faults` says what each did and where it was reported. Counted are models that "
           "carry it and show it.")
    yield ""
    yield FIRST
    yield ""
    yield from rows(("bug", "models", "seen", "right op", "and cause", "CONFIRMED",
                     "change no bit"),
                    [(name.removeprefix("real/"), of["faults"], of["detected"], of["placed"],
                      of["cause_right"], of["confirmed"], of["equal"])
                     for name, of in sorted(groups["real"].items())
                     if of["faults"] or of["equal"]])
    yield ""
    yield f"## What fell short: {len(table['misses'])}"
    yield ""
    yield from rows(("miss", "cases", "fault", "expected", "told", "reason, in one of them"),
                    reasons(table["misses"]))


def main():
    greta, result = sys.argv[1:3]
    root = pathlib.Path(sys.argv[3] if len(sys.argv) > 3 else ".")
    told = subprocess.run([greta, "score", "--table", "--json", "--out", result], check=True,
                          stdout=subprocess.PIPE).stdout
    table = json.loads(told)
    text = (root / "README.md").read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    middle = "\n".join(readme(table))
    (root / "README.md").write_text(f"{before}{BEGIN}\n{middle}\n{END}{after}")
    (root / "docs/score.md").write_text("\n".join(page(table)) + "\n")


main()
