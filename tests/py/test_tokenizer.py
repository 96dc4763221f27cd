"""The tokenizer against the `tokenizers` library: the same ids on valid UTF-8, under each of the
four pre-tokenizers, on text from this machine's packages and from a seeded generator; and on any
bytes either the same bytes back or the refusal of the first byte that has no token.

Two vocabularies: one trained here on text of this machine (so that it also runs offline), and that
of the real model. Only one of the four pre-tokenizers is the real model's own; for the others its
vocabulary is written under another name.
"""
import collections
import glob
import itertools
import json
import random
import re
import unicodedata

import pytest
from tokenizers import Tokenizer, models, trainers
from vocabulary import (ALPHABET, CONTROL, DROP, ENDS, FAMILIES, NORMAL, SPECIAL, USER_DEFINED,
                        Vocabulary, ask, byte_level, encode)

SEED = 20240607

# Text that every Debian has, or one with a compiler and Python; many languages among it.
FILES = [
    "/usr/share/common-licenses/*",
    "/var/lib/dpkg/info/*.templates",
    "/usr/lib/python3.*/*.py",
    "/usr/lib/python3.*/encodings/*.py",
    "/usr/include/*.h",
    "/usr/share/i18n/locales/*",
    "/usr/share/perl/*/*.pm",
    "/usr/share/zoneinfo/*.tab",
    "/etc/*",
]

SCRIPTS = {
    "Latin": (0x41, 0x24F), "Greek": (0x370, 0x3FF), "Cyrillic": (0x400, 0x52F),
    "Armenian": (0x531, 0x58F), "Hebrew": (0x591, 0x5F4), "Arabic": (0x600, 0x6FF),
    "Syriac": (0x700, 0x74F), "Thaana": (0x780, 0x7B1), "Devanagari": (0x900, 0x97F),
    "Bengali": (0x980, 0x9FE), "Gurmukhi": (0xA01, 0xA76), "Gujarati": (0xA81, 0xAFF),
    "Tamil": (0xB82, 0xBFA), "Telugu": (0xC00, 0xC7F), "Kannada": (0xC80, 0xCF2),
    "Malayalam": (0xD00, 0xD7F), "Sinhala": (0xD81, 0xDF4), "Thai": (0xE01, 0xE5B),
    "Lao": (0xE81, 0xEDF), "Tibetan": (0xF00, 0xFDA), "Myanmar": (0x1000, 0x109F),
    "Georgian": (0x10A0, 0x10FF), "Ethiopic": (0x1200, 0x1399), "Cherokee": (0x13A0, 0x13FD),
    "Khmer": (0x1780, 0x17F9), "Mongolian": (0x1800, 0x18AA), "Hiragana": (0x3041, 0x309F),
    "Katakana": (0x30A0, 0x30FF), "Bopomofo": (0x3105, 0x312F), "Han": (0x4E00, 0x9FFC),
    "Yi": (0xA000, 0xA48C), "Hangul": (0xAC00, 0xD7A3), "Gothic": (0x10330, 0x1034A),
    "Cuneiform": (0x12000, 0x12399), "Adlam": (0x1E900, 0x1E95F),
}
SPACES = [chr(c) for c in (9, 10, 11, 12, 13, 28, 31, 32, 0x85, 0xA0, 0x1680, 0x180E,
                           *range(0x2000, 0x200C), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000, 0xFEFF)]
NUMBERS = "0123456789" "٠١٢٣४५৬৭๘๙፩፪Ⅷⅻ¼½⅞²³⁴①⑳㊿㉈〇〡𝟘𝟡𐄇"
JOINER = "\u200d"
EMOJI = ["😀", "👍🏽", f"👩{JOINER}🚀", f"👨{JOINER}👩{JOINER}👧", "🇪🇸", "❤\ufe0f", "☺\ufe0e",
         "1\ufe0f\u20e3", "🫠", "™\ufe0f", f"🧑🏿{JOINER}🦰", "🏴\U000e0067\U000e007f"]
CONTRACTIONS = ["'s", "'S", "'ſ", "'t", "'re", "'RE", "'Ve", "'m", "'ll", "'lL", "'d", "'D", "’s",
                "''s", "'", "'x", "'st", "'r", "'l"]
CODE = ["int main(void) {", "\treturn x->y[i] += 0x1F;", "    if a != b:", "#include <stdio.h>",
        "for(;;){}//", "SELECT * FROM t WHERE id=42;", "<a href=\"#\">x</a>", "\\frac{1}{2}$$",
        "===>>>", "foo_bar.baz()", "'''doc'''", "{\"k\": [1, 2.5e-3]}", "a&&b||!c", "\r\n",
        "\n\n\n", "%s\\n"]
MARKS = "!?.,;:-_()[]{}#@&/\\|~^*+=<>§«»…、。\u0301\u200d\u200b\x00\x01\x7f"


def assigned(first, last):
    """Characters of a range that Unicode 14 knows, without surrogates and private use."""
    assert unicodedata.unidata_version <= "14.0.0", "the promise ends at Unicode 14"
    return [chr(c) for c in range(first, last + 1)
            if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]


