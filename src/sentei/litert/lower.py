"""From model to file in a process that runs Keras on JAX: trace and convert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sentei.litert.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from sentei.litert.refusal import Leftover


@dataclass(frozen=True)
class Lowered:
    """What is known of a file that was written.

    Attributes:
        outputs: The specs of the outputs.
        leftovers: The operations that the runtime may not have.
        seconds: The time each step took.
    """

    outputs: tuple[TensorSpec, ...]
    leftovers: tuple[Leftover, ...]
    seconds: dict[str, float]


def lower_here(model: Any, signature: Signature, path: Path) -> Lowered:
    """Converts a model into a file in this process, which must run Keras on JAX.

    Args:
        model: A built Keras model.
        signature: What it is called with.
        path: Where to write the file.

    Returns:
        What is known of the file.

    Raises:
        UnsupportedModel: A layer cannot be exported.
        ExportError: The converter refuses the model.
    """
    from sentei.litert.batch import BATCH_SIZES
    from sentei.litert.convert import convert
    from sentei.litert.trace import trace

    start = perf_counter()
    if signature.open_batch:
        graphs = [trace(model, signature.with_batch(size)) for size in BATCH_SIZES]
    else:
        graphs = [trace(model, signature)]
    traced = perf_counter()
    leftovers = convert(graphs[0], path, *graphs[1:])
    seconds = {"trace": traced - start, "convert": perf_counter() - traced}
    outputs = tuple(_common(specs) for specs in zip(*(g.outputs for g in graphs), strict=True))
    return Lowered(outputs, leftovers, seconds)


def _common(specs: Sequence[TensorSpec]) -> TensorSpec:
    """What two specs of the same output have in common; sizes that differ are open."""
    sizes = zip(*(spec.shape for spec in specs), strict=True)
    shape = tuple(size[0] if len(set(size)) == 1 else None for size in sizes)
    return replace(specs[0], shape=shape)
