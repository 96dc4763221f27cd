"""The text that tokenizers are compared on: lines of this machine's files, lines from a seeded
generator over all scripts, every character in places that patterns tell apart, and bytes that are
no text. make check takes a sample, make check-long all of it (volume.py).
"""
import functools
import glob
import itertools
import random
import unicodedata

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


@functools.cache
def code_point_lines():
    """Every character that is not one of a large uniform block, and some of those, in the places
    that the patterns tell apart."""
    uniform = ("CJK UNIFIED", "CJK COMPAT", "HANGUL SYLLABLE", "TANGUT", "NUSHU", "KHITAN",
               "YI SYLL", "CUNEIFORM", "EGYPTIAN", "ANATOLIAN", "BAMUM", "MATHEMATICAL", "BRAILLE")
    chars = [c for c in assigned(0, 0x10FFFF)
             if ord(c) % 64 == 0 or not unicodedata.name(c, "").startswith(uniform)]
    places = "a{0}b {0}{0}1{0}\n{0} '{0}"
    return ["".join(places.format(c) for c in chars[i : i + 12]) for i in range(0, len(chars), 12)]


def corpus():
    """At least 10,000 lines."""
    found = file_lines(5000) + generated_lines(6000)
    assert len(found) >= 10000
    codes = {ord(c) for c in "".join(found)}
    assert sum(any(a <= c <= b for c in codes) for a, b in SCRIPTS.values()) >= 20
    return found


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
