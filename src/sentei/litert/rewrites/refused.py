"""What has no LiteRT form, with the reason: Keras layers, and JAX primitives inside any layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from sentei.core.errors import UnsupportedModel
from sentei.core.select import sublayers
from sentei.litert.rewrites.graph import Rule, Run, Step

_STRINGS = "it works on strings. Apply it before the model, and export the rest"
_HASHES = (
    "it hashes text with TensorFlow's own hash. Apply it before the model, and export the rest"
)

# Layer class: why no model with it can be exported, and what to do.
_LAYERS: tuple[tuple[type, str], ...] = (
    (keras.layers.StringLookup, _STRINGS),
    (keras.layers.TextVectorization, _STRINGS),
    (keras.layers.Hashing, _HASHES),
    (keras.layers.HashedCrossing, _HASHES),
    (
        keras.layers.MaxNumBoundingBoxes,
        "it prepares labels for training, and JAX cannot compile it. Apply it to the data",
    ),
    (
        keras.layers.TFSMLayer,
        "it runs a TensorFlow SavedModel. Convert that with TensorFlow's own converter, or rebuild "
        "it from Keras layers",
    ),
    (
        keras.layers.TorchModuleWrapper,
        "it runs a PyTorch module. Convert that with litert-torch, or rebuild it from Keras layers",
    ),
)
_RECURRENT = (keras.layers.RNN, keras.layers.Bidirectional)
_STATEFUL = (
    "it keeps its state from call to call (stateful=True), which a file cannot. Build it with "
    "stateful=False, and pass states in and out as tensors (initial_state, return_state)"
)

_RANDOM = "draws random numbers at inference"
_ALGEBRA = "factorizes a matrix"
_PYTHON = "calls back into Python"

# JAX primitive: what the layer does that LiteRT has no operator for.
_PRIMITIVES = {
    "random_bits": _RANDOM,
    "random_fold_in": _RANDOM,
    "random_seed": _RANDOM,
    "random_split": _RANDOM,
    "random_wrap": _RANDOM,
    "rng_uniform": _RANDOM,
    "threefry2x32": _RANDOM,
    "cholesky": _ALGEBRA,
    "eig": _ALGEBRA,
    "eigh": _ALGEBRA,
    "lu": _ALGEBRA,
    "qr": _ALGEBRA,
    "svd": _ALGEBRA,
    "triangular_solve": _ALGEBRA,
    "debug_callback": _PYTHON,
    "io_callback": _PYTHON,
    "pure_callback": _PYTHON,
    "sort": "sorts",
}


def check_layers(model: Any) -> None:
    """Refuses models with a layer that can never be exported.

    Args:
        model: Any Keras layer or model.

    Raises:
        UnsupportedModel: There is such a layer; the message names it and the reason.
    """
    for layer, _ in sublayers(model):
        reason = next((reason for kind, reason in _LAYERS if isinstance(layer, kind)), None)
        if reason is None and isinstance(layer, _RECURRENT) and layer.stateful:
            reason = _STATEFUL
        if reason is not None:
            kind_name = type(layer).__name__
            raise UnsupportedModel(
                f"Layer {layer.name!r} ({kind_name}) cannot be exported: {reason}."
            )


def _refuse(step: Step, run: Run) -> Sequence[Any] | None:
    raise UnsupportedModel(
        f"Layer {step.layer!r} cannot be exported: it {_PRIMITIVES[step.name]} (JAX primitive "
        f"{step.name!r}), which LiteRT has no operator for. Do that before or after the model."
    )


RULES: dict[str, Rule] = dict.fromkeys(_PRIMITIVES, _refuse)
