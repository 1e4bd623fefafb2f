"""What the demo found: a row a file, the epochs behind it, and where it was measured."""

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import keras
from rich.table import Table

from sentei import __version__
from sentei.litert import tables

# On a quiet machine half of all rounds lie within a few percent.
_UNRELIABLE = 1.25


@dataclass(frozen=True)
class Row:
    """What one file is and does, all of it read off the file or measured on it in the runtime.

    Attributes:
        name: The variant.
        file: The file's name in the folder of the demo.
        bytes: Its size.
        gzip_bytes: Its size after `gzip -9`, about what a download costs.
        packed_bytes: Its size after `sentei.pack`.
        sparsity: Share of zeros among all values stored in it.
        accuracy: Share of the test images it names rightly.
        images: Number of test images.
        latency_ms: Median time of one image on one thread, in milliseconds.
        latency_quartiles_ms: First and third quartile of it.
        ratio: Median of its time over the first file's in the same round; below 1 is faster.
        ratio_quartiles: First and third quartile of that.
        difference: Largest difference between an output of the file and Keras', over the largest
            output.
    """

    name: str
    file: str
    bytes: int
    gzip_bytes: int
    packed_bytes: int
    sparsity: float
    accuracy: float
    images: int
    latency_ms: float
    latency_quartiles_ms: tuple[float, float]
    ratio: float
    ratio_quartiles: tuple[float, float]
    difference: float

    @property
    def accuracy_error(self) -> float:
        """Standard error of the accuracy: `sqrt(p (1 - p) / n)`, the test images being a sample."""
        return (self.accuracy * (1 - self.accuracy) / self.images) ** 0.5


@dataclass(frozen=True)
class Epoch:
    """How a network stood after an epoch of training, in Keras.

    Attributes:
        name: The variant in training.
        epoch: Which epoch, from 1.
        accuracy: Share of the test images named rightly.
        sparsity: Share of zeros among the weights that are pruned, or could be.
    """

    name: str
    epoch: int
    accuracy: float
    sparsity: float


@dataclass(frozen=True)
class Results:
    """All that the demo found.

    Attributes:
        rows: One a file, the one that the others are compared with first.
        history: One an epoch, in the order of training.
        parameters: Of the network, counted by Keras.
        training_images: How many it was trained on.
        seed: The seed of the training.
        quick: Whether the training was cut short.
        seconds: How long all of it took.
    """

    rows: tuple[Row, ...]
    history: tuple[Epoch, ...]
    parameters: int
    training_images: int
    seed: int
    quick: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data that JSON can hold, with what it was measured on."""
        return {**asdict(self), "measured_on": _environment()}

    def table(self) -> Table:
        """The rows, for `rich` to print."""
        return tables.table(COLUMNS, map(cells, self.rows))


COLUMNS = ("file", "bytes", "gzip -9", "packed", "sparsity", "accuracy", "ms", "ratio")


def cells(row: Row) -> tuple[str, ...]:
    """A row as texts, one for each of `COLUMNS`."""
    return (
        row.name,  # with ".tflite" the table would not fit into 80 columns
        tables.count(row.bytes),
        tables.count(row.gzip_bytes),
        tables.count(row.packed_bytes),
        tables.share(row.sparsity),
        f"{row.accuracy:.2%}",  # one image of 2,000 is 0.05 %
        f"{row.latency_ms:.3f}",
        f"{row.ratio:.2f}x",
    )


def summary(rows: Iterable[Row]) -> str:
    """What the last row gained over the first, in a sentence."""
    first, *_, last = rows
    points = 100 * (last.accuracy - first.accuracy)
    return (
        f"{last.file} is {first.bytes / last.bytes:.1f}x smaller than {first.file}, packed "
        f"{first.bytes / last.packed_bytes:.1f}x smaller to download, at {points:+.2f} points of "
        "accuracy (standard error of each: "
        f"{100 * last.accuracy_error:.2f})."
    )


def disturbance(rows: Iterable[Row]) -> str | None:
    """A warning when the machine had other things to do while the files were timed.

    Args:
        rows: The rows.

    Returns:
        A sentence, or None when the ratios can be relied on.
    """
    row = max(rows, key=lambda row: row.ratio_quartiles[1] / row.ratio_quartiles[0])
    low, high = row.ratio_quartiles
    if high / low < _UNRELIABLE:
        return None
    return (
        f"The machine was busy while the files were timed: half of all rounds gave {row.file} a "
        f"ratio from {low:.2f}x to {high:.2f}x. Time them again when it is quiet: sentei bench."
    )


def _environment() -> dict[str, Any]:
    return {
        "sentei": __version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
    }
