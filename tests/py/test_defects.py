"""Devices with one mistake (tests/plugin/faulty_ops.c) against the CPU: the exam's mode `device`,
and what a user types. Which op is the first to be wrong is said here by hand, from the models'
shapes.
"""
import json

import pytest
from command import answer, cli  # noqa: F401 (fixtures)
from volume import either

D, C, E = "D_kernel_math", "C_weight_layout", "E_position"
R, P = "R_rounding", "P_precision_policy"

# 384 queries of 64 to a head; 192 keys; 1120 in the feed-forward; 301 ids.
LLAMA = ("--type", "Q8_0", "--layers", 1, "--vocab", 301, "--ff", 1120, "--heads", 6,
         "--heads-kv", 3)
LLAMA_FINDS = {
    "gpu-barrier-missing-norm": ("attn_norm", D),
    "gpu-barrier-missing-product": ("mlp_out", D),  # the only one of more than 1024 terms
    "gpu-row-index-8-bits": ("q", C),
    "gpu-grid-tail-product": ("logits", D),  # the only one whose rows are no multiple of 32
    "gpu-grid-tail-columns": ("act", D),
    "gpu-graph-stale": ("q_rope", E),
    "gpu-order-norm": (None, R),  # the first norm in which a bit is lost otherwise
    "gpu-order-product": ("q", R),
    "gpu-f16-accumulator": ("q", P),
}
# Weights of binary16, of which many are subnormal; rows of 300 and 600.
QWEN3 = ("--arch", "qwen3", "--type", "F16", "--layers", 1, "--ff", 600, "--heads", 3,
         "--heads-kv", 3)
QWEN3_FINDS = {
    "gpu-flush-to-zero": ("embed", D),  # of binary16 as well
    "gpu-barrier-missing-product": ("mlp_out", D),  # of more than 256 terms
    "gpu-tf32": ("q", P),  # activations; weights of binary16 are TF32 already
}
LARGE = ("--type", "Q8_0", "--layers", 1, "--vocab", 65600)


def exam(greta, folder, model, *flags, text="abcdefgh"):
    """The lines of the mode `device`, by mistake; "": of the device that makes none."""
    (folder / "prompts").mkdir(exist_ok=True)
    (folder / "prompts/one.txt").write_text(text)
    greta("score", "-m", model, "--modes", "device", "--sorts", "fault,outside,clean", "--prompts",
          folder / "prompts", "--seed", 1, "--out", folder / "exam", *flags)
    lines = [json.loads(line) for line in (folder / "exam/cases.jsonl").read_text().splitlines()]
    assert lines and not any(line["refused"] for line in lines)
    return {(line["planted"]["order"], line["sort"]): line for line in lines}


def check(lines, finds):
    """Each is found with its cause; nothing else differs, or is told to."""
    for (name, sort), line in lines.items():
        told = line["referee"]
        if sort == "fault" and name in finds:
            stage, cause = finds[name]
            assert line["differs"] and told["verdict"] == "fault", line
            assert stage in (None, told["place"]["stage"]) and told["rank"] == 1, line
            assert told["position"] == line["position"], line
            assert (told["bucket"], line["planted"]["cause"]) == (cause, cause), line
            assert told["state"] == "CONFIRMED", line
        elif not line["differs"]:
            assert told["verdict"] == "aligned", line
        else:
            assert sort == "fault" and told["bucket"] == line["planted"]["cause"], line
    assert {name for name, sort in lines if sort == "fault"} >= set(finds)
    assert not lines["", "clean"]["differs"]


def test_each_mistake_is_found_with_its_cause(greta, mkmodel, tmp_path):
    check(exam(greta, tmp_path, mkmodel(*LLAMA)), LLAMA_FINDS)


