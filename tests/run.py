#!/usr/bin/env python3
"""run.py - the test runner behind `make check` and `make check-long`; standard library only.

A run is a list of jobs: builds, C test programs, Python test files, and small scenarios written
below. Each job runs in a process group of its own with a time limit, writes one log, and yields
counts of single tests: C programs speak TAP, pytest writes JUnit XML. What gives no count, or
counts differently from its exit status, is a failure: a test program that dies, hangs, runs no
test or leaks at its exit cannot pass. Jobs run side by side as soon as what they need is built.

The last line is `N passed, N failed`, with `, N skipped` when there were any. Only GRETA_OFFLINE=1
lets a test skip for want of a download.
"""
import argparse
import collections
import concurrent.futures
import fcntl
import fnmatch
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = "smollm2-135m"
SANITIZERS = "address,undefined"
WARNINGS = "-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror".split()
SECONDS_BUILD, SECONDS_C, SECONDS_PY, SECONDS_LONG = 600, 240, 480, 7200
SEED = "1"  # of the covering arrays of tests/matrix_tool.c
WEIGHTS = ("Q5_K Q4_K Q2_K Q6_K Q3_K IQ4_XS Q4_1 Q5_1 Q5_0 Q4_0 Q8_0 IQ4_NL MXFP4 F32 F16 "
           "BF16").split()  # slowest first
# What covers by volume runs in `make check-long`; under sanitizers these run only there, and tiles
# of intrinsics are checked only there.
SAN_LONG = ("test_fault_bits", "test_op_replay", "test_catalogue", "test_benign")
# Sanitizers own malloc, and do not see into the emulated plugin, which is not built with them.
UNSANITIZED = ("test_memory", "test_gpu", "test_gpu_products", *SAN_LONG)
WHOLE_C = ("test_engine", "test_vocabulary", "test_op_sites", "test_two_models")
WHOLE_PY = ("test_defects", "test_tokenizer", "test_tokenizer_json", "test_sentencepiece",
            "test_chat", "test_isolate", "test_oracle", "test_score", "long_vocabulary")
SPLICED = ("test_chat", "test_hf", "test_safetensors")  # and test_vocabulary: tests/splice.h
# What takes longest starts first, so that nothing long is left for the end.
SLOW = ["san", "py/test_score", "py/test_oracle", "py/test_architectures", "py/test_isolate",
        "matrix", "py/test_pull", "py/test_chat", "py/test_bench", "golden", "san/test_simd"]

# Jobs of `make check` have one CPU each, so that pools of threads sleep instead of spinning against
# the job beside them; these are about threads, and have all.
WIDE = ("build", "c/test_threads", "san/test_threads", "c/test_device", "matrix")

# Programs are linked a hundred times: with the faster linker, where it is there.
LINKER = ["LDFLAGS=-fuse-ld=lld"] if shutil.which("ld.lld") else []

Job = collections.namedtuple("Job", "name needs run")
running = set()  # process groups, to be ended when the runner is
this_thread = threading.local()  # cpu: seconds spent by what the thread's job started


class Counts:
    """What a job found: a number of passes; failures, skips and remarks as lines of text."""

    def __init__(self):
        self.passed, self.failed, self.skipped, self.notes = 0, [], [], []

    def check(self, name, good, why=""):
        if good:
            self.passed += 1
        else:
            self.failed.append(f"{name}: {why}" if why else name)
        return good


# ---- Running and reading -------------------------------------------------------------------------

def execute(command, log, seconds, env=None, cwd=ROOT):
    """Runs a command with no input, both outputs appended to the log. Its exit status, or None
    when it ran out of time; whatever it started ends with it."""
    with open(log, "a") as out:
        out.write("$ " + " ".join(map(str, command)) + "\n")
        out.flush()
        process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=subprocess.STDOUT, env=env, cwd=cwd,
                                   start_new_session=True)
        running.add(process.pid)
        late = threading.Event()
        limit = threading.Timer(seconds, lambda: (late.set(), end_group(process.pid)))
        limit.start()
        _, status, usage = os.wait4(process.pid, 0)
        limit.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        end_group(process.pid)
        running.discard(process.pid)
        this_thread.cpu = getattr(this_thread, "cpu", 0) + usage.ru_utime + usage.ru_stime
        if late.is_set():
            out.write(f"\n# stopped after {seconds} seconds\n")
            return None
        return process.returncode


