"""tools/remote.sh against a real sshd: loopback, own port, own keys, as the user who runs this.

The host's home and PATH are folders of the test: nothing of the user's is read or written, and what
the host lacks can be taken away. Its "build" copies the greta under test, or a wrapper of it that
counts how often it runs and waits while a file is there, so that a run can be caught in the middle;
GRETA_LONG=1 (make check-long) also builds the real tree there.
"""
import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [f"tools/{name}" for name in ("remote.sh", "remote_ask.sh", "remote_host.sh")]
NEEDED = """sh bash tar gzip flock setsid sha256sum df awk nproc cat mkdir mv rm ls ln date sleep
            tail head wc grep cp touch chmod readlink make gcc""".split()
HOSTILE = ["it's \"quoted\"", "$(touch planted) `touch planted`", "two\nlines\n", " ", "", "-x",
           "*", "a;touch planted&b|c", "back\\slash\\'", "!1 ~ #", "t\u00e4gl\u00edch \U0001f600"]
WRAPPER = """#!/bin/sh
[ "$1" != pull ] || { echo "$2" >>@/pulled; exit; }
echo begin >&2
echo run >>@/runs
printf '%s\\0' "$@" >arguments; printf %s "${HOSTILE-}" >environment
i=0; while [ -e @/hold ] && [ $i -lt 600 ]; do sleep 0.05; i=$((i + 1)); done
echo end >&2
@greta "$@"
"""


LONG = os.environ.get("GRETA_LONG") == "1"


def in_long(test):
    """Tests of make check-long only."""
    return test if LONG else None


