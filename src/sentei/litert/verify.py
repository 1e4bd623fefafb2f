"""Holding a written file against Keras: sample inputs, both outputs, and how far they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from sentei.core.errors import ExportError, ExportMismatch
from sentei.litert.precision import full_precision
from sentei.litert.samples import Sample
from sentei.litert.signature import Signature, TensorSpec, name_outputs

Outputs = dict[str, np.ndarray]

TOLERANCE = 1e-4
# An output that is zero all over has no magnitude to be relative to.
_SMALLEST_MAGNITUDE = 1e-6
_REMEDY = "If random numbers are no fit input for this model, pass your own: verify=x[:8]."


@dataclass(frozen=True)
class Verification:
    """How far a file's outputs are from Keras'.

    Attributes:
        samples: How many inputs (counting each row of a batch) both were run on.
        absolute_error: The largest difference of any output value.
        relative_error: The largest difference over the largest magnitude of the same output.
    """

    samples: int
    absolute_error: float
    relative_error: float


def predictions(model: Any, signature: Signature, samples: Sequence[Sample]) -> list[Outputs]:
    """Runs the model itself, in float32, and leaves it as it was.

    Args:
        model: A built Keras model, on any backend.
        signature: What it is called with, with a fixed batch size.
        samples: What to run it on.

    Returns:
        The outputs by name, per sample.

    Raises:
        ExportError: The model's own code fails.
    """
    if keras.backend.backend() == "jax":
        # Compiled as a whole: op by op, JAX compiles each shape of each operation by itself.
        from sentei.litert.trace import compiled

        run = compiled(model, signature)
        return [run(sample) for sample in samples]
    return [_call(model, signature, sample) for sample in samples]


def compare(
    run: Callable[[Mapping[str, np.ndarray]], Outputs],
    inputs: Sequence[TensorSpec],
    samples: Sequence[Sample],
    expected: Sequence[Outputs],
    tolerance: float = TOLERANCE,
) -> Verification:
    """Runs a file on samples and holds its outputs against Keras'.

    Args:
        run: The file as a function from inputs by name to outputs by name.
        inputs: The specs of the inputs.
        samples: What to run it on.
        expected: What Keras computes on each sample.
        tolerance: The largest difference allowed, relative to the output's largest magnitude.

    Returns:
        How far they differ.

    Raises:
        ExportMismatch: They differ by more than the tolerance.
        ExportError: Keras' outputs hold no finite number to compare with.
    """
    names = [spec.name for spec in inputs]
    actual = [run(dict(zip(names, sample, strict=True))) for sample in samples]
    rows = sum(sample[0].shape[0] if sample[0].ndim else 1 for sample in samples)
    absolute = relative = 0.0
    for name in expected[0]:
        error, magnitude = _difference(
            name, [outputs[name] for outputs in expected], [outputs[name] for outputs in actual]
        )
        ratio = error / magnitude
        if np.isnan(error):
            raise ExportMismatch(
                f"Output {name!r} of the file is not finite where Keras is, or the other way "
                f"round, over {rows} samples. No file was written. {_REMEDY}"
            )
        if ratio > tolerance:
            raise ExportMismatch(
                f"Output {name!r} of the file differs from Keras by {error:.3g}, which is "
                f"{ratio:.2g} of its largest value {magnitude:.3g} (at most {tolerance:g} is "
                f"allowed), over {rows} samples. No file was written. {_REMEDY}"
            )
        absolute, relative = max(absolute, error), max(relative, ratio)
    return Verification(rows, absolute, relative)


def _difference(
    name: str, expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]
) -> tuple[float, float]:
    """The largest difference of one output, and the largest magnitude Keras gives it."""
    error = magnitude = 0.0
    compared = False
    for want, have in zip(expected, actual, strict=True):
        if want.shape != have.shape:
            raise ExportMismatch(
                f"Output {name!r} of the file has shape {list(have.shape)}, Keras gives "
                f"{list(want.shape)}. No file was written."
            )
        want, have = want.astype(np.float64), have.astype(np.float64)
        finite = np.isfinite(want)
        # Where Keras overflows or has no answer the file must say the same, and nowhere else.
        if not np.array_equal(want[~finite], have[~finite], equal_nan=True):
            return float("nan"), _SMALLEST_MAGNITUDE
        want, have = want[finite], have[finite]
        if not np.isfinite(have).all():
            return float("nan"), _SMALLEST_MAGNITUDE
        compared |= bool(finite.any()) or not finite.size
        error = max(error, float(np.max(np.abs(want - have), initial=0.0)))
        magnitude = max(magnitude, float(np.max(np.abs(want), initial=0.0)))
    if not compared:
        raise ExportError(
            f"Keras itself computes no finite number for output {name!r} on the samples, so the "
            "file cannot be verified. Check the weights for NaN, or pass fit samples: verify=x[:8]."
        )
    return error, max(magnitude, _SMALLEST_MAGNITUDE)


def _call(model: Any, signature: Signature, sample: Sample) -> Outputs:
    # The scope takes up every assignment, so that no variable of the model moves.
    with full_precision(model), keras.StatelessScope():
        result = signature.call(model, [keras.ops.convert_to_tensor(value) for value in sample])
    arrays = [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(result)]
    return dict(zip(name_outputs(model, result), arrays, strict=True))
