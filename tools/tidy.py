#!/usr/bin/env python3
"""tidy.py - the style of the tree as a test: what a machine can check of docs and habit.

Each rule is one function from the tree to its violations, and one line of TAP; what no rule here
checks is not a rule. The rules read C through a filter that blanks comments and strings but keeps
lines and columns, which is enough for a tree with one layout, and far less than a parser.

`--self-test` plants one violation after another in a small clean tree and expects that exactly
the rule in question sees it, at that place; the clean tree is full of near misses.
"""
import argparse
import ast
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

LINES_MAX, FUNCTION_MAX, COLUMNS_MAX = 800, 70, 100

# Which rooms a room may include; arrows are transitive. greta.h may be included by all, and cli/
# and examples/ include nothing else. Programs under tests/, fuzz/, bench/, tools/ see every room.
ARROWS = {
    "base": [],
    "format": ["base"],
    "model": ["format"],
    "kernel": ["base"],
    "trace": ["base"],
    "engine": ["model", "kernel", "trace"],
    "replay": ["trace", "model", "kernel"],
    "fault": ["model", "kernel"],
    "explain": ["trace"],
    "report": ["explain"],
    "verdict": ["engine", "replay", "fault", "explain", "report"],
    "score": ["verdict"],
}
PUBLIC_ONLY = ("cli", "examples")

# Functions nobody calls; those the library leaves to programs; and the one place each may stand.
BANNED = """strcpy strcat sprintf vsprintf gets strtok atoi atof scanf fscanf sscanf system rand
            srand alloca""".split()
BANNED_LIBRARY = """printf vprintf puts putchar perror exit _exit quick_exit abort getenv
                    secure_getenv setenv time clock""".split()
EXCEPT = {("src/base/error.c", "abort")}  # assert_failed, for our own mistakes

SKIPPED_FOLDERS = {".git", ".venv", "__pycache__", "shared"}
C_FILES = (".c", ".h", ".cu", ".cuh", ".inc")
TEXT_FILES = C_FILES + (".py", ".sh", ".md", ".txt", ".in", ".yml", ".1")
TEXT_NAMES = {"Makefile", "LICENSE", "run", ".gitignore", ".clang-format"}


class File:
    """One text file: path from the root, raw text, and for C the code without comments."""

    def __init__(self, path, text):
        self.path, self.text = path, text
        self.name = os.path.basename(path)
        self.folder = os.path.dirname(path)
        self.suffix = os.path.splitext(path)[1]
        self.is_c = self.suffix in C_FILES
        self.lines = text.split("\n")
        self.code = code_of(text) if self.is_c else ""
        parts = path.split("/")
        self.top = parts[0]
        self.room = parts[1] if parts[0] == "src" and len(parts) > 2 else None


class Tree:
    def __init__(self, root, cc="gcc", library=None):
        self.root, self.cc, self.library = pathlib.Path(root), cc, library
        self.files = sorted(self.read(), key=lambda file: file.path)
        self.c = [file for file in self.files if file.is_c]

    def read(self):
        for folder, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders
                          if name not in SKIPPED_FOLDERS and not name.startswith("build")]
            for name in names:
                path = pathlib.Path(folder, name)
                if path.suffix in TEXT_FILES or name in TEXT_NAMES:
                    text = path.read_bytes().decode("utf-8", errors="replace")
                    yield File(path.relative_to(self.root).as_posix(), text)


def code_of(text):
    """The text with comments and the insides of literals blanked; same length, same lines."""
    token = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''

    def blank(match):
        found = match.group(0)
        inside = re.sub(r"[^\n]", " ", found[1:-1])
        return found[0] + inside + found[-1] if found[0] in "\"'" else re.sub(r"[^\n]", " ", found)

    return re.sub(token, blank, text, flags=re.S)


def line_at(text, index):
    return text.count("\n", 0, index) + 1


def functions(file):
    """(name, first line, last line, body) of the C functions whose braces stand in column 0."""
    lines = file.code.split("\n")
    start = None
    for i, line in enumerate(lines):
        if line == "{":
            start = i
        elif line.startswith("}") and start is not None:
            first = start
            while first > 0 and re.match(r"[\w\s].*[^;{}\s]\s*$", lines[first - 1]):
                first -= 1
            name = re.search(r"(\w+)\s*\(", " ".join(lines[first:start]))
            yield (name.group(1) if name else "?", first + 1, i + 1, lines[start : i + 1])
            start = None


