"""GGUF files by the `gguf` package, in a third of its time: what it reads item by item it slices
from a memory map, which NumPy makes a costly object for each. Here the map is a plain array, and a
file is read once however often it is asked for; a file that was changed is another.
"""
import functools
import os

import gguf
import numpy as np


class Reader(gguf.GGUFReader):
    @property
    def data(self):
        return self.plain

    @data.setter
    def data(self, mapped):
        self.plain = np.asarray(mapped)


@functools.lru_cache(maxsize=4)
def read_as(path, _state):
    return Reader(path)


def read(path):
    """fields and tensors, as the package has them; shared, so not to be changed."""
    state = os.stat(path)
    return read_as(str(path), (state.st_ino, state.st_size, state.st_mtime_ns))


class Writer(gguf.GGUFWriter):
    """Packs a long list once, however many files it is written to; lists are not changed after."""
    packed = {}  # id of a list -> (the list, so that its id stays its own, the bytes)

    def _pack_val(self, val, vtype, add_vtype, sub_type=None):
        if not isinstance(val, list) or len(val) < 1000:
            return super()._pack_val(val, vtype, add_vtype, sub_type)
        key = id(val), len(val), vtype, add_vtype, sub_type
        if key not in self.packed:
            self.packed[key] = val, super()._pack_val(val, vtype, add_vtype, sub_type)
        return self.packed[key][1]