def end_group(group):
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def ending(status):
    if status is None:
        return "ran out of time"
    return f"died of {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def read_tap(text, status):
    counts, plan = Counts(), 0
    for line in text.splitlines():
        match = re.match(r"(not )?ok \d+(?: -)? *(.*)", line)
        if match and match.group(2).startswith("# SKIP"):
            counts.skipped.append(match.group(2)[len("# SKIP"):].strip() or "skipped")
        elif match:
            counts.check(match.group(2), match.group(1) is None)
        elif (match := re.match(r"1\.\.(\d+)$", line)):
            plan += int(match.group(1))
        elif line.startswith("# compared "):
            counts.notes.append(line[2:])
    seen = counts.passed + len(counts.failed) + len(counts.skipped)
    if seen < plan:
        counts.failed += [f"test {n + 1} of {plan} was not reached: {ending(status)}"
                          for n in range(seen, plan)]
    elif plan == 0:
        counts.failed.append(f"no test ran: {ending(status)}")
    elif status != 0 and not counts.failed:
        counts.failed.append(f"the tests passed but the program did not: {ending(status)}")
    return counts


def read_junit(path, status, offline):
    counts = Counts()
    try:
        cases = list(xml.etree.ElementTree.parse(path).iter("testcase"))
    except (OSError, xml.etree.ElementTree.ParseError):
        cases = []
    for case in cases:
        name = case.get("name")
        skip = case.find("skipped")
        if skip is not None:
            why = skip.get("message") or ""
            if why.startswith("offline:") and not offline:
                counts.failed.append(f"{name}: skipped for want of a download, but not offline")
            else:
                counts.skipped.append(f"{name}: {why}")
        else:
            bad = case.find("failure") is not None or case.find("error") is not None
            counts.check(name, not bad)
    if not cases:
        counts.failed.append(f"no test ran: {ending(status)}")
    elif status != 0 and not counts.failed:
        counts.failed.append(f"the tests passed but pytest did not: {ending(status)}")
    return counts


# ---- The run -------------------------------------------------------------------------------------

class Cpus:
    """The CPUs that this process may use, and how many jobs were given each."""

    def __init__(self):
        self.all, self.lock = os.sched_getaffinity(0), threading.Lock()
        self.jobs = dict.fromkeys(sorted(self.all), 0)

    def take(self):
        """The one with the fewest jobs."""
        with self.lock:
            cpu = min(self.jobs, key=self.jobs.get)
            self.jobs[cpu] += 1
            return cpu

    def give(self, cpu):
        with self.lock:
            if cpu is not None:
                self.jobs[cpu] -= 1


class Run:
    def __init__(self, options):
        self.options, self.cpus = options, Cpus()
        self.build = (ROOT / options.build).resolve()
        self.offline = os.environ.get("GRETA_OFFLINE") == "1"
        self.env = {name: value for name, value in os.environ.items()
                    if not name.startswith(("GRETA_", "MAKE", "MFLAGS")) or name == "GRETA_CACHE"}
        self.env.update(LC_ALL="C.UTF-8", PYTHONDONTWRITEBYTECODE="1",
                        CMOCKA_MESSAGE_OUTPUT="TAP", UBSAN_OPTIONS="print_stacktrace=1",
                        GRETA_BIN=str(self.build / "greta"), GRETA_TOOLS=str(self.build / "tools"))
        self.build.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.build / "check.lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)  # a second run in the same folder waits
        for folder in ("log", "tmp"):
            shutil.rmtree(self.build / folder, ignore_errors=True)
            (self.build / folder).mkdir()

    def log(self, name):
        return self.build / "log" / (name.replace("/", "-") + ".log")

    def scratch(self, name):
        folder = self.build / "tmp" / name.replace("/", "-")
        folder.mkdir(exist_ok=True)
        return folder

    def execute(self, name, command, seconds=60, **variables):
        env = {**self.env, "GRETA_TMP": str(self.scratch(name)), **variables}
        return execute(command, self.log(name), seconds, env)

    def output(self, command, **variables):
        """Stdout of a command that must succeed; None when it did not."""
        done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, timeout=60,
                              stdout=subprocess.PIPE, env={**self.env, **variables})
        return done.stdout.decode(errors="replace") if done.returncode == 0 else None

    def make(self, name, *arguments, jobs=1, folder=None, cc=None, san=None):
        san = self.options.san if san is None else san
        # The Makefile knows what lies below it by relative names.
        arguments = [os.path.relpath(one, ROOT) if isinstance(one, pathlib.Path)
                     and one.is_relative_to(ROOT) else one for one in arguments]
        command = ["make", "--no-print-directory", f"-j{jobs}", f"BUILD={folder or self.build}",
                   f"CC={cc or self.options.cc}", f"SAN={san}", "WERROR=1", *LINKER, *arguments]
        return self.execute(name, command, SECONDS_BUILD)


