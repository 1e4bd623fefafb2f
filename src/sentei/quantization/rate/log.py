"""A Keras callback that writes bits per weight beside the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from sentei.core.errors import SenteiError
from sentei.quantization.quantize import quantizers
from sentei.quantization.rate.quantizer import RatedQuantizer


@dataclass(frozen=True)
class RateRow:
    """What one weight's code is estimated to take.

    Attributes:
        name: The quantizer's name.
        size: How many numbers it has.
        nonzeros: How many are not zero.
        step: The distance between two neighbours of its grid.
        bits: Of all of it.
    """

    name: str
    size: int
    nonzeros: int
    step: float
    bits: float


@dataclass(frozen=True)
class RateReport:
    """The rows of a model's weights; printed, a table.

    Attributes:
        rows: One for each weight that has a price.
    """

    rows: tuple[RateRow, ...]

    @property
    def bits(self) -> float:
        """Of all weights."""
        return sum(row.bits for row in self.rows)

    @property
    def bits_per_weight(self) -> float:
        """The average over all weights."""
        return self.bits / max(sum(row.size for row in self.rows), 1)

    def __str__(self) -> str:
        width = max([len(row.name) for row in self.rows] + [6])
        lines = [f"{'weight':<{width}} {'numbers':>10} {'not 0':>9} {'step':>9} {'bytes':>9}"]
        lines += [
            f"{row.name:<{width}} {row.size:>10,} {row.nonzeros:>9,} {row.step:>9.3g} "
            f"{row.bits / 8:>9,.0f}"
            for row in self.rows
        ]
        return "\n".join(
            [*lines, f"all: {self.bits / 8:,.0f} bytes, {self.bits_per_weight:.3f} bits a weight"]
        )


def rate_report(qmodel: Any) -> RateReport:
    """How many bits each weight's code is estimated to take now.

    Args:
        qmodel: A model made by `sentei.quantize` with a scheme that has a `rate`.

    Raises:
        SenteiError: No weight of the model has a price.
    """
    return RateReport(tuple(_row(name, q) for name, q in priced(qmodel)))


def priced(qmodel: Any) -> list[tuple[str, RatedQuantizer]]:
    """The quantizers of the weights that have a price, by name.

    Args:
        qmodel: A Keras model.

    Raises:
        SenteiError: It has none.
    """
    found = [(name, q) for name, q in quantizers(qmodel) if isinstance(q, RatedQuantizer)]
    if not found:
        name = getattr(qmodel, "name", qmodel)
        raise SenteiError(
            f"No weight of model {name!r} has a price. Quantize it with one: "
            "sentei.quantize(model, sentei.quantization.Custom(activation_bits=None, rate=0.01))."
        )
    return found


def _row(name: str, quantizer: RatedQuantizer) -> RateRow:
    integers = quantizer.integers()
    nonzeros = int((integers != 0).sum())
    step = float(quantizer.grid().scale[0])
    return RateRow(name, integers.size, nonzeros, step, quantizer.bits())


class RateLog(keras.callbacks.Callback):
    """Adds the estimated bits per weight to the `logs` of every epoch.

    `History`, `CSVLogger`, `TensorBoard` and early stopping then see it; put it before them.

    Args:
        key: Its name in `logs`.
    """

    def __init__(self, key: str = "bits_per_weight") -> None:
        super().__init__()
        self.key = key

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the number."""
        if logs is not None:
            logs[self.key] = rate_report(self.model).bits_per_weight
