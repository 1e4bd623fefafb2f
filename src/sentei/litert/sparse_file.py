"""Storing a file's pruned weights sparse, and making sure that it computes the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sentei.core.errors import ExportError, ExportMismatch, UnsupportedModel
from sentei.litert import flatbuffer
from sentei.litert.labels import labels
from sentei.litert.runtime import Kernels, Runner
from sentei.litert.sparsify import Sparse, Stored, sparsify
from sentei.litert.verify import TOLERANCE
from sentei.litert.xnnpack.clusters import find_clusters
from sentei.litert.xnnpack.nodes import Graph, read_graph

_SEED = 0
_TOLERANCES: dict[Kernels, float] = {"builtin": 0.0, "xnnpack": TOLERANCE}
_REMEDY = "No file was written. Export with sparse=False."


def store_sparse(path: Path, sparse: Sparse) -> Stored | None:
    """Rewrites a `.tflite` file with its pruned weights stored sparse, where `sparse` says so.

    Args:
        path: The file, changed in place.
        sparse: As for `sparsify`.

    Returns:
        What was done, or None when the file is as it was: there is nothing to gain, or XNNPACK
        would compute wrong numbers (`Cluster.cut`) on processors where it runs sparse.

    Raises:
        ExportError: `sparse` is True, but XNNPACK would compute wrong numbers.
        SenteiError: `sparse` is True, but no weight can be stored sparse.
        ExportMismatch: The sparse file does not compute the same bits, or does not run.
    """
    if not sparse:
        return None
    dense = path.read_bytes()
    made = sparsify(dense, sparse)
    if made is None:
        return None
    content, stored = made
    wrong = [c for c in find_clusters(_graph(content)).clusters if c.goes_wrong]
    if wrong and sparse == "auto":
        return None
    if wrong:
        raise ExportError(f"The weights must not be stored sparse: {wrong[0].cut_reason()}")
    require_identical(dense, content)
    path.write_bytes(content)
    return stored


def _graph(content: bytes) -> Graph:
    model = flatbuffer.parse(content)
    return read_graph(model.subgraphs[0], labels(model))


def require_identical(dense: bytes, sparse: bytes) -> None:
    """Runs two files on the same random inputs and compares their outputs.

    The runtime's own kernels treat both files alike on every processor, so every bit must be the
    same. XNNPACK may compute the sparse one in another order of additions, so there the outputs
    must be the same but for rounding.

    Args:
        dense: The file as it was.
        sparse: The file with sparse weights.

    Raises:
        ExportMismatch: An output differs, or only one of the files runs.
    """
    for kernels, tolerance in _TOLERANCES.items():
        try:
            runner = Runner(dense, kernels=kernels)
        except UnsupportedModel:
            continue  # whoever verifies the file says so in better words
        random = np.random.default_rng(_SEED)
        inputs = {name: port.draw(random) for name, port in runner.inputs.items()}
        expected = runner(inputs, raw=True)
        try:
            found = Runner(sparse, kernels=kernels)(inputs, raw=True)
        except UnsupportedModel as error:
            raise ExportMismatch(
                f"With its weights stored sparse the file does not run: {error} {_REMEDY}"
            ) from None
        for name, value in expected.items():
            if not _same(value, found[name], tolerance):
                raise ExportMismatch(
                    f"With its weights stored sparse the file computes another output {name!r} "
                    f"({kernels} kernels). {_REMEDY}"
                )


def _same(expected: np.ndarray, found: np.ndarray, tolerance: float) -> bool:
    """Whether two outputs are the same: bit for bit, or within a share of the largest value."""
    if expected.tobytes() == found.tobytes():
        return True
    if tolerance == 0.0 or expected.dtype.kind != "f" or not np.isfinite(expected).all():
        return False
    allowed = tolerance * float(np.abs(expected).max(initial=0.0))
    return bool((np.abs(found - expected) <= allowed).all())