def builder(run, name, *variables, target="all", **how):
    def build():
        counts = Counts()
        status = run.make(name, target, *variables, **how)
        counts.check(name, status == 0, ending(status))
        return counts
    return build


def tap_job(run, name, command, seconds=SECONDS_C, **variables):
    def job():
        status = run.execute(name, command, seconds, **variables)
        return read_tap(run.log(name).read_text(errors="replace"), status)
    return job


def py_job(run, name, path, seconds=SECONDS_PY, **variables):
    python = run.build / "venv/bin/python"

    def job():
        if not python.exists() and run.offline:
            counts, names = Counts(), re.findall(r"^def (test_\w+)", path.read_text(), re.M)
            counts.skipped = [f"{test}: offline: no Python packages" for test in names]
            return counts
        junit = run.scratch(name) / "junit.xml"
        status = run.execute(name, [python, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                                    f"--basetemp={run.scratch(name) / 'pytest'}",
                                    "-o", "tmp_path_retention_policy=failed",
                                    f"--junitxml={junit}", path], seconds, **variables)
        return read_junit(junit, status, run.offline)
    return job


def golden_job(run, name, cc, level):
    """The library built by one compiler at one level of optimisation, and all its digests; without
    optimisation those of `ref` alone, for time. The models are written by the default build."""
    def job():
        tool = run.build / name.replace("/", "-") / "tools/golden_tool"
        status = run.make(name, tool, f"CFLAGS=-{level}", f"O3=-{level}", cc=cc,
                          folder=tool.parent.parent)
        if status != 0:
            counts = Counts()
            counts.check(f"{cc} -{level}", False, ending(status))
            return counts
        command = [tool, "check", ROOT / "tests/golden", *(["ref"] if level == "O0" else [])]
        return tap_job(run, name, command, SECONDS_LONG)()
    return job


def header_job(run, name):
    """greta.h needs nothing before it, as C and as C++, and warns nowhere."""
    def job():
        counts, cc = Counts(), run.options.cc
        for language, standards in (("c", ("c11", "c17")), ("c++", ("c++11", "c++20"))):
            source = run.scratch(name) / f"header.{'c' if language == 'c' else 'cc'}"
            source.write_text('#include "greta.h"\n#include "greta.h"\n'
                              "int main(void)\n{\n    return greta_version().api == 0;\n}\n")
            for standard in standards:
                status = run.execute(name, [cc, f"-std={standard}", "-x", language, *WARNINGS,
                                            f"-I{ROOT / 'include'}", "-fsyntax-only", source])
                counts.check(f"greta.h as {standard}", status == 0, ending(status))
        return counts
    return job


def tree_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def install_job(run, name):
    """What is installed is enough to build and run the example, shared and static."""
    def job():
        counts, scratch = Counts(), run.scratch(name)
        prefix, staged = scratch / "prefix", scratch / "staged"
        for arguments in ((f"PREFIX={prefix}",), (f"DESTDIR={staged}", "PREFIX=/usr")):
            status = run.make(name, "install", *arguments)
            if not counts.check("make install " + arguments[-1], status == 0, ending(status)):
                return counts
        counts.check("DESTDIR holds the same files", tree_of(prefix) == tree_of(staged / "usr"))

        found = {"PKG_CONFIG_PATH": str(prefix / "lib/pkgconfig")}
        version = run.output(["pkg-config", "--modversion", "greta"], **found)
        told = run.output([prefix / "bin/greta", "--version"]) or ""
        counts.check("pkg-config and greta --version agree", version and version.strip() in told,
                     f"{version!r}, {told!r}")
        model = scratch / "tiny.gguf"
        status = run.execute(name, [run.build / "tools/mkmodel", "--out", model])
        counts.check("mkmodel", status == 0, ending(status))
        text = "The sky is"
        answer = run.output([prefix / "bin/greta", "run", "-m", model, "-p", text, "-n", "1"])
        for kind in ("shared", "static"):
            program = scratch / f"first-{kind}"
            ask = ["pkg-config", "--cflags", "--libs", "greta"]
            flags = run.output([*ask, "--static"] if kind == "static" else ask, **found) or ""
            flags = flags.replace("-lgreta", "-l:libgreta.a") if kind == "static" else flags
            status = run.execute(name, [run.options.cc, "-std=c11", *WARNINGS,
                                        ROOT / "examples/first.c", *flags.split(), "-o", program])
            if counts.check(f"examples/first.c builds, {kind}", status == 0, ending(status)):
                seen = run.output([program, model], LD_LIBRARY_PATH=str(prefix / "lib")) or ""
                counts.check(f"examples/first.c goes on as greta run does, {kind}",
                             answer and seen.rstrip("\n") == text + answer.rstrip("\n"),
                             f"{seen!r}, {answer!r}")
        status = run.make(name, "uninstall", f"PREFIX={prefix}")
        counts.check("make uninstall leaves nothing", status == 0 and not tree_of(prefix),
                     f"{tree_of(prefix)}")
        return counts
    return job