def test_mistakes_with_float_weights(greta, mkmodel, tmp_path):
    flags = either((), ("--faults", "flush"))
    finds = either(QWEN3_FINDS, {"gpu-flush-to-zero": QWEN3_FINDS["gpu-flush-to-zero"]})
    check(exam(greta, tmp_path, mkmodel(*QWEN3), *flags), finds)


def test_an_index_of_16_bits(greta, mkmodel, tmp_path):
    lines = exam(greta, tmp_path, mkmodel(*LARGE), "--faults", "index-16", text="q7" * 8)
    check(lines, {"gpu-row-index-16-bits": ("logits", C)})


def test_a_captured_graph_is_stale_from_the_second_token_on(greta, mkmodel, tmp_path):
    """Nothing is decoded: nothing differs, and nothing is said."""
    lines = exam(greta, tmp_path, mkmodel(*LLAMA), "--faults", "graph")
    found = lines["gpu-graph-stale", "fault"]
    assert found["position"] >= found["tokens"] - 2  # the last two are decoded
    assert not lines["gpu-graph-stale", "outside"]["differs"]


@pytest.mark.parametrize("flags, code, cause", [
    (("--devices", "cpu,faulty"), 0, "NONE"),
    (("--devices", "cpu,faulty:12"), 1, P),
])
def test_isolate(cli, mkmodel, tmp_path, flags, code, cause):  # noqa: F811
    model = mkmodel("--type", "F32", "--layers", 1)
    done = cli("isolate", "-m", model, "-p", "abcd", *flags, "--out", tmp_path / "out", "--json")
    assert done.returncode == code, done.stderr.decode()
    prompt = json.loads(done.stdout)["prompts"][0]
    assert prompt["bucket"] == cause
    assert code == 0 or prompt["state"] == "CONFIRMED"


def test_a_run_by_itself(cli, mkmodel, tmp_path):  # noqa: F811
    """No other run is needed: every op is replayed on what it read."""
    model = mkmodel("--type", "F32", "--layers", 1)
    answer(cli("trace", "-m", model, "-p", "abcd", "-n", 2, "--device", "faulty:9", "-o",
               tmp_path / "t.jsonl"))
    done = cli("audit", "-m", model, tmp_path / "t.jsonl")
    assert done.returncode == 1, done.stderr.decode()
    assert "turns q_rope by other angles (position 4 for 5)" in done.stdout.decode()


def test_they_are_listed(cli):  # noqa: F811
    listed = json.loads(answer(cli("faults", "--json")))["devices"]
    doctor = json.loads(answer(cli("doctor", "--json")))["plugins"]
    devices = next(one for one in doctor if one["name"] == "faulty")["devices"]
    assert [one["number"] for one in listed] == [one["number"] for one in devices]
    for one, device in zip(listed, devices):
        assert device["name"] == f"{one['name']} {one['number']}"


def test_the_exam_flushes_as_our_kernels_do(cli, mkmodel, tmp_path):  # noqa: F811
    """The source of the GPU's kernels, run where the processor flushes: the same bits as the exam's
    device, in every row, and the same verdict."""
    model = mkmodel(*QWEN3)
    for name, device, env in (("cpu", "cpu", {}), ("exam", "faulty:1", {}),
                              ("gpu", "emu", {"EMULATOR_FLUSH": "1"})):
        answer(cli("trace", "-m", model, "-p", "abcd", "-n", 1, "--device", device, "-o",
                   tmp_path / f"{name}.jsonl", env=env))
    same = json.loads(answer(cli("compare", "exam.jsonl", "gpu.jsonl", "--json")))
    assert same["verdict"] == "equal" and same["equal"] == same["paired"] > 100
    found = cli("compare", "cpu.jsonl", "gpu.jsonl", "-m", model, "--json")
    assert found.returncode == 1, found.stderr.decode()
    first = next(op for op in json.loads(found.stdout)["ops"] if op["is_decisive"])
    assert (first["stage"], first["bucket"], first["state"]) == ("embed", D, "CONFIRMED")