# ---- Rules: each yields (file, line, message) ----------------------------------------------------

def reachable(room):
    seen, todo = {room}, [room]
    while todo:
        for below in ARROWS[todo.pop()]:
            if below not in seen:
                seen.add(below)
                todo.append(below)
    return seen


def rule_include_direction(tree):
    paths = {file.path for file in tree.files}
    for file in tree.c:
        if file.top == "src" and file.room not in ARROWS:
            yield file.path, 1, "lies in no room of the design"
            continue
        for number, line in enumerate(file.lines, 1):
            match = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
            if not match:
                continue
            name = match.group(1)
            if name == "greta.h" or f"{file.folder}/{name}" in paths:
                continue
            room = name.split("/")[0]
            if f"src/{name}" not in paths or ".." in name.split("/"):
                yield file.path, number, f'"{name}" is neither beside this file nor in a room'
            elif file.top in PUBLIC_ONLY:
                yield file.path, number, f"{file.top}/ sees greta.h only, not {name}"
            elif file.room and room not in reachable(file.room):
                yield file.path, number, f"{file.room}/ must not include {room}/"


def rule_include_no_source(tree):
    for file in tree.c:
        for number, line in enumerate(file.lines, 1):
            if re.match(r'\s*#\s*include\s*["<][^">]+\.c[">]', line):
                yield file.path, number, "a .c file is included"


def rule_file_length(tree):
    for file in tree.files:
        if (file.is_c or file.suffix in (".py", ".sh")) and len(file.lines) - 1 > LINES_MAX:
            yield file.path, LINES_MAX, f"{len(file.lines) - 1} lines (at most {LINES_MAX})"