def smoke_job(run, name, build):
    """The main commands on a tiny model, under the sanitizers: exit codes, and not a word from
    them. They are told to end with a status that greta never gives."""
    def job():
        counts, scratch = Counts(), run.scratch(name)
        model, prompts = scratch / "tiny.gguf", scratch / "prompts"
        prompts.mkdir()
        (prompts / "p.txt").write_text("Hello, how are you today?\n")
        greta = build / "greta"
        isolate = [greta, "isolate", "-m", model, "--prompts", prompts]
        plant = ["--fault", "ffn_norm-reads-previous-position", "--fault-layer", "0"]
        for what, wanted, command in (
                ("mkmodel", 0, [build / "tools/mkmodel", "--out", model]),
                ("inspect", 0, [greta, "inspect", model]),
                ("run", 0, [greta, "run", "-m", model, "-p", "Hello", "-n", "8"]),
                ("run --act f32", 0, [greta, "run", "-m", model, "-p", "Hello", "-n", "8",
                                      "--act", "f32", "--kv", "f32", "--chunk", "3"]),
                ("isolate", 0, [*isolate, "--out", scratch / "clean"]),
                ("isolate --from", 0, [greta, "isolate", "--from", scratch / "clean",
                                       "--out", scratch / "again"]),
                ("isolate --fault", 1, [*isolate, *plant, "--out", scratch / "fault"]),
                ("isolate --mode E0", 6, [*isolate, "--mode", "E0", "--out", scratch / "e0"]),
                ("score", 0, [greta, "score", "-m", model, "--one-of", "90", "--jobs", "2",
                              "--modes", "fresh,engine", "--out", scratch / "exam"]),
                ("a truncated model", 3, [greta, "inspect", scratch / "cut.gguf"])):
            if model.exists():
                (scratch / "cut.gguf").write_bytes(model.read_bytes()[:-1])
            status = run.execute(name, command, 120, ASAN_OPTIONS="exitcode=99",
                                 UBSAN_OPTIONS="exitcode=99:print_stacktrace=1")
            counts.check(f"greta {what}", status == wanted, f"{ending(status)}, expected {wanted}")
        return counts
    return job


def hip_job(run, name, *variables):
    """The HIP plugin compiles, links and is opened; greta says which devices it sees, or that there
    is none. It runs nothing: no result is looked at."""
    def job():
        counts, folder = Counts(), run.build / name.replace("/", "-")
        plugin = folder / "plugins/libgreta-hip.so"
        if not shutil.which("clang++-19"):
            why = "no clang++-19 to compile HIP with; on Debian sh tools/deps.sh hip installs it"
            if run.offline:
                counts.skipped.append(f"{name}: offline: {why}")
            else:
                counts.failed.append(f"{name}: {why}")
            return counts
        status = run.make(name, "GPU=hip", plugin, *variables, folder=folder)
        if counts.check("libgreta-hip.so compiles and links", status == 0, ending(status)):
            told = run.output([run.build / "greta", "doctor", "--json"],
                              GRETA_PLUGIN_DIR=str(plugin.parent)) or '{"plugins":[]}'
            seen = [one for one in json.loads(told)["plugins"] if one["path"] == str(plugin)]
            counts.check("greta doctor names its devices, or says that there is none",
                         seen and (seen[0]["devices"] or "no such device" in seen[0]["error"]),
                         told)
        return counts
    return job


