"""Reading a row of the table off a file, and off its runs in the runtime."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sentei.codec import pack
from sentei.demo.images import Images
from sentei.demo.progress import Stage
from sentei.demo.results import Row
from sentei.litert.benchmarking import benchmark
from sentei.litert.inspect import inspect
from sentei.litert.runtime import Runner

# Images between two movements of the bar.
_PORTION = 50


@dataclass(frozen=True)
class Tried:
    """A file that was run on the test images.

    Attributes:
        name: The variant.
        path: The file.
        difference: Largest relative difference from Keras, as its export reported.
        accuracy: Share of the test images it names rightly.
        packed_bytes: Size of the file that `sentei.pack` made of it, beside it.
    """

    name: str
    path: Path
    difference: float
    accuracy: float
    packed_bytes: int


def packed(path: Path) -> int:
    """Packs a file, as `model.tflite.stz` beside it, which is checked to read back identical.

    Args:
        path: The file.

    Returns:
        The bytes of the packed file.
    """
    return pack(path, path.with_name(f"{path.name}.stz")).packed_size


def accuracy(path: Path, test: Images, stage: Stage) -> float:
    """Tries a file on images in the runtime, with the kernels that devices use.

    Args:
        path: The file, from one image to one score a class.
        test: The images.
        stage: Advanced by the number of images.

    Returns:
        Share of the images whose largest score is that of their class.
    """
    runner = Runner(path)
    right = 0
    for start in range(0, len(test), _PORTION):
        portion = slice(start, start + _PORTION)
        (scores,) = runner(test.pixels[portion]).values()
        right += int(np.sum(scores.argmax(-1) == test.labels[portion]))
        stage.advance(len(scores))
    return right / len(test)


def rows(tried: Sequence[Tried], test: Images, runs: int) -> tuple[Row, ...]:
    """Times files against each other on one image and one thread, and reads off the rest.

    Nothing else may draw on the terminal meanwhile: it would cost the runs time.

    Args:
        tried: The files; the first is what the others are compared with.
        test: The images they were tried on.
        runs: Timed rounds.

    Returns:
        One row a file.
    """
    timings = benchmark([item.path for item in tried], test.pixels[:1], threads=1, runs=runs)
    return tuple(
        Row(
            name=item.name,
            file=item.path.name,
            bytes=timing.size,
            gzip_bytes=timing.gzip_size,
            packed_bytes=item.packed_bytes,
            sparsity=inspect(item.path).zeros,
            accuracy=item.accuracy,
            images=len(test),
            latency_ms=timing.median_ms,
            latency_quartiles_ms=timing.quartiles_ms,
            ratio=timing.ratio,
            ratio_quartiles=timing.ratio_quartiles,
            difference=item.difference,
        )
        for item, timing in zip(tried, timings, strict=True)
    )
