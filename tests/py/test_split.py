"""Split GGUF files, written by the parts of gguf-py that write them: the same model as one file.

The oracle is equality: the model in parts and the model in one file hold the same tensors, so every
number greta computes must be the same, bit for bit.
"""
import json

import gguf
import pytest


@pytest.fixture(scope="module")
def parts(mkmodel, scratch):
    """(the single file, its parts): rewritten by gguf.GGUFWriter, eight tensors a part."""
    single = mkmodel("--seed", 3)
    reader = gguf.GGUFReader(single)
    arch = str(reader.get_field("general.architecture").contents())
    writer = gguf.GGUFWriter(None, arch, split_max_tensors=8)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        sub = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    folder = scratch / "parts"
    folder.mkdir()
    writer.write_header_to_file(folder / "model.gguf")
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = sorted(folder.glob("*.gguf"))
    assert len(found) > 2 and found[0].name == f"model-00001-of-{len(found):05}.gguf"
    return single, found


def test_same_logits(parts, greta, scratch):
    single, found = parts
    logits = []
    for path in (single, found[0], found[-1]):
        out = scratch / "split.logits"
        greta("eval", "--model", path, "--tokens", "1,2,3,4,5,6,7,8,9", "--logits-out", out)
        logits.append(out.read_bytes())
        out.unlink()
    assert len(logits[0]) > 1000
    assert logits[1] == logits[0]
    assert logits[2] == logits[0]


def test_inspect(parts, greta):
    single, found = parts
    whole, split = (json.loads(greta("inspect", path, "--json")) for path in (single, found[1]))
    assert split["n_part"] == len(found)
    assert split["bytes"] == sum(path.stat().st_size for path in found)
    for key in ("n_parameters", "bytes_weights", "types", "model", "memory"):
        assert split[key] == whole[key], key
    names = [tensor["name"] for tensor in whole["tensors"]]
    assert [tensor["name"] for tensor in split["tensors"]] == names
    for path, number in zip(found, range(1, len(found) + 1)):
        inside = {t.name: int(t.data_offset) for t in gguf.GGUFReader(path).tensors}
        said = {t["name"]: t["offset"] for t in split["tensors"] if t["part"] == number}
        assert said == inside