def rule_function_length(tree):
    for file in tree.files:
        found = []
        if file.is_c:
            found = [(name, first, last) for name, first, last, _ in functions(file)]
        elif file.suffix == ".py":
            found = [(node.name, node.lineno, node.end_lineno)
                     for node in ast.walk(ast.parse(file.text))
                     if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        for name, first, last in found:
            n = last - first + 1
            if n > FUNCTION_MAX:
                yield file.path, first, f"{name} has {n} lines (at most {FUNCTION_MAX})"


def rule_function_brace(tree):
    for file in tree.c:
        for number, line in enumerate(file.code.split("\n"), 1):
            if re.match(r"[A-Za-z_][\w\s*]*\(.*\)\s*\{\s*$", line):
                yield file.path, number, "a function's brace stands on its own line"


def rule_columns(tree):
    for file in tree.files:
        if file.is_c or file.suffix in (".py", ".sh") or file.name == "Makefile":
            for number, line in enumerate(file.lines, 1):
                if len(line) > COLUMNS_MAX:
                    yield file.path, number, f"{len(line)} columns (at most {COLUMNS_MAX})"


def rule_whitespace(tree):
    for file in tree.files:
        for number, line in enumerate(file.lines, 1):
            if "\r" in line:
                yield file.path, number, "carriage return"
            elif line != line.rstrip():
                yield file.path, number, "space at the end of the line"
            if "\t" in line and file.name != "Makefile":
                yield file.path, number, "tab"
        if not file.text.endswith("\n") or file.text.endswith("\n\n"):
            yield file.path, len(file.lines), "a file ends in exactly one newline"


# Code points that show as nothing or as a plain space, or turn the direction of text; and what
# stands for bytes that are not UTF-8 (U+FFFD).
INVISIBLE = [
    (0x00, 0x08), (0x0B, 0x0C), (0x0E, 0x1F), (0x7F, 0xA0), 0xAD, 0x34F, 0x61C, (0x115F, 0x1160),
    (0x17B4, 0x17B5), (0x180B, 0x180E), (0x2000, 0x200F), (0x2028, 0x202F), (0x205F, 0x206F),
    0x3000, 0x3164, (0xE000, 0xF8FF), (0xFE00, 0xFE0F), 0xFEFF, 0xFFA0, (0xFFF9, 0xFFFD),
    (0xE0000, 0x10FFFF),
]
INVISIBLE = re.compile("[" + "".join(
    f"{chr(first)}-{chr(last)}" for first, last in
    (span if isinstance(span, tuple) else (span, span) for span in INVISIBLE)) + "]")


def rule_invisible_unicode(tree):
    for file in tree.files:
        for number, line in enumerate(file.lines, 1):
            match = INVISIBLE.search(line)
            if match:
                code = f"U+{ord(match.group()):04X}"
                yield file.path, number, f"invisible or invalid character {code}"


def rule_banned_functions(tree):
    everywhere = re.compile(r"(?<![\w.>])(" + "|".join(BANNED) + r")\s*\(")
    library = re.compile(
        r"(?<![\w.>])(?:(" + "|".join(BANNED_LIBRARY) + r")\s*\(|(stdout|stderr)\b)")
    for file in tree.c:
        patterns = [everywhere] + ([library] if file.top == "src" else [])
        for number, line in enumerate(file.code.split("\n"), 1):
            for pattern in patterns:
                for match in pattern.finditer(line):
                    name = next(group for group in match.groups() if group)
                    if (file.path, name) not in EXCEPT:
                        yield file.path, number, f"{name} is banned" + (
                            " in the library" if pattern is library else "")


def rule_unfinished_marks(tree):
    marks = re.compile(r"\b(" + "|".join(["TO" "DO", "FIX" "ME", "HA" "CK"]) + r")\b")
    for file in tree.files:
        for number, line in enumerate(file.lines, 1):
            if marks.search(line) and file.name != "LICENSE":
                yield file.path, number, "unfinished: " + line.strip()[:60]


def rule_design_comment(tree):
    for file in tree.c:
        match = re.match(r"/\*.*?\*/|(?://[^\n]*\n)+", file.text, flags=re.S)
        comment = match.group(0) if match else ""
        if f"{file.name} - " not in comment.split("\n")[0]:
            yield file.path, 1, f"the file starts with `/* {file.name} - what it owns ...`"
        elif file.suffix == ".c" and len(file.lines) > 100 and comment.count("\n") < 2:
            yield file.path, 1, "the design comment of a long file has three lines or more"


def rule_unique_names(tree):
    seen = {}
    for file in tree.files:
        if file.is_c or (file.suffix == ".py" and file.name not in ("conftest.py", "__init__.py")):
            # Folders that differ by instruction set hold the same names on purpose.
            place = re.sub(r"^(src/kernel)/(ref|x86/\w+|gpu|gpu/\w+)/", r"\1/ISA/", file.path)
            if file.name in seen and seen[file.name] != place:
                yield file.path, 1, f"{seen[file.name]} has the same name"
            seen.setdefault(file.name, place)


def rule_goto_downward(tree):
    for file in tree.c:
        for _, first, last, body in functions(file):
            labels = {m.group(1): i for i, line in enumerate(body)
                      if (m := re.match(r"\s*(\w+):(?!:)\s*$", line)) and m.group(1) != "default"}
            for i, line in enumerate(body):
                match = re.search(r"\bgoto\s+(\w+)", line)
                if match and labels.get(match.group(1), last) < i:
                    yield file.path, last - len(body) + i + 1, f"goto upward to {match.group(1)}"


# Headers of a folder with an instruction set of its own compile with it (Makefile: AVX2, AVX512).
ISA_FLAGS = {
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma",
               "-mf16c"],
}


def rule_headers_compile_alone(tree):
    def compile_alone(file):
        folders = [f"-I{tree.root / folder}" for folder in ("include", "src", file.folder)]
        isa = [ISA_FLAGS[part] for part in file.path.split("/") if part in ISA_FLAGS]
        command = [tree.cc, *sum(isa, []), "-std=c11", "-D_GNU_SOURCE", "-fsyntax-only", "-Wall",
                   "-Wextra", "-Wpedantic", "-Wundef", "-Werror", *folders, "-x", "c", "-"]
        source = f'#include "{file.name}"\ntypedef int not_empty;\n'
        done = subprocess.run(command, input=source, text=True, capture_output=True)
        return file, done

    headers = [file for file in tree.c if file.suffix == ".h"]
    with ThreadPoolExecutor(2) as pool:
        for file, done in pool.map(compile_alone, headers):
            if done.returncode != 0:
                yield file.path, 1, "does not compile alone: " + done.stderr.split("\n")[0]


