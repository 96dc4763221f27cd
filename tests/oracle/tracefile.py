"""Reads a trace (docs/trace-format.md) with nothing of ours: JSON Lines and a blob file.

Only what judging ops needs: the row records with their kept values. Checksums are the business of
the program's own reader and its tests.
"""
import json
from pathlib import Path

import numpy as np

PLAIN = {"F32": "<f4", "F16": "<f2", "I32": "<i4"}
ACT_BLOCK = 32


class Trace:
    """header, footer, and rows[(stage, layer)][position] = record; layer -1: not in a layer."""

    def __init__(self, path):
        lines = Path(path).read_text().splitlines()
        self.header, *body, self.footer = map(json.loads, lines)
        self.blob = bytearray(Path(f"{path}.blob").read_bytes())
        self.rows = {}
        for record in body:
            if record["kind"] == "row":
                op = self.rows.setdefault((record["stage"], record.get("layer", -1)), {})
                if record["position"] in op:
                    raise ValueError(f"two records of {record['stage']} at one position")
                op[record["position"]] = record

    def values(self, tensor):
        """The kept values of a tensor: an array, or (codes, scales) of quantised activations."""
        kept, at = tensor.get("kept", 0), tensor.get("at", 0)
        if kept != tensor["n"]:
            raise ValueError(f"{kept} of {tensor['n']} values are kept")
        if tensor["type"] == "ACT_Q8":
            n_block = -(-kept // ACT_BLOCK)
            codes = np.frombuffer(self.blob, np.int8, kept, at)
            return codes, np.frombuffer(self.blob, "<f4", n_block, at + kept)
        return np.frombuffer(self.blob, PLAIN[tensor["type"]], kept, at)

    def operand(self, record, index):
        """Input `index` as the op read it. A record does not repeat what its producer's keeps;
        then the hash of what was read must be that of what was written."""
        tensor = record["in"][index]
        if not tensor.get("kept"):
            producer = self.rows[tensor["stage"], tensor.get("layer", -1)][record["position"]]
            written = producer["out"][0]
            if tensor["hash"] != written["hash"]:
                raise ValueError(f"{record['stage']} did not read what {tensor['stage']} wrote")
            tensor = written
        return self.values(tensor)

    def inputs(self, op, index):
        """Input `index` of an op at all its positions, (n, width), or codes and scales."""
        return stack([self.operand(op[p], index) for p in sorted(op)])

    def outputs(self, op):
        return stack([self.values(op[p]["out"][0]) for p in sorted(op)])


def stack(rows):
    if isinstance(rows[0], tuple):
        return tuple(map(np.stack, zip(*rows)))
    return np.stack(rows)