def until(true, seconds=100):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def descendants(pid):
    """Of our own sshd, found by parents, so that nothing else can be meant."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            pass  # it has ended
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        below = [child for child, its in parents.items() if its == parent]
        found += below
        todo += below
    return found


class Host:
    def __init__(self, folder):
        self.folder, self.sshd, self.log = folder, None, folder / "sshd.log"
        self.home, self.bin = folder / "home", folder / "bin"
        for each in (self.home, self.bin):
            each.mkdir()
        for tool in NEEDED:
            (self.bin / tool).symlink_to(shutil.which(tool))
        for name in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name],
                           check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        key = (folder / "host_key.pub").read_text()
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {key}")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
            f"AuthorizedKeysFile {folder}/key.pub\nStrictModes no\nUsePAM no\nPidFile none\n"
            "PasswordAuthentication no\nKexAlgorithms curve25519-sha256\n"  # the least work
            f"SetEnv HOME={self.home} PATH={self.bin}\n")
        self.config = self.configuration("ssh_config", self.port, folder / "known")

    def configuration(self, name, port, known):
        path = self.folder / name
        path.write_text(f"Host tester\nHostName 127.0.0.1\nPort {port}\nIdentitiesOnly yes\n"
                        f"IdentityFile {self.folder}/key\nUserKnownHostsFile {known}\n"
                        "GlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n")
        return path

    def start(self):
        command = [self.program(), "-D", "-e", "-f", self.folder / "sshd_config"]
        with open(self.log, "a") as log:
            self.sshd = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        until(self.listens)

    def listens(self):
        assert self.sshd.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        """The listener and every connection; jobs have sessions of their own and stay."""
        for pid in [self.sshd.pid, *descendants(self.sshd.pid)]:
            try:
                if "sshd" in Path(f"/proc/{pid}/comm").read_text():
                    os.kill(pid, signal.SIGKILL)
            except (OSError, ProcessLookupError):
                pass
        self.sshd.wait()

    @staticmethod
    def program():
        return shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    if not Host.program() or not shutil.which("ssh"):
        pytest.skip("offline: there is no sshd here")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as its service makes it
    host = Host(tmp_path_factory.mktemp("host"))
    host.start()
    yield host
    host.stop()


class Caller:
    """A checkout of a small tree, and remote.sh run in it."""

    def __init__(self, folder, host, model):
        self.folder, self.host, self.model, self.started = folder, host, model, []
        self.greta, self.counts = os.environ["GRETA_BIN"], folder / "counts"
        self.counts.mkdir()
        wrapper = WRAPPER.replace("@greta", shlex.quote(self.greta))
        (self.counts / "greta").write_text(wrapper.replace("@/", f"{self.counts}/"))
        self.make = (f"mkdir -p build && cp {self.counts}/greta build/greta && "
                     f"chmod 755 build/greta && echo build >>{self.counts}/builds")
        self.dir = f"greta of {folder.name}"
        self.tree = self.checkout("tree")
        self.scratch = Path(tempfile.mkdtemp())  # its short name leaves room for that of a socket

    def checkout(self, name):
        tree = self.folder / name
        for script in SCRIPTS:
            (tree / script).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / script, tree / script)
        (tree / "prompts").mkdir()
        (tree / "prompts/a.txt").write_text("Hello, how are you today?\n")
        (tree / ".gitignore").write_text("/artifacts/\n/build/\n")
        for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@b commit -q -m one"):
            subprocess.run(["git", *command.split()], cwd=tree, check=True)
        return tree

    def arguments(self, *arguments, tree=None, make=None, config=None, dir=None, push=None):
        return [(tree or self.tree) / "tools/remote.sh", "tester", "day", "--gpu", "none",
                "--ssh-config", config or self.host.config, "--dir", dir or self.dir,
                "--push", push or self.model, "--greta", self.greta,
                "--make", make or self.make, *arguments]

    def start(self, *arguments, **how):
        env = {name: value for name, value in os.environ.items() if not name.startswith("GRETA_")}
        env["TMPDIR"] = str(self.scratch)
        process = subprocess.Popen(list(map(str, self.arguments(*arguments, **how))), env=env,
                                   cwd=self.folder, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   start_new_session=True)
        self.started.append(process)
        return process

    def run(self, *arguments, **how):
        return self.ended(self.start(*arguments, **how))

    @staticmethod
    def ended(process):
        out, err = process.communicate(timeout=100)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err.decode())

    def count(self, what):
        path = self.counts / what
        return path.read_text().count("\n") if path.exists() else 0

    def until_it_waits(self):
        log = self.tree / "artifacts/day/log/run.1.log"
        until(lambda: log.exists() and log.read_text() == "begin\n")

    def hold(self):
        (self.counts / "hold").touch()

    def release(self):
        (self.counts / "hold").unlink(missing_ok=True)

    def there(self):
        return self.host.home / self.dir


@pytest.fixture
def caller(tmp_path, host, mkmodel):
    caller = Caller(tmp_path, host, mkmodel())
    yield caller
    caller.release()
    for process in caller.started:
        if process.poll() is None:  # of a test that failed; it has a group of its own
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    shutil.rmtree(caller.scratch)
    if host.sshd.returncode is not None:  # a test that failed between stop and start
        host.start()


TOKENIZE = ("--", "tokenize", "-m", "../files/default.gguf", "--json", "-p", "Hello, you")


def refused(done, code, *words):
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("remote: ") and not done.stdout, lines
    for word in words:
        assert word in lines[0]


def test_isolate_there_is_fetched_and_analysed_here(caller):
    done = caller.run()
    assert done.returncode == 0, done.stderr
    out = caller.tree / "artifacts/day"
    assert b"agree bit for bit on a" in done.stdout
    assert done.stdout == (out / "stdout").read_bytes()
    assert (out / "exit-code").read_text() == "0\n"
    there = json.loads((out / "out/isolate/analysis.json").read_text())["prompts"][0]
    here = json.loads((out / "here/isolate/analysis.json").read_text())["prompts"][0]
    assert here["judged"]["replayed"] == there["judged"]["replayed"] > 0  # with the model
    job, = caller.there().glob("jobs/day-*")
    for path in (job / "out").rglob("*.*"):
        assert (out / "out" / path.relative_to(job / "out")).read_bytes() == path.read_bytes()
    assert (out / "log/run.1.log").read_bytes() == (job / "log.1").read_bytes()
    assert "analyse" in (out / "log/remote.log").read_text()

    caller.host.stop()  # all of it is here: the host is not asked again
    again = caller.run()
    caller.host.start()
    assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr
    other = caller.run("another-day")  # DATE given twice
    refused(other, 2, "'another-day'")
    assert (caller.count("builds"), caller.count("runs")) == (1, 1)


def test_the_exit_code_of_a_fault(caller):
    make = f"mkdir -p build && cp {shlex.quote(caller.greta)} build/greta"
    fault = ("--", "isolate", "-m", "../files/default.gguf", "--prompts", "../tree/prompts",
             "--out", "o", "--fault", "ffn_norm-reads-previous-position", "--fault-layer", "0")
    done = caller.run(*fault, make=make)
    assert done.returncode == 1, done.stderr
    assert b"A_input_selection" in done.stdout
    assert (caller.tree / "artifacts/day/here/o/report.md").exists()
    refused(caller.run(make=make), 2, "holds another run", "command", "day-2")


@in_long
def test_a_model_is_pulled_there(caller):
    command = [word for word in caller.arguments("--model", "no-such-model")
               if word not in ("--push", caller.model)]
    done = subprocess.run(list(map(str, command)), text=True, capture_output=True)
    assert done.returncode == 4 and "no-such-model" in done.stderr  # the wrapper only notes it
    assert (caller.counts / "pulled").read_text() == "no-such-model\n"
    asked = (caller.tree / "artifacts/day/out/arguments").read_text().split("\0")
    wanted = "isolate -m no-such-model --prompts ../tree/prompts --out isolate"
    assert asked == [*wanted.split(), ""]


def test_a_dirty_tree(caller):
    (caller.tree / "new.txt").write_text("Hello, new file")
    (caller.tree / "prompts/a.txt").unlink()
    refused(caller.run(*TOKENIZE), 2, "dirty", "--dirty")
    assert not caller.there().exists()
    index = (caller.tree / ".git/index").read_bytes()
    done = caller.run("--dirty", "--", "tokenize", "-m", "../files/default.gguf", "-f",
                      "../tree/new.txt", "--json")
    assert done.returncode == 0, done.stderr
    work, = caller.there().glob("work/*/new.txt")
    assert not (work.parent / "prompts").exists()
    assert (caller.tree / ".git/index").read_bytes() == index
    assert "+changes" in (caller.tree / "artifacts/day/job").read_text()


def test_a_killed_script_goes_on(caller):
    caller.hold()
    first = caller.start(*TOKENIZE)
    caller.until_it_waits()
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=100)
    caller.release()
    done = caller.run(*TOKENIZE)
    assert done.returncode == 0 and json.loads(done.stdout), done.stderr
    assert (caller.count("builds"), caller.count("runs")) == (1, 1)
    assert (caller.tree / "artifacts/day/log/run.1.log").read_text() == "begin\nend\n"
    assert (caller.tree / "artifacts/day/log/remote.log").read_text().count("push:") == 2


@in_long
def test_an_interrupted_script_goes_on(caller):
    caller.hold()
    first = caller.start(*TOKENIZE)
    caller.until_it_waits()
    os.kill(first.pid, signal.SIGTERM)
    stopped = caller.ended(first)
    assert stopped.returncode == 143 and "goes on" in stopped.stderr
    assert not list(caller.scratch.iterdir())
    caller.release()
    assert caller.run(*TOKENIZE).returncode == 0
    assert caller.count("runs") == 1


def test_a_lost_connection_loses_nothing(caller):
    caller.hold()
    process = caller.start(*TOKENIZE)
    caller.until_it_waits()
    caller.host.stop()
    caller.release()
    job, = caller.there().glob("jobs/day-*")
    until((job / "status.1").exists)  # the run ended while nobody could ask
    caller.host.start()
    done = caller.ended(process)
    assert done.returncode == 0 and json.loads(done.stdout), done.stderr
    assert "was lost" in done.stderr and caller.count("runs") == 1
    assert (caller.tree / "artifacts/day/log/run.1.log").read_text() == "begin\nend\n"


@in_long
def test_a_lost_host_is_not_waited_for_for_ever(caller):
    caller.hold()
    process = caller.start("--patience", "1", *TOKENIZE)
    until(lambda: caller.count("runs") == 1)
    caller.host.stop()
    done = caller.ended(process)
    caller.host.start()
    assert done.returncode == 4 and "was not reached for 1 seconds" in done.stderr
    caller.release()
    assert caller.run(*TOKENIZE).returncode == 0 and caller.count("runs") == 1


def test_a_failing_command_and_a_failing_build(caller):
    command = ("--", "tokenize", "-m", "../files/none.gguf", "-p", "x")
    broken = caller.run(*command, make="echo what broke >&2; exit 7")
    assert broken.returncode == 4 and "exit status 7" in broken.stderr.splitlines()[-1]
    log = caller.tree / "artifacts/day/log"
    assert log.joinpath("build.1.log").read_text() == "what broke\n"
    shutil.rmtree(caller.tree / "artifacts")
    for attempt in (1, 2):  # no verdict, so it is tried again
        done = caller.run(*command)
        assert done.returncode == 4, done.stderr
        assert "none.gguf" in log.joinpath(f"run.{attempt}.log").read_text()
        assert "none.gguf" in done.stderr and caller.count("runs") == attempt
    empty = caller.run("--", "run", make="true")
    assert empty.returncode == 2  # another command under this DATE


def test_hostile_arguments(caller, tmp_path):
    model = tmp_path / "-a 'b' $(touch planted)\n.gguf"
    shutil.copy(caller.model, model)
    directory = "-d 'i' \"r\" $(touch planted)\n\\"
    environment = "HOSTILE=" + "|".join(HOSTILE)
    done = caller.run("--env", environment, "--", "no-command", *HOSTILE, push=model, dir=directory)
    assert done.returncode == 2 and "no-command" in done.stderr  # greta's own answer
    out = caller.tree / "artifacts/day/out"
    wanted = "".join(f"{word}\0" for word in ["no-command", *HOSTILE])
    assert (out / "arguments").read_bytes() == wanted.encode()
    assert (out / "environment").read_text() == environment.partition("=")[2]
    pushed, = caller.host.home.joinpath(directory).glob("files/*/*.gguf")
    assert pushed.name == model.name and pushed.read_bytes() == model.read_bytes()
    script = caller.tree / "tools/remote.sh"
    for words in (["-oProxyCommand=touch planted"], ["a b"], ["a;touch planted"],
                  ["$(touch planted)"], [], [""], ["h", "../up"], ["h", "-x"], ["h", ".x"],
                  ["h", "a/b"], ["h", "a\nb"], ["h", "--gpu", "x"], ["h", "--env", "a b=c"],
                  ["h", "--patience", "1;2"],
                  ["h", "--make"], ["h", "--"], ["h", "--dirty", "--commit", "HEAD"]):
        refused(subprocess.run([script, *words], text=True, capture_output=True, cwd=tmp_path,
                               stdin=subprocess.DEVNULL), 2)
    assert not [path for path in (*tmp_path.rglob("*"), *caller.host.home.rglob("*"))
                if path.name == "planted"]


def test_a_host_that_cannot_be_used(caller):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        config = caller.host.configuration("closed", closed.getsockname()[1], "/dev/null")
        refused(caller.run(config=config), 4, "tester cannot be reached", "refused")
    config = caller.host.configuration("unknown", caller.host.port, "/dev/null")
    refused(caller.run(config=config), 4, "cannot be reached", "verification failed")
    (caller.host.home / "file").touch()
    refused(caller.run(dir="file/below"), 4, "cannot be used", "file/below")

    tools = caller.host.bin
    wanted = [(["gcc"], "no gcc to build with"), (["flock", "setsid"], "lacks flock setsid")]
    for names, words in wanted:
        for name in names:
            (tools / name).unlink()
        command = [word for word in caller.arguments() if word not in ("--make", caller.make)]
        done = subprocess.run(list(map(str, command)), text=True, capture_output=True)
        for name in names:
            (tools / name).symlink_to(shutil.which(name))
        assert done.returncode == 4 and words in done.stderr.splitlines()[-1]
    (tools / "df").unlink()
    (tools / "df").write_text("#!/bin/sh\necho; echo a 1 1 10240 1% /\n")
    (tools / "df").chmod(0o755)
    done = caller.run()
    (tools / "df").unlink()
    (tools / "df").symlink_to(shutil.which("df"))
    assert done.returncode == 4 and "has 10 of 1025 MB free" in done.stderr.splitlines()[-1]
    (caller.host.home / ".bashrc").write_text("echo 'Welcome'\n")
    noisy = caller.run()
    (caller.host.home / ".bashrc").unlink()
    if noisy.returncode:  # where the user's shell is bash, built to read it for ssh
        refused(noisy, 4, "'Welcome'", "silent")


def test_two_at_once_on_one_folder(caller):
    caller.hold()
    other = caller.checkout("other")
    both = [caller.start(*TOKENIZE), caller.start(*TOKENIZE, tree=other)]
    logs = [tree / "artifacts/day/log/run.1.log" for tree in (caller.tree, other)]
    until(lambda: all(log.exists() and log.read_text() == "begin\n" for log in logs))
    refused(caller.run(*TOKENIZE), 4, "another remote.sh works in")
    caller.release()
    ended = [caller.ended(process) for process in both]
    assert [done.returncode for done in ended] == [0, 0], [done.stderr for done in ended]
    assert ended[0].stdout == ended[1].stdout and json.loads(ended[0].stdout)
    assert (caller.count("builds"), caller.count("runs")) == (1, 1)
    model, = caller.there().glob("files/*/*.gguf")
    assert model.read_bytes() == caller.model.read_bytes()


def test_stop_ends_our_run_only(caller):
    caller.hold()
    process = caller.start(*TOKENIZE)
    caller.until_it_waits()
    os.kill(process.pid, signal.SIGINT)
    assert caller.ended(process).returncode == 130
    job, = caller.there().glob("jobs/day-*")
    foreign = subprocess.Popen(["sleep", "60"], cwd=job / "out", start_new_session=True)
    pid = int((job / "pid.1").read_text())
    (job / "pid.1").write_text(f"{foreign.pid}\n")  # a number that is somebody else's now
    other = caller.run("--stop", *TOKENIZE)
    assert other.returncode == 4 and "by hand" in other.stderr
    (job / "pid.1").write_text(f"{pid}\n")
    assert caller.run("--stop", *TOKENIZE).returncode == 0
    until(lambda: not Path(f"/proc/{pid}").exists())
    (job / "pid.1").write_text(f"{foreign.pid}\n")  # the lock says that the job is gone
    again = caller.run("--stop", *TOKENIZE)
    assert again.returncode == 0 and "no such run" in again.stderr
    assert foreign.poll() is None
    foreign.kill()
    foreign.wait()
    caller.release()
    done = caller.run(*TOKENIZE)
    assert done.returncode == 0 and caller.count("runs") == 2, done.stderr


def test_what_was_moved_in_part_is_gone_on_with(caller):
    whole = caller.model.read_bytes()
    name = hashlib.sha256(whole).hexdigest()
    part = caller.there() / "files" / name / f"{caller.model.name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(whole[:1000])
    done = caller.run(*TOKENIZE)
    assert done.returncode == 0 and f"{len(whole) - 1000} of {len(whole)} bytes" in done.stderr
    out, job = caller.tree / "artifacts/day", next(caller.there().glob("jobs/day-*"))
    helper, = caller.there().glob("remote_host-*.sh")
    stream = subprocess.run(["sh", f"./{helper.name}", "send", job.name, "0"], cwd=caller.there(),
                            capture_output=True, check=True).stdout
    cases = [(b"x" * 5000, 4), (b"", 0)] if LONG else []
    for begun, code in ((stream[:5000], 0), *cases):
        (out / "exit-code").unlink(missing_ok=True)
        (out / "stdout").unlink(missing_ok=True)
        (out / ".fetched.1.tar").write_bytes(begun)
        done = caller.run(*TOKENIZE)
        assert done.returncode == code and ("is damaged" in done.stderr) == (code == 4), done.stderr
    assert caller.count("runs") == 1
    if not LONG:
        return
    part.with_suffix("").unlink()
    part.write_bytes(bytes(len(whole)))  # as long as the model, and another
    job.joinpath("status.1").write_text("4\n")
    (out / "exit-code").unlink()
    done = caller.run(*TOKENIZE)
    assert done.returncode == 0 and caller.count("runs") == 2, done.stderr
    assert part.with_suffix("").read_bytes() == whole


@in_long
def test_a_trace_of_there_is_compared_with_one_of_here(caller, greta):
    here = caller.folder / "t.jsonl"
    greta("trace", "-m", caller.model, "-p", "Hello", "-o", here, "--chunk", "2",
          "--positions", "last,cache")
    trace = ("--", "trace", "-m", "../files/default.gguf", "-p", "Hello", "-o", "t.jsonl",
             "--positions", "last,cache")
    done = caller.run("--compare", here, *trace)
    assert done.returncode == 0 and b"equal" in done.stdout, done.stderr
    greta("trace", "-m", caller.model, "-p", "Hellp", "-o", here, "--force")
    other = caller.run("--compare", here, *trace)
    assert other.returncode == 6 and caller.count("runs") == 1, other.stderr


def test_shellcheck_and_help(caller):
    if not shutil.which("shellcheck"):
        pytest.skip("offline: there is no shellcheck here")
    done = subprocess.run(["shellcheck", "-x", *SCRIPTS, "tools/deps.sh"], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stdout
    told = subprocess.run([ROOT / "tools/remote.sh", "--help"], text=True, capture_output=True)
    assert told.returncode == 0
    text = (ROOT / "tools/remote.sh").read_text()
    for flag in {word for line in text.splitlines() if line.lstrip().startswith("--")
                 for word in line.replace("|", " ").replace(")", " ").split()
                 if word.startswith("--") and len(word) > 2}:
        assert flag in told.stdout, flag


@in_long
def test_the_real_build_there(caller):
    for tool in ("cc", "ar", "sed", "cmp", "as", "ld", "expand", "rmdir", "dirname"):
        (caller.host.bin / tool).exists() or (caller.host.bin / tool).symlink_to(shutil.which(tool))
    tree = caller.folder / "whole"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@b commit -q -m one"):
        subprocess.run(["git", *command.split()], cwd=tree, check=True)
    for folder, code in (("two words", 4), ("greta-remote", 0)):
        isolate = ("--", "isolate", "-m", "../files/default.gguf", "-p", "Hello, how are you?",
                   "--prompt-id", "hello", "--out", "o")
        command = [word for word in caller.arguments(*isolate, tree=tree, dir=folder)
                   if word not in ("--make", caller.make)]
        done = subprocess.run(list(map(str, command)), capture_output=True, cwd=caller.folder)
        assert done.returncode == code, done.stderr.decode()[-2000:]
        assert (b"folder with a space" in done.stderr) == (code == 4)
    assert b"agree bit for bit on hello" in done.stdout
