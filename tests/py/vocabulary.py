"""Vocabularies for the tests of the tokenizer: read from a GGUF file or trained here, written as
GGUF under any pre-tokenizer, and rebuilt as the `tokenizers` library's own pipeline, which is the
reference. Also the client of tokenize_tool, which answers many requests in one process.
"""
import os
import pathlib
import struct
import subprocess

import gguf_file
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

FAMILIES = ["smollm", "llama-bpe", "gpt-2", "qwen2", "tekken", "gpt-4o", "dbrx"]
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4

# As published in the tokenizer.json of Llama 3 and Qwen2, and of Mistral Nemo and Phi-4-mini.
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBERS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+ENDING"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*ENDING"
    r"|NUMBERS| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "llama-bpe": CL100K.replace("NUMBERS", r"\p{N}{1,3}"),
    "dbrx": CL100K.replace("NUMBERS", r"\p{N}{1,3}"),
    "qwen2": CL100K.replace("NUMBERS", r"\p{N}"),
    "tekken": O200K.replace("NUMBERS", r"\p{N}").replace("ENDING", ""),
    "gpt-4o": O200K.replace("NUMBERS", r"\p{N}{1,3}").replace(
        "ENDING", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"),
}


def byte_alphabet():
    """GPT-2's table: the character that stands for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


ALPHABET = byte_alphabet()


class Vocabulary:
    def __init__(self, tokens, types, merges, **keys):
        self.tokens, self.types, self.merges, self.keys = tokens, types, merges, keys
        self.id, self.references = {}, {}
        for i, token in enumerate(tokens):
            self.id.setdefault(token, i)

    @staticmethod
    def read(path):
        fields = gguf_file.read(path).fields
        names = ("tokens", "token_type", "merges")
        return Vocabulary(*(fields[f"tokenizer.ggml.{name}"].contents() for name in names))

    def has_byte(self, byte):
        return ALPHABET[byte] in self.id

    def write(self, path, pre, template=None):
        """A GGUF file without tensors: enough for the tokenizer."""
        writer = gguf_file.Writer(path, "llama")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        for name, value in self.keys.items():
            add = writer.add_bool if isinstance(value, bool) else writer.add_uint32
            add(f"tokenizer.ggml.{name}", value)
        if template is not None:
            writer.add_chat_template(template)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return path

    def added(self):
        """Control and user-defined tokens as the library's added tokens."""
        return [
            AddedToken(token, special=kind == CONTROL, normalized=False)
            for token, kind in zip(self.tokens, self.types)
            if kind in (CONTROL, USER_DEFINED)
        ]

    def reference(self, pre):
        """The library's tokenizer, built once."""
        if pre not in self.references:
            self.references[pre] = self.build(pre)
        self.references[pre].encode_special_tokens = True
        return self.references[pre]

    def build(self, pre):
        merges = [tuple(merge.split(" ")) for merge in self.merges]
        model = models.BPE(vocab=self.id, merges=merges,
                           ignore_merges=pre in ("llama-bpe", "tekken"))
        tokenizer = Tokenizer(model)
        if pre == "smollm":
            steps = [pre_tokenizers.Digits(individual_digits=True), byte_level(True)]
        elif pre == "gpt-2":
            steps = [byte_level(True)]
        else:
            pattern = Regex(PATTERNS[pre])
            steps = [pre_tokenizers.Split(pattern, "isolated"), byte_level(False)]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        tokenizer.add_tokens(self.added())
        return tokenizer


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


# ---- tokenize_tool -------------------------------------------------------------------------------

SPECIAL, DROP, ENDS = 1, 2, 4


def encode(data, flags=0):
    return b"E" + struct.pack("<BI", flags, len(data)) + data


def decode(ids, is_continuation=False, skip_control=False):
    head = struct.pack("<BI", is_continuation + 2 * skip_control, len(ids))
    return b"D" + head + struct.pack(f"<{len(ids)}i", *ids)


def chat(messages, add_generation_prompt):
    request = b"C" + struct.pack("<BI", add_generation_prompt, len(messages))
    for message in messages:
        for name in ("role", "content"):
            data = message[name].encode()
            request += struct.pack("<I", len(data)) + data
    return request


class Answer:
    def __init__(self, line):
        status, rest = line.split(" ", 1)
        self.error = rest if status == "error" else None
        self.dropped, self.ids, self.data = 0, None, None
        if self.error is None and rest.startswith("x"):
            self.data = bytes.fromhex(rest[1:])
        elif self.error is None:
            dropped, data, *ids = rest.split(" ")
            self.dropped, self.data = int(dropped), bytes.fromhex(data[1:])
            self.ids = [int(i) for i in ids]


def ask(path, requests, config=None):
    """The answers of tokenize_tool for one file, in the order of the requests."""
    tool = pathlib.Path(os.environ["GRETA_TOOLS"]) / "tokenize_tool"
    files = [path] if config is None else [path, config]
    done = subprocess.run([tool, *files], input=b"".join(requests), capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    answers = [Answer(line) for line in done.stdout.decode().splitlines()]
    assert len(answers) == len(requests)
    return answers
