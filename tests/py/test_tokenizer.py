"""The tokenizer against the `tokenizers` library: the same ids on valid UTF-8, under each of the
pre-tokenizers, on text from this machine's packages and from a seeded generator; and on any bytes
either the same bytes back or the refusal of the first byte that has no token.

Two vocabularies: one trained here on text of this machine (so that it also runs offline), and that
of the real model. Only one of the pre-tokenizers is the real model's own; for the others its
vocabulary is written under another name.
"""
import collections
import json
import random
import re

import pytest
from corpus import SEED, code_point_lines, corpus, random_bytes
from tokenizers import Tokenizer, models, trainers
from vocabulary import (ALPHABET, CONTROL, DROP, ENDS, FAMILIES, NORMAL, SPECIAL, USER_DEFINED,
                        Vocabulary, ask, byte_level, encode)
from volume import either, sample


@pytest.fixture(scope="module")
def lines():
    return corpus()


def train(lines):
    """A vocabulary of this machine's text, with added tokens that overlap each other."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level(True)
    tokenizer.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=3000, show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    # Words that no merge makes: only where merges are ignored for whole words do they come out.
    words = collections.Counter(re.findall(" [a-z]{5,}", "".join(lines)))
    common = ["Ġ" + word[1:] for word, _ in words.most_common(300)]
    tokens += [word for word in common if word not in tokens][:40]
    added = {"<|im_start|>": CONTROL, "<|im_end|>": CONTROL, "<|im_end|>\n": CONTROL,
             "<tool_call>": USER_DEFINED, "\t\t": USER_DEFINED, "→→": USER_DEFINED,
             "im_end": USER_DEFINED, "<tool": USER_DEFINED, "\u00a0→": USER_DEFINED}
    types = [NORMAL] * len(tokens) + list(added.values())
    merges = [" ".join(pair) for pair in model["merges"]]
    return Vocabulary(tokens + list(added), types, merges)


@pytest.fixture(scope="module", params=["trained", "real"])
def vocabulary(request, scratch, lines):
    """Writes itself under a pre-tokenizer: vocabulary.path(pre)."""
    if request.param == "trained":
        found = train(lines[::5])
        real = None
    else:
        real = request.getfixturevalue("smollm2")
        found = Vocabulary.read(real)
    paths = {pre: real if real and pre == "smollm" else scratch / f"{request.param}-{pre}.gguf"
             for pre in FAMILIES}
    for pre, path in paths.items():
        if path != real:
            found.write(path, pre)
    found.path = paths.get
    found.added_texts = [t for t, kind in zip(found.tokens, found.types) if kind != NORMAL]
    return found


def same_ids(vocabulary, pre, texts, special=False):
    """Fails on the first text that gets other ids; returns the answers. Bytes without a token are
    dropped, as the library drops them."""
    reference = vocabulary.reference(pre)
    reference.encode_special_tokens = not special
    requests = [encode(text.encode(), DROP | (SPECIAL if special else 0)) for text in texts]
    answers = ask(vocabulary.path(pre), requests)
    for text, answer, expected in zip(texts, answers, reference.encode_batch(texts)):
        assert answer.ids == expected.ids, (pre, text, answer.ids, expected.tokens)
    return answers


@pytest.mark.parametrize("pre", FAMILIES)
def test_lines(vocabulary, lines, pre):
    lines = sample(lines, 17)
    answers = same_ids(vocabulary, pre, lines)
    lacking = {b for b in range(256) if not vocabulary.has_byte(b)}
    for text, answer in zip(lines, answers):
        data = text.encode()
        kept = data if answer.dropped == 0 else bytes(b for b in data if b not in lacking)
        assert answer.data == kept
        assert answer.dropped == len(data) - len(kept)


@pytest.mark.parametrize("pre", FAMILIES)
def test_code_points(vocabulary, pre):
    texts = code_point_lines()
    assert sum(map(len, texts)) > 20000 * 12
    same_ids(vocabulary, pre, sample(texts, 17))


@pytest.mark.parametrize("special", [False, True])
def test_added_tokens(vocabulary, lines, special):
    pick = random.Random(SEED)
    pieces = vocabulary.added_texts + ["<|", "|>", "im_", "<tool", "\t", "→", " ", "\n", "<", ">"]
    texts = []
    for _ in range(either(1500, 500)):
        parts = [pick.choice(pieces) if pick.random() < 0.7 else pick.choice(lines)[:9]
                 for _ in range(pick.randint(1, 8))]
        texts.append("".join(parts))
    for pre in ("smollm", "llama-bpe"):
        same_ids(vocabulary, pre, texts, special)


# ---- Any bytes -----------------------------------------------------------------------------------

def stretches(data):
    """Valid stretches as str, and each byte that begins no valid sequence as bytes."""
    while data:
        try:
            yield data.decode()
            return
        except UnicodeDecodeError as error:
            if error.start > 0:
                yield data[: error.start].decode()
            yield data[error.start : error.start + 1]
            data = data[error.start + 1 :]


@pytest.mark.parametrize("pre", FAMILIES)
def test_any_bytes(vocabulary, pre):
    lacking = {b for b in range(256) if not vocabulary.has_byte(b)}
    assert lacking
    added = [t.encode() for t in vocabulary.added_texts]
    texts = [t for t in random_bytes(either(1500, 450)) if not any(a in t for a in added)]
    assert len(texts) >= 300
    exact = ask(vocabulary.path(pre), [encode(t) for t in texts])
    dropped = ask(vocabulary.path(pre), [encode(t, DROP) for t in texts])
    reference = vocabulary.reference(pre)
    refused = 0
    for data, answer, loose in zip(texts, exact, dropped):
        first = next((i for i, byte in enumerate(data) if byte in lacking), None)
        if first is None:
            assert answer.error is None and answer.data == data
            assert answer.ids == loose.ids and loose.dropped == 0
        else:
            assert answer.error == f"byte {first} (0x{data[first]:02x}) has no token"
            refused += 1
        kept = bytes(byte for byte in data if byte not in lacking)
        assert loose.data == kept and loose.dropped == len(data) - len(kept)
        expected = []
        for part in stretches(data):
            if isinstance(part, str):
                expected += reference.encode(part).ids
            elif part[0] not in lacking:
                expected.append(vocabulary.id[ALPHABET[part[0]]])
        assert loose.ids == expected, (pre, data)
    assert 0 < refused < len(texts)


def test_the_21_bytes(smollm2):
    """SmolLM2 lacks 21 byte values: each is refused by its place, or dropped and counted."""
    vocabulary = Vocabulary.read(smollm2)
    lacking = [b for b in range(256) if not vocabulary.has_byte(b)]
    assert len(lacking) == 21 and 0x04 in lacking
    texts = [b"hello world," + bytes([byte]) for byte in range(256)]
    answers = ask(smollm2, [encode(t, flags) for t in texts for flags in (0, DROP)])
    for byte, exact, loose in zip(range(256), answers[::2], answers[1::2]):
        if byte in lacking:
            assert exact.error == f"byte 12 (0x{byte:02x}) has no token"
            assert loose.data == b"hello world," and loose.dropped == 1
        else:
            assert exact.data == texts[byte] and loose.dropped == 0


def test_ends(scratch, vocabulary):
    """BOS and EOS as the file says; absent keys as the family has it."""
    n = len(vocabulary.tokens)
    for pre, adds_bos, adds_eos, expected in [
        ("gpt-2", None, None, []), ("smollm", None, None, []), ("qwen2", None, None, []),
        ("llama-bpe", None, None, ["bos"]), ("llama-bpe", False, None, []),
        ("gpt-2", True, None, ["bos"]), ("qwen2", True, True, ["bos", "eos"]),
        ("llama-bpe", None, True, ["bos", "eos"]),
    ]:
        flags = {"add_bos_token": adds_bos, "add_eos_token": adds_eos}
        known = {name: value for name, value in flags.items() if value is not None}
        copy = Vocabulary(vocabulary.tokens, vocabulary.types, vocabulary.merges,
                          bos_token_id=n - 1, eos_token_id=n - 2, **known)
        path = copy.write(scratch / "ends.gguf", pre)
        plain, ended = ask(path, [encode(b"a text"), encode(b"a text", ENDS)])
        begin = [n - 1] * ("bos" in expected)
        end = [n - 2] * ("eos" in expected)
        assert ended.ids == begin + plain.ids + end
