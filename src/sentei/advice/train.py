"""The candidates that are trained: each on a copy of the model, for a short while."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sentei.clustering import cluster
from sentei.core.errors import SenteiError
from sentei.core.install import strip
from sentei.litert.export import export
from sentei.quantization import Custom, quantize
from sentei.sparsity import PolynomialDecay, prune

BATCH = 32
# Of all weights; the last quarter of training is left to recover.
_SPARSITY, _UNTIL = (0.3, 0.8), 0.75
_VALUES = 16
_ONE_HOT = ("categorical_crossentropy", "CategoricalCrossentropy")


@dataclass(frozen=True)
class Lesson:
    """What candidates are trained on.

    Attributes:
        choices: The names of the candidates.
        x: The samples, an array or a dict by name.
        y: The class index of each.
        epochs: How often to go through them.
        calibration: Samples that ranges are found on.
        hardware: Where the files shall run: a name of `HARDWARE`.
    """

    choices: tuple[str, ...]
    x: Any
    y: np.ndarray
    epochs: int
    calibration: Any
    hardware: str

    @property
    def steps(self) -> int:
        """The optimizer's steps."""
        return self.epochs * math.ceil(len(self.y) / BATCH)


def write_trained(name: str, model: Any, lesson: Lesson, path: Path) -> None:
    """Trains a candidate and writes its file; the model itself stays as it is.

    A pruned or clustered model is written in integers (on a GPU: in half precision), since what it
    saves on top shows in the packed file.

    Args:
        name: A choice that needs training.
        model: A compiled Keras model.
        lesson: What to train on.
        path: The file.

    Raises:
        SenteiError: The model is not compiled, cannot be copied, or not be trained on the labels.
    """
    compiled = getattr(model, "get_compile_config", lambda: None)()
    if not getattr(model, "compiled", False) or not compiled:
        raise SenteiError("Compile the model: it is trained with its own optimizer and loss.")
    try:
        _MAKERS[name](_copied(model), compiled, lesson, path)
    except SenteiError:
        raise
    except Exception as error:  # the user's own loss, optimizer and layers run here
        said = " ".join(str(error).split())[:300]
        raise SenteiError(f"It could not be trained: {type(error).__name__}: {said}") from error


def _copied(model: Any) -> Any:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _fit(model: Any, lesson: Lesson, compiled: dict[str, Any]) -> None:
    y = lesson.y
    if _loss(compiled) in _ONE_HOT:
        y = keras.utils.to_categorical(y, model.output_shape[-1])
    model.fit(lesson.x, y, BATCH, lesson.epochs, verbose=0)


def _loss(compiled: dict[str, Any]) -> Any:
    loss = compiled.get("loss")
    return loss.get("class_name") if isinstance(loss, Mapping) else loss


def _as_integers(model: Any, compiled: dict[str, Any], lesson: Lesson, path: Path) -> None:
    qmodel = quantize(model, Custom(ranges="moving"), calibration=lesson.calibration)
    qmodel.compile_from_config(compiled)
    _fit(qmodel, lesson, compiled)
    export(qmodel, path)


def _pruned(model: Any, compiled: dict[str, Any], lesson: Lesson, path: Path) -> None:
    model.compile_from_config(compiled)
    last = max(round(_UNTIL * lesson.steps), 1)
    prune(model, PolynomialDecay(*_SPARSITY, 0, last, frequency=max(last // 10, 1)))
    _fit(model, lesson, compiled)
    _write(strip(model), lesson, path)


def _clustered(model: Any, compiled: dict[str, Any], lesson: Lesson, path: Path) -> None:
    model.compile_from_config(compiled)
    cluster(model, _VALUES)
    _fit(model, lesson, compiled)
    _write(strip(model), lesson, path)


def _write(model: Any, lesson: Lesson, path: Path) -> None:
    if lesson.hardware == "gpu":
        export(model, path, quantize="float16", sparse=False)
    else:
        export(model, path, quantize="int8", calibration=lesson.calibration)


_MAKERS: dict[str, Callable[[Any, dict[str, Any], Lesson, Path], None]] = {
    "training int8": _as_integers,
    "pruning before": _pruned,
    "clustering before": _clustered,
}
