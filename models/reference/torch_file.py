"""Reads the tensors of a legacy (pre-1.6) PyTorch checkpoint without torch and without running anything in it.

Such a file is four small pickles (magic number, protocol, system, the state dict with references to storages), a pickled
list of storage keys, then each storage: its element count (little-endian i64) and its raw elements.
"""

import collections
import pickle

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Reader(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, stride, *rest: (storage, offset, shape, stride)
        if module == "torch" and name in STORAGES:
            return name
        raise pickle.UnpicklingError(f"the checkpoint names {module}.{name}, which is no tensor")

    def persistent_load(self, reference):
        return reference


def load(path):
    """{name: array} of a checkpoint that holds a plain state dict."""
    with open(path, "rb") as handle:
        if _Reader(handle).load() != MAGIC:
            raise ValueError(f"{path} is no legacy PyTorch checkpoint")
        for _ in ("protocol", "system"):
            _Reader(handle).load()
        state = _Reader(handle).load()
        keys = _Reader(handle).load()
        kinds = {storage[2]: STORAGES[storage[1]] for storage, *_ in state.values()}
        storages = {}
        for key in keys:
            count = int.from_bytes(handle.read(8), "little")
            dtype = kinds[key]
            storages[key] = np.frombuffer(handle.read(count * dtype.itemsize), dtype)
    tensors = {}
    for name, (storage, offset, shape, stride) in state.items():
        flat = storages[storage[2]][offset:]
        strides = [step * flat.itemsize for step in stride]
        tensors[name] = np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, shape, strides))
    return tensors