def runner_job(run, name):
    """The runner itself: programs that pass, fail, die, hang and say nothing."""
    tap = "printf '1..2\\nok 1 - a\\n{0} 2 - b\\n'; "
    cases = [
        ("passes", tap.format("ok"), (2, 0, 0)),
        ("fails", tap.format("not ok") + "exit 1", (1, 1, 0)),
        ("fails but exits 0", tap.format("not ok"), (1, 1, 0)),
        ("skips", "printf '1..1\\nnot ok 1 # SKIP b\\n'", (0, 0, 1)),
        ("passes but exits 1", tap.format("ok") + "exit 1", (2, 1, 0)),
        ("dies", "printf '1..3\\nok 1 - a\\n'; kill -SEGV $$", (1, 2, 0)),
        ("hangs", tap.format("ok") + "sleep 60", (2, 1, 0)),
        ("runs no test", "exit 0", (0, 1, 0)),
    ]
    junit = '<testsuite><testcase name="a"/><testcase name="b">{}</testcase></testsuite>'
    reports = [
        ("passes", junit.format(""), 0, False, (2, 0, 0)),
        ("fails", junit.format("<failure/>"), 1, False, (1, 1, 0)),
        ("skips online", junit.format('<skipped message="offline: x"/>'), 0, False, (1, 1, 0)),
        ("skips offline", junit.format('<skipped message="offline: x"/>'), 0, True, (1, 0, 1)),
        ("is torn", "<testsuite>", 0, False, (0, 1, 0)),
        ("passes but exits 3", junit.format(""), 3, False, (2, 1, 0)),
    ]

    def numbers(counts):
        return counts.passed, len(counts.failed), len(counts.skipped)

    def job():
        counts = Counts()
        with tempfile.TemporaryDirectory() as folder:
            for i, (what, script, wanted) in enumerate(cases):
                log = pathlib.Path(folder, f"{i}.log")
                status = execute(["sh", "-c", script], log, 2 if what == "hangs" else 60)
                text = log.read_text().partition("\n")[2]
                seen = numbers(read_tap(text, status))
                counts.check(f"a program that {what}", seen == wanted, f"{seen} for {wanted}")
            for what, text, status, offline, wanted in reports:
                path = pathlib.Path(folder, "junit.xml")
                path.write_text(text)
                seen = numbers(read_junit(path, status, offline))
                counts.check(f"a report that {what}", seen == wanted, f"{seen} for {wanted}")
        return counts
    return job


# ---- Jobs ----------------------------------------------------------------------------------------

def jobs_of(run):
    """All jobs, in the order in which they should start. Of HIP, `make check` compiles the code of
    one GPU without optimising it: a tenth of the time."""
    options, build = run.options, run.build
    tests = sorted(path.stem for path in (ROOT / "tests").glob("test_*.c"))
    python = sorted((ROOT / "tests/py").glob("test_*.py"))
    san, other = build / "san", "gcc" if options.cc == "clang" else "clang"
    tidy = [sys.executable, ROOT / "tools/tidy.py", "--cc", options.cc]
    jobs = [Job(f"py/{path.stem}", [], py_job(run, f"py/{path.stem}", path)) for path in python]
    jobs += [Job(f"c/{test}", [], tap_job(run, f"c/{test}", [build / "tests" / test]))
             for test in tests]
    jobs += [Job("tidy/self-test", [], tap_job(run, "tidy/self-test", [*tidy, "--self-test"])),
             Job("header", [], header_job(run, "header")),
             Job("runner", [], runner_job(run, "runner"))]
    if not options.san:  # what concerns the default build, and the builds beside it
        tidy += ["--library", build / "libgreta.so"]
        tools = build / "tools"
        jobs += [Job("tidy", [], tap_job(run, "tidy", tidy)),
                 Job("matrix", [],
                     tap_job(run, "matrix", [tools / "matrix_tool", "sample", SEED, "2"])),
                 Job("matrix/archs", [],
                     tap_job(run, "matrix/archs", [tools / "matrix_tool", "archs", SEED])),
                 Job("golden", [], tap_job(run, "golden", [tools / "golden_tool", "check",
                                                           ROOT / "tests/golden", "quick"])),
                 Job("install", [], install_job(run, "install")),
                 Job("hip", [],
                     hip_job(run, "hip", "HIP_ARCH=--offload-arch=gfx942", "HIP_O=-O0")),
                 Job("second-compiler", [],
                     builder(run, "second-compiler", "CFLAGS=-fsyntax-only", "O3=", cc=other,
                             target="warnings", folder=build / other)),
                 Job("san", [], builder(run, "san", f"PLAIN={build}",
                                        "BUT=" + " ".join(UNSANITIZED), target="checked",
                                        folder=san, san=SANITIZERS)),
                 Job("san/smoke", ["san"], smoke_job(run, "san/smoke", san))]
        jobs += [Job(f"san/{test}", ["san"],
                     tap_job(run, f"san/{test}", [san / "tests" / test], 2 * SECONDS_C))
                 for test in tests if test not in UNSANITIZED]
    return sorted(jobs, key=lambda job: SLOW.index(job.name) if job.name in SLOW else len(SLOW))


