"""The rows of the demo's table, as data: how each network is made from an earlier one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from sentei.clustering import cluster
from sentei.demo import network
from sentei.demo.images import Images
from sentei.quantization import quantize
from sentei.sparsity import PolynomialDecay, prune

BATCH_SIZE = 100
SPARSITY = 0.8
CLUSTERS = 16
# The target is reached here; the rest of the steps let the weights that are left settle.
_PRUNED_BY = 0.6
_UPDATES = 20
# Images from which a quantized network gets the ranges of its activations.
_CALIBRATING = 256


@dataclass(frozen=True)
class Variant:
    """One row: a network, trained, exported, and measured as a file.

    Attributes:
        name: The stem of its files, and its name in the table.
        doing: What the progress bar says meanwhile.
        begins_from: The variant whose trained network it starts from, or None for a new one.
        epochs: Passes over the training images; none for a network that is not trained.
        prepare: Makes of that network the one to train, compiled, or the one to export, given the
            number of training steps and the training images.
    """

    name: str
    doing: str
    begins_from: str | None
    epochs: int
    prepare: Callable[[Any, int, Images], Any]


def compile_for(model: Any, learning_rate: float, steps: int) -> Any:
    """Compiles a network for training by AdamW under a cosine that ends at zero.

    Args:
        model: The network.
        learning_rate: Where the cosine begins.
        steps: Optimizer steps.

    Returns:
        The same network.
    """
    model.compile(
        keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(learning_rate, steps), weight_decay=1e-2
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def _dense(_: Any, steps: int, train: Images) -> Any:
    return compile_for(network.build(), 3e-3, steps)


def _pruned(model: Any, steps: int, train: Images) -> Any:
    end = max(1, round(_PRUNED_BY * steps))
    schedule = PolynomialDecay(
        initial=0.0,
        final=SPARSITY,
        begin_step=0,
        end_step=end,
        frequency=max(1, end // _UPDATES),
    )
    return prune(compile_for(model, 4e-3, steps), schedule)


def _clustered(model: Any, steps: int, train: Images) -> Any:
    return cluster(compile_for(model, 1e-3, steps), CLUSTERS, preserve_sparsity=True)


def _int8(model: Any, steps: int, train: Images) -> Any:
    return quantize(model, calibration=train.pixels[:_CALIBRATING])


VARIANTS = (
    Variant("dense", "training", None, 9, _dense),
    Variant("pruned", f"pruning to {SPARSITY:.0%}", "dense", 7, _pruned),
    Variant("clustered", f"clustering to {CLUSTERS} values", "pruned", 2, _clustered),
    Variant("int8", "", "clustered", 0, _int8),
)