def file_lines(count):
    """Lines of files, some joined to paragraphs."""
    pick = random.Random(SEED)
    lines = []
    for pattern in FILES:
        found = []
        for path in sorted(glob.glob(pattern))[:150]:
            try:
                with open(path, encoding="utf-8", newline="") as file:
                    found += [line[:400] for line in itertools.islice(file, 2000) if line.strip()]
            except (OSError, UnicodeDecodeError):
                continue
        lines += pick.sample(found, min(len(found), count // 4))
    foreign = [line for line in lines if not line.isascii()]
    foreign = foreign[: count // 2]
    lines = foreign + pick.sample(lines, min(len(lines), count - len(foreign)))
    return ["".join(lines[i : i + pick.choice([1, 1, 1, 2, 5])]) for i in range(len(lines))]


def generated_lines(count):
    """Words of all scripts, numbers, emoji, code, contractions and white space, mixed by a seed."""
    pick = random.Random(SEED)
    scripts = [assigned(*limits) for limits in SCRIPTS.values()]

    def word(script):
        return "".join(pick.choices(script, k=pick.randint(1, 9)))

    def part(script):
        kind = pick.random()
        if kind < 0.45:
            return word(script)
        if kind < 0.55:
            return "".join(pick.choices(NUMBERS[: pick.choice([10, 99])], k=pick.randint(1, 12)))
        if kind < 0.6:
            return pick.choice(EMOJI) * pick.randint(1, 2)
        if kind < 0.7:
            return pick.choice(CODE)
        if kind < 0.8:
            return word(script) + pick.choice(CONTRACTIONS) + pick.choice(["", word(script)])
        if kind < 0.9:
            return "".join(pick.choices(SPACES, k=pick.randint(1, 6)))
        return pick.choice(MARKS) * pick.randint(1, 4)

    lines = []
    for i in range(count):
        script = scripts[i % len(scripts)]
        parts = [part(script) for _ in range(pick.randint(1, 12))]
        glue = pick.choice([" ", " ", "", "  ", "\n", " \n "])
        lines.append(glue.join(parts))
    return lines


def code_point_lines():
    """Every character that is not one of a large uniform block, and some of those, in the places
    that the patterns tell apart."""
    uniform = ("CJK UNIFIED", "CJK COMPAT", "HANGUL SYLLABLE", "TANGUT", "NUSHU", "KHITAN",
               "YI SYLL", "CUNEIFORM", "EGYPTIAN", "ANATOLIAN", "BAMUM", "MATHEMATICAL", "BRAILLE")
    chars = [c for c in assigned(0, 0x10FFFF)
             if ord(c) % 64 == 0 or not unicodedata.name(c, "").startswith(uniform)]
    places = "a{0}b {0}{0}1{0}\n{0} '{0}"
    return ["".join(places.format(c) for c in chars[i : i + 12]) for i in range(0, len(chars), 12)]


@pytest.fixture(scope="module")
def lines():
    found = file_lines(5000) + generated_lines(6000)
    assert len(found) >= 10000
    codes = {ord(c) for c in "".join(found)}
    assert sum(any(a <= c <= b for c in codes) for a, b in SCRIPTS.values()) >= 20
    return found


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
    same_ids(vocabulary, pre, texts)


@pytest.mark.parametrize("special", [False, True])
def test_added_tokens(vocabulary, lines, special):
    pick = random.Random(SEED)
    pieces = vocabulary.added_texts + ["<|", "|>", "im_", "<tool", "\t", "→", " ", "\n", "<", ">"]
    texts = []
    for _ in range(1500):
        parts = [pick.choice(pieces) if pick.random() < 0.7 else pick.choice(lines)[:9]
                 for _ in range(pick.randint(1, 8))]
        texts.append("".join(parts))
    for pre in ("smollm", "llama-bpe"):
        same_ids(vocabulary, pre, texts, special)


# ---- Any bytes -----------------------------------------------------------------------------------

def random_bytes(count):
    """Byte strings from all bytes, from the bytes that UTF-8 is made of, and from damaged text."""
    pick = random.Random(SEED)
    pieces = [bytes([b]) for b in range(256)]
    broken = [b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe4\xb8", b"\xf0\x9f\x98",
              b"\xff\xfe", "中".encode(), "é".encode(), "😀".encode(), b" ", b"a", b"'s", b"1", b"\n",
              b"\x80"]
    for i in range(count):
        length = pick.choice([0, 1, 2, 3, 5, 8, 13, 40, 200])
        if i % 3 == 0:
            yield pick.randbytes(length)
        elif i % 3 == 1:
            yield b"".join(pick.choices(broken, k=length))
        else:
            data = bytearray("Grüße, 世界! 1234 don't 🙂\n".encode() * 3)
            for _ in range(pick.randint(1, 4)):
                data[pick.randrange(len(data))] = pick.choice(pieces)[0]
            yield bytes(data[: pick.randrange(len(data))])


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
    texts = [t for t in random_bytes(1500) if not any(a in t for a in added)]
    assert len(texts) >= 1000
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