def rule_exported_symbols(tree):
    """The library exports what greta.h declares: nothing else, and nothing less."""
    if tree.library is None:
        return
    listing = subprocess.run(["nm", "-D", "--defined-only", str(tree.library)], text=True,
                             capture_output=True, check=True).stdout
    exported = {line.split()[-1] for line in listing.splitlines()}
    header = code_of((tree.root / "include/greta.h").read_text())
    declared = set(re.findall(r"^GRETA_API\b[^;(]*?(\w+)\s*\(", header, re.M))
    for name in sorted(exported - declared):
        yield str(tree.library), 0, f"exports {name}, which greta.h does not declare"
    for name in sorted(declared - exported):
        yield "include/greta.h", 0, f"declares {name}, which the library does not export"
    for name in sorted(name for name in declared if not name.startswith("greta_")):
        yield "include/greta.h", 0, f"{name} does not start with greta_"


RULES = {name[len("rule_"):].replace("_", " "): rule
         for name, rule in list(globals().items()) if name.startswith("rule_")}


# ---- Self-test -----------------------------------------------------------------------------------

HEAD = "/* {0} - a file.\n *\n * Of the self-test.\n */\n"
CLEAN = {
    "include/greta.h": '/* greta.h - the API. */\n#define GRETA_API __attribute__((unused))\n'
                       "GRETA_API int greta_ok(void);\n",
    "src/base/error.h": "/* error.h - errors. */\nint error_set(void);\n",
    "src/base/error.c": HEAD.format("error.c") + "#include <stdlib.h>\n"
                        "void assert_failed(void)\n{\n    abort();\n}\n",
    "src/kernel/ref/norm.c": HEAD.format("norm.c") + '#include "base/error.h"\n',
    "src/kernel/x86/avx2/norm.c": HEAD.format("norm.c"),
    "src/engine/walk.h": '/* walk.h - walks. */\n#include "base/error.h"\n#include "greta.h"\n',
    "src/engine/walk.c":
        "/* walk.c - strcpy( and printf( may be named in comments.\n *\n * Or so.\n */\n"
        '#include "engine/walk.h"\n\nint my_strcpy(void);\nstatic int timeout(void)\n{\n'
        '    const char *text = "gets( exit( ' "TO" 'DOS";\n    if (!text) {\n        goto done;\n'
        "    }\n    my_strcpy();\ndone:\n    return 0;\n}\n",
    "cli/main.c": '/* main.c - the command line. */\n#include "greta.h"\n#include <stdlib.h>\n'
                  'int main(void)\n{\n    return getenv("HOME") ? greta_ok() : 1;\n}\n',
    "tests/test_base.c": '/* test_base.c - tests. */\n#include "base/error.h"\n',
    "tools/one.py": '"""one.py - a tool."""\n\n\ndef one():\n    return 1\n',
    "src/engine/brim.c": HEAD.format("brim.c") + "int f" + "f" * 86 + "(void);\n"
                         "int f(void)\n{\n" + "    f();\n" * 67 + "}\n" + "int x;\n" * 725,
    "README.md": "# Readme\n\nText, \u00fcmlauts and \u2014 dashes are fine.\n",
    "Makefile": "all:\n\ttrue\n",
}
UPWARD = "int up(void)\n{\nagain:\n    if (up()) {\n        goto again;\n    }\n    return 0;\n}\n"

