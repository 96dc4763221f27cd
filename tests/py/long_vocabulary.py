"""Gemma 3's own vocabulary against the sentencepiece library: 262,144 pieces, of make check-long.

A GGUF file has all that a SentencePiece model is: pieces with scores and types, and what the
normaliser does. The model is put together from these and given to the library, which must make the
same ids of the whole corpus, and the same text of the ids. The converter writes user-defined pieces
with blanks where the model has the mark of one, and calls the unknown piece a control token.
"""
import json
import os
import subprocess

import gguf
import pytest
import sentencepiece
from conftest import place
from corpus import corpus, random_bytes
from test_sentencepiece import MARK, ODD, number, piece_field
from vocabulary import ask, decode, encode

UNKNOWN, USER, BPE = 2, 4, 2
FEATURES = ["\n\n\n\n", "  \n  ", "<table><tr>", "<start_of_turn>user\n", "<unused7>",
            "[multimodal]", " " * 40, "\t" * 9, "\v", "a" * 4000, "x  y   z    w", "</h1>\r\n"]


def field(key, value):
    """A field of protobuf: a number, or bytes."""
    if isinstance(value, int):
        return number(key << 3) + number(value)
    return number(key << 3 | 2) + number(len(value)) + value


def library(path):
    """The library on the pieces of a GGUF file."""
    fields = gguf.GGUFReader(path).fields

    def key(name):
        return fields[f"tokenizer.ggml.{name}"].contents()

    unknown = key("unknown_token_id")
    parts = []
    for i, piece in enumerate(zip(key("tokens"), key("scores"), key("token_type"))):
        text, score, kind = piece
        text = text.replace(" ", MARK) if kind == USER else text
        parts.append(piece_field([text, score, UNKNOWN if i == unknown else kind]))
    # TrainerSpec: model type, byte fallback, ids and names of the four; NormalizerSpec: no prefix,
    # all white space kept, blanks escaped.
    trainer = field(3, BPE) + field(35, 1)
    for at, name in enumerate(("unknown", "bos", "eos", "padding")):
        found = key(f"{name}_token_id")
        trainer += field(40 + at, found) + field(45 + at, key("tokens")[found].encode())
    normalizer = (field(1, b"identity") + field(2, b"") + field(3, int(key("add_space_prefix"))) +
                  field(4, 0) + field(5, 1))
    parts += [field(2, trainer), field(3, normalizer)]
    return sentencepiece.SentencePieceProcessor(model_proto=b"".join(parts))


@pytest.fixture(scope="module")
def gemma3():
    if os.environ.get("GRETA_OFFLINE") == "1":
        pytest.skip("offline: the real model is not here")
    done = subprocess.run([place("GRETA_BIN"), "pull", "gemma3-270m", "--json"],
                          capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)["path"]


def test_ids_and_text(gemma3):
    texts = [line.replace("\0", "") for line in corpus()] + ODD + FEATURES
    model = library(gemma3)
    assert model.get_piece_size() == 262144
    answers = ask(gemma3, [encode(text.encode()) for text in texts])
    wrong = [text for text, answer in zip(texts, answers) if answer.ids != model.encode(text)]
    assert not wrong, (len(wrong), wrong[:3])
    used = {i for answer in answers for i in answer.ids}
    assert len(used) > 20000, len(used)
    decoded = ask(gemma3, [decode(answer.ids) for answer in answers])
    # The mark of a blank in a text cannot be told from a blank.
    assert [answer.data.decode() for answer in decoded] == [t.replace(MARK, " ") for t in texts]


def test_any_bytes(gemma3):
    texts = [t for t in random_bytes(900) if MARK.encode() not in t]
    answers = ask(gemma3, [encode(t) for t in texts])
    decoded = ask(gemma3, [decode(a.ids) for a in answers])
    assert [answer.data for answer in decoded] == texts
