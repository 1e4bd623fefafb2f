"""Putting rules onto a compiled model's optimizer, finding them there, taking them off."""

from __future__ import annotations

from typing import Any

import keras

from sentei.core.errors import SenteiError
from sentei.core.project import Projected
from sentei.core.projection import Projection
from sentei.core.select import require_built


def find(model: Any) -> Projected | None:
    """The `Projected` of a model, also inside a LossScaleOptimizer; None when there is none.

    Args:
        model: a Keras model.
    """
    optimizer = getattr(model, "optimizer", None)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer if isinstance(optimizer, Projected) else None


def require_compiled(model: Any) -> None:
    """Checks that there is an optimizer to hold a rule.

    Args:
        model: what the user passed.

    Raises:
        SenteiError: when it is no built, compiled Keras model.
    """
    require_built(model)
    if getattr(model, "optimizer", None) is None:
        raise SenteiError(
            f"Model {model.name!r} is not compiled: there is no optimizer to hold the rule. Call "
            "model.compile(optimizer=..., loss=...) first."
        )


def attach(model: Any, projection: Projection) -> None:
    """Adds a rule to a compiled model's optimizer, in place, wrapping it if need be.

    The optimizer keeps its state. The next `fit` compiles a new training step.

    Args:
        model: a compiled Keras model; when it is not built, the rule is built with its optimizer.
        projection: the rule.
    """
    projected = find(model)
    if projected is not None:
        projected.add(projection)
    else:
        projected = Projected(_innermost(model.optimizer), [projection])
        if model.built:
            projected.build(model.trainable_variables)
        _replace(model, projected)
    model.train_function = None  # the old compiled step knows nothing of the rule
    _save_current_optimizer(model)


def strip(model: Any) -> Any:
    """Takes every rule of sentei off a model: what is left is plain Keras.

    The weights stay as they are (zeros stay zero until the model is trained again), the optimizer
    is the one the model was compiled with, with its state. A model saved after this loads where
    sentei is not installed.

    Args:
        model: a Keras model, changed in place. One without rules is returned as it is.

    Returns:
        The same model; of a quantized model, the float model it was made from, with the weights
        that it has now.

    Raises:
        SenteiError: when `model` is no Keras model, or its weights are not finite.
    """
    if not isinstance(model, keras.Model):
        raise SenteiError(f"Expected a Keras model. Received: {type(model).__name__}.")
    for layer in getattr(model, "layers", ()):
        # A layer that runs a float model in its own way says so by this attribute.
        if getattr(layer, "runs_float_model", False):
            projected = find(model)
            if projected is not None:
                projected.check()
            return layer.float_model
    projected = find(model)
    if projected is not None:
        projected.check()
        _replace(model, projected.inner_optimizer)
        model.train_function = None
        _save_current_optimizer(model)
    return model


def _innermost(optimizer: Any) -> Any:
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer.inner_optimizer
    return optimizer


def _replace(model: Any, optimizer: Any) -> None:
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        model.optimizer.inner_optimizer = optimizer
    else:
        model.optimizer = optimizer


def _save_current_optimizer(model: Any) -> None:
    """Makes `model.save` store the optimizer the model has, not the one `compile` was given.

    Keras remembers the arguments of `compile` and saves those; `get_compile_config` is its public
    hook, overridden here on the one object. It asks the model at saving time, so it stays right
    when the model is compiled again.
    """

    def get_compile_config() -> dict[str, Any]:
        config = dict(type(model).get_compile_config(model))
        if config:
            config["optimizer"] = keras.saving.serialize_keras_object(model.optimizer)
        return config

    model.get_compile_config = get_compile_config
