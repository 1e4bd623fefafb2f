"""`quantize_annotate_layer`, `quantize_annotate_model`: says what `quantize_apply` shall do."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from sentei.core.errors import SenteiError
from sentei.core.graph import is_graph
from sentei.quantization import quantized
from sentei.tfmot.annotation import rewrapped
from sentei.tfmot.quantization.config import QuantizeConfig
from sentei.tfmot.quantization.wrapper import require_layer
from sentei.tfmot.wrapping import Wrapping


@keras.saving.register_keras_serializable("sentei_tfmot")
class QuantizeAnnotate(Wrapping):
    """A layer that shall be quantized. It computes what the layer computes.

    Args:
        layer: The layer.
        quantize_config: A `QuantizeConfig`; None for what is usual for such a layer.
        **kwargs: As Keras layers take them.

    Raises:
        SenteiError: When `layer` is no layer, or a model (a ValueError).
    """

    prefix = "quantize_annotate_"

    def __init__(self, layer: Any, quantize_config: Any = None, **kwargs: Any) -> None:
        require_layer("layer", layer)
        super().__init__(layer, **kwargs)
        self.quantize_config = quantize_config
        self.alone = True  # whether the user named this very layer: then it has to be of use

    def settings(self) -> dict[str, Any]:
        """What the constructor takes beside the layer."""
        return {"quantize_config": self.quantize_config}


def quantize_annotate_layer(to_annotate: Any, quantize_config: Any = None, **kwargs: Any) -> Any:
    """Says that `quantize_apply` shall quantize a layer.

    Args:
        to_annotate: The layer.
        quantize_config: A `QuantizeConfig`: how; None for what is usual for such a layer.
        **kwargs: For the wrapper, such as `input_shape`.

    Returns:
        The layer in a `QuantizeAnnotate`, which computes the same.

    Raises:
        SenteiError: When an argument is not of such a kind (a ValueError).
    """
    require_layer("to_annotate", to_annotate)
    if quantize_config is not None and not isinstance(quantize_config, QuantizeConfig):
        raise SenteiError(
            "`quantize_config` can only be a `tfmot.quantization.keras.QuantizeConfig` instance. "
            f"You passed an instance of type: {type(quantize_config).__name__}."
        )
    return QuantizeAnnotate(to_annotate, quantize_config=quantize_config, **kwargs)


def quantize_annotate_model(to_annotate: Any) -> Any:
    """Says that `quantize_apply` shall quantize a model.

    Args:
        to_annotate: A Sequential or Functional model, models nested in it included. It is left as
            it is: what is returned shares its variables.

    Returns:
        The model, uncompiled, on layers in `QuantizeAnnotate`; those that were keep their configs.
        Lambda layers are left as they are, with a warning.

    Raises:
        SenteiError: When it is no such model (a ValueError).
    """
    require_graph("to_annotate", to_annotate)

    def wrapped(layer: Any) -> Any:
        if isinstance(layer, QuantizeAnnotate):
            return layer
        if isinstance(layer, keras.layers.Lambda):
            warnings.warn(
                f"Lambda layers, such as {layer.name!r}, are not quantized: what they compute "
                "cannot be known. Make it a layer of your own, and give it a QuantizeConfig.",
                stacklevel=2,
            )
            return layer
        annotated = QuantizeAnnotate(layer)
        annotated.alone = False
        return annotated

    return rewrapped(to_annotate, wrapped)


def require_graph(name: str, model: Any) -> None:
    """Checks that it is a Sequential or Functional model.

    Args:
        name: What the argument is called.
        model: What the user passed.

    Raises:
        SenteiError: It is not, or it is quantized.
    """
    if model is None:
        raise SenteiError(f"`{name}` cannot be None.")
    if not isinstance(model, keras.Model):
        raise SenteiError(
            f"`{name}` can only be a `keras.Model` instance. Use quantize_annotate_layer for a "
            f"single layer. You passed an instance of type: {type(model).__name__}."
        )
    if not is_graph(model):
        raise SenteiError(
            f"`{name}` can only either be a keras Sequential or Functional model. Received: "
            f"{type(model).__name__}, a subclassed model, which sentei.quantize takes."
        )
    if quantized(model) is not None:
        raise SenteiError(
            f"`{name}` is quantized already: {model.name!r}. Call sentei.strip(model) for the "
            "float model, and quantize that."
        )
