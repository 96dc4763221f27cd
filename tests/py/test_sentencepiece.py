"""GGUF vocabularies of SentencePiece against the library that defines them: BPE and unigram models
of several sizes and options are trained here, written as GGUF, and must give the library's ids and
text on the corpus; any bytes come back as they were where there are byte tokens.
"""
import io
import itertools
import struct

import gguf
import pytest
import sentencepiece
from corpus import corpus, file_lines, random_bytes
from vocabulary import CONTROL, ENDS, SPECIAL, ask, decode, encode
from volume import either, sample

MARK = "\u2581"
USER = ["<tool>", "<to", "→→", MARK * 3, MARK * 2, "\n\n"]
IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
SHAPES = {
    "llama": {**IDENTITY, "byte_fallback": True, "split_digits": True},
    "gemma": {**IDENTITY, "byte_fallback": True, "add_dummy_prefix": False,
              "user_defined_symbols": USER, "allow_whitespace_only_pieces": True},
    "user": {**IDENTITY, "byte_fallback": True, "user_defined_symbols": USER},
    "plain": {},  # nmt_nfkc, spaces removed, unknown tokens
    "folded": {"normalization_rule_name": "nmt_nfkc_cf", "remove_extra_whitespaces": False,
               "user_defined_symbols": USER},
}


# ---- The model file: protobuf, as far as it is needed --------------------------------------------

def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


def fields(data):
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        else:
            n, at = {1: (8, at), 5: (4, at)}.get(key & 7) or varint(data, at)
            value, at = data[at : at + n], at + n
        yield key >> 3, value


def number(value):
    """A varint."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + number(value >> 7)


def piece_field(piece):
    """A piece as a field of the model."""
    name = piece[0].encode()
    inside = b"\x0a" + number(len(name)) + name + struct.pack("<Bf", 0x15, piece[1])
    inside += b"\x18" + number(piece[2])
    return b"\x0a" + number(len(inside)) + inside


def rest_of(model):
    """What of the model is not a piece: its fields, length-delimited all of them."""
    found = b""
    for key, value in fields(model.proto):
        if key != 1:
            found += number(key << 3 | 2) + number(len(value)) + value
    return found


class Model:
    """Pieces (text, score, type), the normaliser's options, and the library on the same model."""

    def __init__(self, proto, kind):
        self.kind, self.proto = kind, proto
        self.library = sentencepiece.SentencePieceProcessor(model_proto=proto)
        self.pieces, self.options = [], {}
        for number, value in fields(proto):
            if number == 1:
                piece = dict(fields(value))
                score = struct.unpack("<f", piece.get(2, bytes(4)))[0]
                self.pieces.append([piece[1].decode(), score, piece.get(3, 1)])
            elif number == 3:
                self.options = dict(fields(value))

    def write(self, path, **keys):
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_tokenizer_model("llama" if self.kind == "bpe" else "t5")
        writer.add_token_list([piece[0] for piece in self.pieces])
        writer.add_token_scores([piece[1] for piece in self.pieces])
        writer.add_token_types([piece[2] for piece in self.pieces])
        known = {"add_space_prefix": bool(self.options.get(3, 1)),
                 "remove_extra_whitespaces": bool(self.options.get(4, 1)),
                 "unknown_token_id": self.library.unk_id(), "bos_token_id": self.library.bos_id(),
                 "eos_token_id": self.library.eos_id()}
        for name, value in {**known, **keys}.items():
            add = writer.add_bool if isinstance(value, bool) else writer.add_uint32
            add(f"tokenizer.ggml.{name}", value)
        if self.options.get(2):
            writer.add_precompiled_charsmap(self.options[2])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        self.path = path
        return path


def train(kind, size, shape):
    lines = [line.replace("\0", "") for line in file_lines(600) if len(line) < 3000]
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=buffer, model_type=kind, vocab_size=size,
        character_coverage=0.995, hard_vocab_limit=False, max_sentence_length=20000,
        minloglevel=2, num_threads=1, **SHAPES[shape])
    return Model(buffer.getvalue(), kind)


CASES = list(itertools.product(("bpe", "unigram"), (1500, 4000), SHAPES))


@pytest.fixture(scope="module")
def lines():
    """The library's text ends at NUL."""
    return [line.replace("\0", "") for line in corpus()]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def model(request, scratch):
    found = train(*request.param)
    found.shape = request.param[2]
    found.write(scratch / ("sp-" + "-".join(map(str, request.param)) + ".gguf"))
    return found


ODD = ["", " ", "   ", "a", "  a  b   c ", MARK, f"{MARK}a {MARK}", "<tool>", "x<tool>y",
       "<to <tool", "→→→", "a\n\n\nb", "\r\n", "\u3000\u00a0", "<s></s><unk>", "<0x41>",
       "ﬁ ½ Å e\u0301 İ",
       "😀" * 3, "👩\u200d🚀🇪🇸", "a" * 300, " " * 300, "שלום مرحبا", "9" * 40, "字" * 50, "\t\t x"]


