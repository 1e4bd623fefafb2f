"""Writes the golden files of the codec's current format: once, when a version is new.

`python tools/make_golden.py tests/codec/golden/v1`. Files that are there stay as they are: what a
released version wrote must be read for ever.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / name) for name in ("", "codec")]

import codec_samples  # noqa: E402
import flatfiles  # noqa: E402
import numpy as np  # noqa: E402
from ai_edge_litert import schema_py_generated as schema  # noqa: E402
from codec_samples import weights  # noqa: E402

from sentei import codec  # noqa: E402


def structured(shape: tuple[int, ...]) -> np.ndarray:
    """int8 weights whose channels are of very different density."""
    dense = np.random.default_rng(2).random((2, *shape))
    return np.where(dense[0] < dense[1, 0, 0, 0] ** 3, weights("int8", shape), 0).astype(np.int8)


def images(side: int = 12, count: int = 16) -> np.ndarray:
    """int8 weights of pixels: neighbours are alike, in size and sign."""
    random = np.random.default_rng(5)
    coarse = random.normal(size=(side // 4, side // 4, count)) * random.random(count) * 20
    fine = np.kron(coarse, np.ones((4, 4, 1))) + random.normal(size=(side, side, count))
    return np.where(np.abs(fine) > 4, np.round(fine), 0).astype(np.int8).reshape(-1, count)


def nibbles() -> bytes:
    """A file with an odd number of int4 weights."""
    low = np.clip(np.round(weights("float64", (1601,)) * 2), -8, 7).astype(np.int8)
    low = np.append(low, np.int8(0)).astype(np.uint8) & 15
    writer = flatfiles.Writer()
    kernel = writer.tensor("kernel", (1601,), "int4", data=low[::2] | low[1::2] << 4)
    return writer.finish([kernel], [kernel])


def sparse() -> bytes:
    """A file with the index vectors of a sparse tensor."""
    matrix = weights("sparse_float32", (60, 200))
    rows, columns = np.nonzero(matrix)
    segments = np.searchsorted(rows, np.arange(61))
    vector = schema.SparseIndexVector.Int32Vector
    levels = [
        schema.DimensionMetadataT(format=schema.DimensionType.DENSE, denseSize=60),
        schema.DimensionMetadataT(
            format=schema.DimensionType.SPARSE_CSR,
            arraySegmentsType=vector,
            arraySegments=schema.Int32VectorT(values=segments.tolist()),
            arrayIndicesType=vector,
            arrayIndices=schema.Int32VectorT(values=columns.tolist()),
        ),
    ]
    layout = schema.SparsityParametersT(traversalOrder=[0, 1], dimMetadata=levels)
    writer = flatfiles.Writer()
    stored = writer.tensor("kernel", matrix.shape, data=matrix[rows, columns], sparsity=layout)
    return writer.finish([stored], [stored])


def originals() -> dict[str, bytes]:
    """Contents that between them use every method and field of the format."""
    pack = codec_samples.safetensors
    signs = np.sign(weights("float64", (90, 1), 3))
    rare = weights("sparse_16", (60, 700)).astype(np.float16)
    return {
        "empty": b"",
        "stored": np.random.default_rng(1).bytes(100),
        "deflate": b"deflate" * 20,
        "lzma": "".join(f"{n} squared is {n * n}\n" for n in range(300)).encode(),
        "tflite": flatfiles.dense_int8(),
        "static": pack({"a": weights("sparse_int8", (3, 3, 8, 20))}),
        "groups": pack({"a": structured((32, 3, 3, 64))}),
        "listed": pack({"a": weights("sparse_16", (40, 60)), "b": weights("two_values", (999,))}),
        "lanes": pack({"a": np.where(weights("int8", rare.shape) > 30, rare, 0)}),
        "floats": pack({"a": weights("float32", (400,)), "b": weights("float16", (20, 30))}),
        "zeros": pack({"a": weights("sparse_float32", (60, 60))}),
        "integers": pack({"a": weights("int64", (300,)), "b": weights("int32", (300,))}),
        "nibbles": nibbles(),
        "sparse": sparse(),
        "mixed": pack({"a": structured((12, 3, 3, 24))}),
        "deep": pack({"a": images()}),
        "signs": pack({"a": np.abs(weights("sparse_int8", (90, 60))) * signs.astype(np.int8)}),
    }


def main(folder: Path) -> None:
    digests = {}
    for name, content in originals().items():
        target = folder / f"{name}.stz"
        if not target.exists():
            with tempfile.NamedTemporaryFile() as source:
                source.write(content)
                source.flush()
                effort = "max" if name in ("mixed", "deep") else "fast"
                codec.pack(source.name, target, effort=effort)
        digests[name] = hashlib.sha256(content).hexdigest()
    (folder / "digests.json").write_text(json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
