"""Which tensor hurts: what quantization does to each, measured on samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.core.errors import SenteiError
from sentei.core.graph import Tensor
from sentei.core.samples import batches
from sentei.core.state import run_on
from sentei.quantization.calibrate import layer_of
from sentei.quantization.layer import QuantizedModel
from sentei.quantization.plan import Float
from sentei.quantization.quantizer import ActivationQuantizer
from sentei.quantization.weight_quantizer import WeightQuantizer


@dataclass(frozen=True)
class Row:
    """What quantization does to one grid's tensors.

    Attributes:
        name: The quantizer's name.
        kind: `"weight"` or `"activation"`.
        bits: Of each integer.
        low: The lowest number that the grid holds (of any channel).
        high: The highest.
        sqnr: Signal to quantization noise in decibels: `10 log10(sum x^2 / sum (q(x) - x)^2)`.
        saturated: The share of numbers outside of the grid's range.
        output_error: The mean square by which the model's outputs move if this grid alone is
            rounded to, over the mean square of the outputs: its contribution to what is lost.
    """

    name: str
    kind: str
    bits: int
    low: float
    high: float
    sqnr: float
    saturated: float
    output_error: float


@dataclass(frozen=True)
class Report:
    """Rows sorted by output error, the worst first, and what stayed float.

    Attributes:
        rows: One for each quantizer.
        floats: What is computed in floating point, and why.
        output_error: As of the rows, with everything rounded.
    """

    rows: tuple[Row, ...]
    floats: tuple[Float, ...]
    output_error: float

    def __str__(self) -> str:
        width = max([len(row.name) for row in self.rows] + [6])
        head = f"{'tensor':<{width}} bits {'range':>23} {'SQNR dB':>8} {'clipped':>8} {'output':>9}"
        lines = [head]
        for row in self.rows:
            lines.append(
                f"{row.name:<{width}} {row.bits:>4} {row.low:>11.4g} {row.high:>11.4g} "
                f"{row.sqnr:>8.1f} {row.saturated:>8.2%} {row.output_error:>9.2e}"
            )
        lines += [f"float: {found.name} ({found.reason})" for found in self.floats]
        return "\n".join([*lines, f"everything rounded: output error {self.output_error:.2e}"])


class _Switched(keras.layers.Layer):
    """The model with each grid's rounding switched on by a number, and sums to judge it by."""

    def __init__(self, layer: QuantizedModel) -> None:
        super().__init__(autocast=False)
        self.layer = layer
        self.names = list(layer.quantizers)
        self.ends = {name: _ends(layer, name) for name in self.names}
        self.built = True

    def call(self, given: Any) -> dict[str, Any]:
        inputs, switches = given["inputs"], given["switches"]
        sums: dict[str, Any] = {}

        def switched(name: str, x: Any) -> Any:
            rounded = self.layer.quantizers[name].simulate(x, False, None)
            full, error = (ops.cast(v, "float32") for v in (x, rounded - x))
            low, high = self.ends[name]
            outside = ops.logical_or(full < low, full > high)
            found = [ops.square(full), ops.square(error), outside, ops.ones_like(full)]
            totals = ops.stack([ops.sum(ops.cast(v, "float32")) for v in found])
            sums[name] = sums[name] + totals if name in sums else totals
            on = switches[0, self.names.index(name)]
            return x + ops.cast(on, x.dtype) * (rounded - x)

        def see(label: str, x: Any, tensor: Tensor | None) -> Any:
            return switched(self.layer.plan.activations[label].weight or label, x)

        values = [
            (weight.variable, switched(weight.label, weight.variable.value))
            for weight in self.layer.plan.weights
        ]
        outputs = run_on(
            self, self.layer.variables, values, lambda: self.layer.walk(inputs, see, False)
        )
        flat = [ops.cast(v, "float32") for v in keras.tree.flatten(outputs)]
        return {"outputs": flat, "sums": sums}


def report(qmodel: Any, data: Any, *, batch_size: int = 32) -> Report:
    """What quantization does to each tensor of a model, the worst first.

    Every grid is rounded to alone, so the model runs as many times as it has grids: a few dozen
    samples are enough.

    Args:
        qmodel: A calibrated model made by `sentei.quantize`.
        data: Samples, as the argument `calibration` of `sentei.quantize`.
        batch_size: How many samples of an array to run at once.

    Returns:
        The rows; printed, a table.

    Raises:
        SenteiError: The model is not quantized or not calibrated, or the samples do not fit.
    """
    layer = layer_of(qmodel)
    names = list(layer.quantizers)
    for quantizer in layer.quantizers.values():
        if isinstance(quantizer, ActivationQuantizer):
            quantizer.grid()  # says what to do if there is none
    switches = keras.Input((len(names),))
    switched = _Switched(layer)({"inputs": qmodel.input, "switches": switches})
    model = keras.Model([*qmodel.inputs, switches], switched)
    sums: dict[str, np.ndarray] = {}
    errors, power, seen = np.zeros(len(names) + 1), 0.0, False
    rows = np.vstack([np.eye(len(names)), np.ones(len(names))]).astype("float32")
    for batch in batches(qmodel, data, batch_size):
        seen = True
        count = len(keras.tree.flatten(batch)[0])
        plain = _run(model, batch, np.zeros(len(names), "float32"), count)
        for name, found in plain["sums"].items():
            sums[name] = sums.get(name, 0) + np.asarray(found, np.float64)
        power += _squares(plain["outputs"])
        for index, on in enumerate(rows):
            moved = _run(model, batch, on, count)["outputs"]
            both = zip(moved, plain["outputs"], strict=True)
            errors[index] += _squares([a - b for a, b in both])
    if not seen:
        raise SenteiError("The data is empty. Give at least one batch of samples.")
    errors /= max(power, 1e-30)
    made = [
        _row(layer, name, sums[name], errors[i]) for i, name in enumerate(names) if name in sums
    ]
    made.sort(key=lambda row: -row.output_error)
    return Report(tuple(made), tuple(layer.plan.floats), float(errors[-1]))


def _run(model: Any, batch: Any, on: np.ndarray, count: int) -> Any:
    return model.predict_on_batch([*keras.tree.flatten(batch), np.repeat(on[None], count, axis=0)])


def _squares(arrays: Any) -> float:
    return float(sum(np.sum(np.square(np.asarray(a, np.float64))) for a in arrays))


def _ends(layer: QuantizedModel, name: str) -> tuple[float, float]:
    grid = layer.quantizers[name].grid()
    low = (grid.kind.low - grid.zero_point - 0.5) * grid.scale
    high = (grid.kind.high - grid.zero_point + 0.5) * grid.scale
    return float(low.min()), float(high.max())


def _row(layer: QuantizedModel, name: str, sums: np.ndarray, error: float) -> Row:
    quantizer = layer.quantizers[name]
    grid = quantizer.grid()
    signal, noise, outside, count = (float(v) for v in sums)
    return Row(
        name=name,
        kind="weight" if isinstance(quantizer, WeightQuantizer) else "activation",
        bits=quantizer.kind.bits,
        low=float(((grid.kind.low - grid.zero_point) * grid.scale).min()),
        high=float(((grid.kind.high - grid.zero_point) * grid.scale).max()),
        sqnr=10 * math.log10(signal / noise) if signal > 0 and noise > 0 else math.inf,
        saturated=outside / max(count, 1.0),
        output_error=float(error),
    )