def jobs_long(run):
    """`make check-long`: the whole bit-exactness matrix, every fault in every model, the digests
    from other builds, and the whole volume of what `make check` takes a share of."""
    tool = run.build / "tools/matrix_tool"
    jobs = []
    if not run.offline:
        prompts = [ROOT / "prompts" / name
                   for name in ("p0_short.txt", "p4_sys.txt", "p6_long.txt")]
        command = [tool, "model", run.env["GRETA_SMOLLM2"], SEED, *prompts]
        jobs.append(Job("matrix/smollm2", [],
                        tap_job(run, "matrix/smollm2", command, SECONDS_LONG)))
        faults = [run.build / "tests/test_fault_bits", run.env["GRETA_SMOLLM2"]]
        jobs.append(Job("faults/smollm2", [],
                        tap_job(run, "faults/smollm2", faults, SECONDS_LONG)))
        named = [run.build / "tests/test_catalogue", run.env["GRETA_SMOLLM2"], "6"]
        jobs.append(Job("catalogue/smollm2", [],
                        tap_job(run, "catalogue/smollm2", named, SECONDS_LONG)))
    jobs += [Job(f"catalogue/{half}", [],
                 tap_job(run, f"catalogue/{half}",
                         [run.build / "tests/test_catalogue", half], SECONDS_LONG))
             for half in ("tune", "held")]
    jobs.append(Job("faults/all", [],
                    tap_job(run, "faults/all", [run.build / "tests/test_fault_bits", "all"],
                            SECONDS_LONG)))
    reference = [tool, "--device", "reference", run.build / "plugins"]
    jobs += [Job(f"device/{what}", [],
                 tap_job(run, f"device/{what}", [*reference, what, SEED], SECONDS_LONG))
             for what in ("sample", "archs")]
    jobs.append(Job("device/emu", [],
                    tap_job(run, "device/emu", [run.build / "tests/test_device"], SECONDS_LONG,
                            GRETA_TEST_DEVICE="emu")))
    jobs.append(Job("device/faults", [],
                    tap_job(run, "device/faults", [run.build / "tests/test_device", "all"],
                            SECONDS_LONG)))
    archs = (run.output([tool, "list"]) or "matrix_tool list failed").splitlines()
    for model in [*WEIGHTS, *archs]:
        name = "matrix/" + model.replace(", ", "-").replace(" ", "_")
        jobs.append(Job(name, [], tap_job(run, name, [tool, "full", model], SECONDS_LONG)))
    jobs.append(Job("benign/all", [],
                    tap_job(run, "benign/all", [run.build / "tests/test_benign", "all"],
                            SECONDS_LONG)))
    jobs += [Job(f"{test}/all", [],
                 py_job(run, f"{test}/all", ROOT / f"tests/py/test_{test}.py", SECONDS_LONG,
                        GRETA_LONG="1"))
             for test in ("foreign", "located", "pairs", "remote", "two_models")]
    jobs.append(Job("matrix/sample", [],
                    tap_job(run, "matrix/sample", [tool, "sample", SEED], SECONDS_LONG)))
    jobs += [Job(f"whole/{test}", [], py_job(run, f"whole/{test}", ROOT / f"tests/py/{test}.py",
                                             SECONDS_LONG, GRETA_WHOLE="1"))
             for test in WHOLE_PY]
    jobs += [Job(f"whole/{test}", [],
                 tap_job(run, f"whole/{test}", [run.build / "tests" / test], SECONDS_LONG,
                         GRETA_WHOLE="1"))
             for test in WHOLE_C]
    jobs += [Job(f"golden/{cc}-{level}", [], golden_job(run, f"golden/{cc}-{level}", cc, level))
             for cc in ("gcc", "clang") for level in ("O0", "O1", "O2", "O3")]
    jobs.append(Job("hip/all", [], hip_job(run, "hip/all")))
    san, other = run.build / "san-all", "gcc" if run.options.cc == "clang" else "clang"
    jobs.append(Job("san", [], builder(run, "san", "SAN_TILES=", folder=san, san=SANITIZERS)))
    jobs += [Job(f"san/{test}", ["san"],
                 tap_job(run, f"san/{test}", [san / "tests" / test], SECONDS_LONG,
                         GRETA_WHOLE="1"))
             for test in (*SAN_LONG, *WHOLE_C, *SPLICED, "test_simd", "test_kernel", "test_isolate",
                          "test_kernel_models", "test_fault_kernels")]
    jobs.append(Job("second-compiler", [],
                    builder(run, "second-compiler", "CFLAGS=-O0", "O3=", "EMU=", cc=other,
                            folder=run.build / other)))
    return jobs