def test_ids_and_text(model, lines):
    texts = sample(lines, 36) + ODD
    answers = ask(model.path, [encode(text.encode()) for text in texts])
    for text, answer in zip(texts, answers):
        right = model.library.encode(text)
        assert answer.ids == right, (text, answer.error, [model.pieces[i][0] for i in right])
    same_text(model, [answer.ids for answer in answers])
    same_text(model, [answer.ids[len(answer.ids) // 2 :] for answer in answers[::4]])


def same_text(model, ids):
    """The library shows an unknown token as a sign of its own, and control tokens not at all."""
    unknown = model.library.unk_id()
    ids = [[i for i in one if i != unknown] for one in ids]
    for one, answer in zip(ids, ask(model.path, [decode(one, skip_control=True) for one in ids])):
        right = model.library.decode(one)
        assert answer.data.decode(errors="replace") == right or "\ufffd" in right, (one, right)


def test_any_bytes(model):
    """Byte tokens give every byte back; what SentencePiece cannot tell apart is left out."""
    if model.shape not in ("llama", "gemma", "user"):
        return
    texts = [t for t in random_bytes(either(900, 300)) if MARK.encode() not in t]
    answers = ask(model.path, [encode(t) for t in texts])
    decoded = ask(model.path, [decode(a.ids) for a in answers])
    assert [answer.data for answer in decoded] == texts
    begin = ask(model.path, [encode(b"", ENDS), encode(b"x", ENDS)])
    assert begin[0].ids == ([1] if model.kind == "bpe" else [2])


def test_unused(scratch, lines):
    """An unused piece is taken apart as it was joined."""
    model = train("bpe", 1500, "llama")
    normal = [piece for piece in model.pieces if piece[2] == 1 and len(piece[0]) > 1]
    for piece in normal[::3]:
        piece[2] = 5
    changed = b"".join(map(piece_field, model.pieces))
    model.library = sentencepiece.SentencePieceProcessor(model_proto=changed + rest_of(model))
    assert sum(piece[2] == 5 for piece in model.pieces) > 200
    model.write(scratch / "sp-unused.gguf")
    texts = lines[::40]
    answers = ask(model.path, [encode(text.encode()) for text in texts])
    for text, answer in zip(texts, answers):
        assert answer.ids == model.library.encode(text), text


def test_control_tokens(scratch):
    """With `special` a text is cut at control tokens, and each part is encoded by itself."""
    model = train("bpe", 1500, "llama")
    model.pieces.append(["<|eot|>", 0.0, CONTROL])
    model.write(scratch / "sp-control.gguf", add_bos_token=True)
    eot, parts = len(model.pieces) - 1, ["Hello there", " you ", "", "x"]
    text = "<|eot|>".join(parts).encode()
    wanted = [model.library.bos_id()]
    for i, part in enumerate(parts):
        wanted += [eot] * (i > 0) + model.library.encode(part)
    special, plain = ask(model.path, [encode(text, SPECIAL | ENDS), encode(text)])
    assert special.ids == wanted
    assert plain.ids == model.library.encode(text.decode())


BAD = [
    (["<0xZZ>", 0.0, 6], 'token 300 "<0xZZ>": not a byte token'),
    (["<0x1", 0.0, 6], 'token 300 "<0x1": not a byte token'),
    (["<0x41>", 0.0, 6], 'token 300 "<0x41>": a second token for this byte'),
    (["a", float("nan"), 1], "the score of token 300 is not finite"),
    (["x" * 257, 0.0, 5], "an unused piece of 257 bytes (at most 256)"),
    (["x" * 257, 0.0, 3], "a control or user-defined token of 257 bytes (at most 256)"),
]


def test_refused(scratch):
    model = train("bpe", 1500, "llama")
    pieces = model.pieces
    cases = [(pieces[:300] + [piece], message) for piece, message in BAD]
    without = [piece for piece in pieces if piece[0] != "<0x07>"]
    cases.append((without, "there is no token for byte 0x07"))
    for model.pieces, message in cases:
        path = model.write(scratch / "sp-bad.gguf")
        with pytest.raises(AssertionError, match=".") as caught:
            ask(path, [])
        assert message in str(caught.value)
    model.kind = "unigram"
    model.pieces = pieces[:300] + [["y" * 1025, 0.0, 1]]
    with pytest.raises(AssertionError) as caught:
        ask(model.write(scratch / "sp-bad.gguf"), [])
    assert "a unigram piece of 1025 bytes (at most 1024)" in str(caught.value)
