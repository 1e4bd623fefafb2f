"""Files and arrays for the codec's tests."""

import json

import numpy as np


def weights(kind, shape, seed=0):
    """An array that looks like a kind of weights."""
    random = np.random.default_rng(seed)
    normal = random.normal(size=shape)
    rare = random.random(shape) < 0.1
    kinds = {
        "int8": lambda: np.clip(np.round(normal * 30), -127, 127).astype(np.int8),
        "sparse_int8": lambda: np.where(rare, np.round(normal * 30), 0).astype(np.int8),
        "sparse_16": lambda: (np.where(rare, np.round(normal * 2), 0) * 0.37).astype(np.float32),
        "float32": lambda: (normal * 0.05).astype(np.float32),
        "sparse_float32": lambda: np.where(rare, normal, 0).astype(np.float32),
        "float16": lambda: (normal * 0.05).astype(np.float16),
        "float64": lambda: normal,
        "negative_zeros": lambda: np.where(rare, normal, -0.0).astype(np.float32),
        "int32": lambda: np.round(normal * 1000).astype(np.int32),
        "int64": lambda: np.round(normal * 1e12).astype(np.int64),
        "int16": lambda: np.round(normal * 3000).astype(np.int16),
        "noise": lambda: random.integers(0, 256, shape).astype(np.uint8),
        "constant": lambda: np.full(shape, 7, np.int8),
        "wild": lambda: np.frombuffer(random.bytes(4 * normal.size), np.float32).reshape(shape),
        "two_values": lambda: np.where(rare, -3, 5).astype(np.int16),
    }
    return kinds[kind]()


KINDS = (
    "int8",
    "sparse_int8",
    "sparse_16",
    "float32",
    "sparse_float32",
    "float16",
    "float64",
    "negative_zeros",
    "int32",
    "int64",
    "int16",
    "noise",
    "constant",
    "wild",
    "two_values",
)

_NAMES = {"float32": "F32", "float16": "F16", "float64": "F64", "uint8": "U8"}


def safetensors(arrays):
    """The bytes of a `.safetensors` file."""
    header, place = {}, 0
    for name, array in arrays.items():
        dtype = _NAMES.get(array.dtype.name, array.dtype.name.replace("int", "I"))
        end = place + array.nbytes
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    data = b"".join(array.tobytes() for array in arrays.values())
    return len(text).to_bytes(8, "little") + text + data