def device_find(run, device):
    """Which device of `greta doctor` a name means: its own name; or None and why there is none."""
    name, _, number = device.partition(":")
    env = {**run.env, "GRETA_PLUGIN_DIR": str(run.build / "plugins")}
    done = subprocess.run([run.build / "greta", "doctor", "--json"], env=env, text=True,
                          capture_output=True)
    told = json.loads(done.stdout) if done.returncode == 0 else {"plugins": []}
    for plugin in told["plugins"]:
        if plugin["name"] == name:
            devices = {one["number"]: one for one in plugin["devices"]}
            found = devices.get(int(number or 0), {"error": plugin.get("error", "no such device")})
            return found.get("name"), found.get("error", "")
    return None, f"no plugin libgreta-{name}.so (make GPU={name})"


def jobs_gpu(run, device):
    """`make check-gpu`: the matrix of a device against the CPU, its ops, faults and isolate."""
    plugins = run.build / "plugins"
    plugin = plugins / f"libgreta-{device.partition(':')[0]}.so"
    tool = [run.build / "tools/matrix_tool", "--device", device, plugins]
    jobs = [Job(f"gpu/{test}", [], tap_job(run, f"gpu/{test}", [run.build / "tests" / test],
                                           SECONDS_LONG, GRETA_GPU_PLUGIN=str(plugin)))
            for test in ("test_gpu", "test_gpu_products")]
    jobs += [Job("gpu/sessions", [],
                 tap_job(run, "gpu/sessions", [run.build / "tests/test_device", "all"],
                         SECONDS_LONG, GRETA_TEST_DEVICE=device)),
             Job("gpu/archs", [], tap_job(run, "gpu/archs", [*tool, "archs", SEED], SECONDS_LONG))]
    if not run.offline:
        prompts = [ROOT / "prompts" / name
                   for name in ("p0_short.txt", "p4_sys.txt", "p6_long.txt")]
        command = [*tool, "model", run.env["GRETA_SMOLLM2"], SEED, *prompts]
        jobs.append(Job("gpu/smollm2", [], tap_job(run, "gpu/smollm2", command, SECONDS_LONG)))
    return jobs + [Job(f"gpu/{weights}", [], tap_job(run, f"gpu/{weights}",
                                                     [*tool, "full", weights], SECONDS_LONG))
                   for weights in WEIGHTS]


def selected(job, words):
    """A word names a job or a family (`san`, `py`), or a part of the name of a C or Python test."""
    family, _, test = job.name.partition("/")
    return not words or any(
        fnmatch.fnmatch(job.name, word) or family == word
        or (family in ("c", "py") and word in test) for word in words)


def report(run, job, counts, seconds):
    """One line for a job: wall seconds, and CPU seconds, which say more on a busy machine."""
    parts = [f"{counts.passed} passed"]
    parts += [f"{len(counts.failed)} failed"] if counts.failed else []
    parts += [f"{len(counts.skipped)} skipped"] if counts.skipped else []
    mark = "FAIL" if counts.failed else "ok"
    lines = [f"{mark:<5}{job.name:<26}{', '.join(parts):<34}{seconds:6.1f} s"
             f"{this_thread.cpu:8.1f} s cpu"]
    lines += [f"       {note}" for note in counts.notes]
    lines += [f"       failed: {failure}" for failure in counts.failed]
    if counts.failed and run.log(job.name).exists():
        log = run.log(job.name).read_text(errors="replace").splitlines()
        lines += [f"       | {line[:200]}" for line in log[-30:]]
        lines.append(f"       the whole log: {run.log(job.name)}")
    sys.stdout.write("\n".join(lines) + "\n")  # in one piece: jobs end side by side
    sys.stdout.flush()