# (rule, file, new text of the file or, after "+", text to append, line of the finding)
PLANTS = [
    ("include direction", "src/base/error.c", '+#include "engine/walk.h"\n', 10),
    ("include direction", "src/explain/first.c", HEAD + '#include "engine/walk.h"\n', 5),
    ("include direction", "src/explain/judge.c", HEAD + '#include "fault/plant.h"\n', 5),
    ("include direction", "cli/main.c", '+#include "base/error.h"\n', 8),
    ("include direction", "src/engine/walk.c", '+#include "../base/error.h"\n', 18),
    ("include direction", "src/attic/old.c", HEAD, 1),
    ("include no source", "tests/test_base.c", '+#include "engine/walk.c"\n', 3),
    ("file length", "src/engine/long.c", HEAD + "int x;\n" * 797, 800),
    ("function length", "src/engine/walk.c", "+int f(void)\n{\n" + "    f();\n" * 68 + "}\n", 18),
    ("function length", "tools/one.py", "+\n\ndef two():\n" + "    one()\n" * 70, 8),
    ("function brace", "src/engine/walk.c", "+int two(int a) {\n    return a;\n}\n", 18),
    ("columns", "src/engine/walk.c", "+int a" + "a" * 95 + ";\n", 18),
    ("whitespace", "README.md", "+trailing \n", 4),
    ("whitespace", "src/engine/walk.h", "+\tint tab;\n", 4),
    ("whitespace", "src/engine/walk.h", "+int no_newline;", 4),
    ("whitespace", "src/engine/walk.h", "+int carriage_return;\r\n", 4),
    ("invisible unicode", "README.md", "+zero\u200bwidth\n", 4),
    ("invisible unicode", "cli/main.c", "+/* \u202e */\n", 8),
    ("invisible unicode", "README.md", "+no\u00a0break\n", 4),
    ("unfinished marks", "src/engine/walk.h", "+/* TO" "DO: later */\n", 4),
    ("unfinished marks", "README.md", "+FIX" "ME\n", 4),
    ("design comment", "src/engine/bare.c", "int bare;\n", 1),
    ("design comment", "src/engine/wrong.c", HEAD.format("right.c"), 1),
    ("design comment", "src/engine/short.c", "/* {0} - short. */\n" + "int x;\n" * 100, 1),
    ("unique names", "src/trace/walk.c", HEAD, 1),
    ("unique names", "tests/norm.c", HEAD, 1),
    ("goto downward", "src/engine/walk.c", "+" + UPWARD, 22),
    ("headers compile alone", "src/engine/needy.h", "/* {0} - a. */\nint needy(size_t n);\n", 1),
] + [("banned functions", "tests/test_base.c", f"+int x = {name}(0);\n", 3) for name in BANNED] + [
    ("banned functions", "src/engine/walk.c", f"+int x = {name};\n", 18)
    for name in ("printf(0)", "stderr", "exit(1)", "abort()", "getenv(0)", "time(0)")]


def write(root, path, text):
    file = pathlib.Path(root, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())


def self_test(report, cc):
    with tempfile.TemporaryDirectory() as root:
        for path, text in CLEAN.items():
            write(root, path, text)
        for name, rule in RULES.items():
            report(f"self-test: clean tree, {name}", list(map(str, rule(Tree(root, cc)))))
        for name, path, text, line in PLANTS:
            before = CLEAN.get(path)
            named = text.replace("{0}", os.path.basename(path))
            write(root, path, before + text[1:] if text.startswith("+") else named)
            found = [(file, number) for file, number, _ in RULES[name](Tree(root, cc))]
            report(f"self-test: {name} at {path}:{line}",
                   [] if found == [(path, line)] else [f"found {found}"])
            if before is None:
                os.remove(pathlib.Path(root, path))
            else:
                write(root, path, before)
        for name, declared, complaint in (("none", "greta_ok", ""),
                                          ("extra", "greta_ok leak", "exports leak"),
                                          ("absent", "", "declares greta_ok")):
            library = pathlib.Path(root, f"lib{name}.so")
            source = "".join(f"int {symbol}(void) {{ return 0; }}\n" for symbol in declared.split())
            subprocess.run([cc, "-shared", "-fPIC", "-x", "c", "-", "-o", library],
                           input=source, text=True, check=True)
            found = [message for _, _, message in rule_exported_symbols(Tree(root, cc, library))]
            seen = len(found) == 1 and complaint in found[0] if complaint else not found
            report(f"self-test: exported symbols, {name}", [] if seen else [f"found {found}"])


def main():
    parser = argparse.ArgumentParser(description="Checks the style of the tree; prints TAP.")
    parser.add_argument("--root", default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--cc", default="gcc")
    parser.add_argument("--library", help="libgreta.so, whose exported symbols are checked")
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    count = [0, 0]

    def report(name, violations):
        count[0] += 1
        count[1] += bool(violations)
        print(f"{'not ok' if violations else 'ok'} {count[0]} - {name}")
        for violation in violations:
            print(f"# {violation}")

    if options.self_test:
        self_test(report, options.cc)
    else:
        tree = Tree(options.root, options.cc, options.library)
        for name, rule in RULES.items():
            report(name, [f"{file}:{line}: {message}" for file, line, message in rule(tree)])
    print(f"1..{count[0]}")
    return 1 if count[1] else 0


if __name__ == "__main__":
    sys.exit(main())