def run_job(run, job):
    start, this_thread.cpu = time.monotonic(), 0
    cpu = None if run.options.long or run.options.device or job.name in WIDE else run.cpus.take()
    try:
        os.sched_setaffinity(0, run.cpus.all if cpu is None else {cpu})  # of this thread
        counts = job.run()
    except Exception as problem:  # a broken job is a failed test, not a lost run
        counts = Counts()
        counts.failed.append(f"{job.name}: {type(problem).__name__}: {problem}")
    finally:
        run.cpus.give(cpu)
    report(run, job, counts, time.monotonic() - start)
    return counts


def run_jobs(run, jobs):
    """Runs jobs side by side, each when what it needs has passed."""
    results, waiting, active = {}, list(jobs), {}

    def start_ready():
        for job in list(waiting):
            if len(active) == run.options.jobs or not all(need in results for need in job.needs):
                continue
            waiting.remove(job)
            failed = [need for need in job.needs if results[need].failed]
            if failed:
                results[job.name] = Counts()
                results[job.name].check(job.name, False, f"{failed[0]} failed")
            else:
                active[pool.submit(run_job, run, job)] = job

    with concurrent.futures.ThreadPoolExecutor(run.options.jobs) as pool:
        try:
            start_ready()
            while active:
                done, _ = concurrent.futures.wait(active, return_when="FIRST_COMPLETED")
                for future in done:
                    results[active.pop(future).name] = future.result()
                start_ready()
        finally:  # an interrupt ends what is still running
            for group in list(running):
                end_group(group)
    return results


def prepare(run):
    """The build, and the real model unless offline. Everything else needs them."""
    def pull():
        counts, command = Counts(), [run.build / "greta", "pull", MODEL]
        status = run.execute("pull", command, SECONDS_BUILD)
        if counts.check(f"greta pull {MODEL}", status == 0, ending(status)):
            run.env["GRETA_SMOLLM2"] = json.loads(run.output([*command, "--json"]))["path"]
        return counts

    jobs = [Job("build", [], builder(run, "build", jobs=run.options.jobs))]
    if not run.offline:
        jobs.append(Job("pull", ["build"], pull))
    return run_jobs(run, jobs)


def main():
    parser = argparse.ArgumentParser(description="Builds and tests; see make check.")
    parser.add_argument("--build", default="build")
    parser.add_argument("--cc", default="gcc")
    parser.add_argument("--san", default="")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--long", action="store_true", help="the long tests instead")
    parser.add_argument("--device", help="the tests of a device instead: cuda, hip:1")
    parser.add_argument("words", nargs="*", help="parts: gguf,py,san/test_gguf,tidy; none: all")
    options = parser.parse_args()
    words = [word for argument in options.words for word in argument.split(",") if word]

    run = Run(options)
    start = time.monotonic()
    results = prepare(run)
    if not any(counts.failed for counts in results.values()):
        if options.device:
            found, why = device_find(run, options.device)
            print(f"device {options.device}: {found}" if found else
                  f"there is no device {options.device} here: {why}; nothing was compared")
            if not found:
                return 1
        jobs = (jobs_gpu(run, options.device) if options.device else
                jobs_long(run) if options.long else jobs_of(run))
        chosen = [job for job in jobs if selected(job, words)]
        names = {job.name for job in chosen} | {need for job in chosen for need in job.needs}
        results |= run_jobs(run, [job for job in jobs if job.name in names])
        if not chosen:
            print(f"no part is named {','.join(words)}; there are:", *(job.name for job in jobs))
            return 2
    reasons = [skip.partition(": ")[2] or skip
               for counts in results.values() for skip in counts.skipped]
    for reason, n in sorted(collections.Counter(reasons).items()):
        print(f"skipped {n}: {reason}")
    print(f"{time.monotonic() - start:.0f} seconds; logs in {run.build / 'log'}")
    passed = sum(counts.passed for counts in results.values())
    failed = sum(len(counts.failed) for counts in results.values())
    skipped = sum(len(counts.skipped) for counts in results.values())
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    # A handler that is set is the default again in children: a job started with SIGINT ignored (in
    # the background of a shell) must not pass that on to tests that interrupt programs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
