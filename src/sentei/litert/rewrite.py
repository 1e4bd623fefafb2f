"""Makes any Keras model traceable into a graph that LiteRT runs well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import keras

from sentei.core.errors import UnsupportedModel
from sentei.litert.rewrites.refused import check_layers
from sentei.litert.rewrites.walk import simplified


@contextmanager
def rewritten(model: Any) -> Iterator[None]:
    """A context in which tracing a model on JAX gives a graph that LiteRT runs well.

    Only the outermost `call` is wrapped, so nested models and custom layers need nothing. On exit,
    even by an exception, the model is as before.

    Args:
        model: A built Keras layer or model.

    Yields:
        Nothing.

    Raises:
        UnsupportedModel: A layer cannot be exported; the message names it and the reason. Raised
            on entry for layers that never can, while tracing for what a layer's code does.
    """
    check_layers(model)
    refusals: list[UnsupportedModel] = []
    attributes = vars(model)
    own = {"call": attributes["call"]} if "call" in attributes else {}
    # Written past Keras' attribute tracking, which would see a change of the model.
    attributes["call"] = _simplified_call(model.call, refusals)
    try:
        yield
    except Exception:
        if refusals:
            # Keras adds the arguments of every call on the way; the refusal alone says it better.
            raise refusals[0] from None
        raise
    finally:
        del attributes["call"]
        attributes.update(own)


def _simplified_call(
    call: Callable[..., Any], refusals: list[UnsupportedModel]
) -> Callable[..., Any]:
    """A layer's `call`, with its tensors traced on their own and the trace said again."""

    def traced(*args: Any, **kwargs: Any) -> Any:
        leaves, structure = jax.tree.flatten((args, kwargs))
        if any(isinstance(leaf, keras.KerasTensor) for leaf in leaves):
            return call(*args, **kwargs)
        places = [i for i, leaf in enumerate(leaves) if keras.ops.is_tensor(leaf)]

        def function(*tensors: Any) -> Any:
            filled = list(leaves)
            for place, tensor in zip(places, tensors, strict=True):
                filled[place] = tensor
            inner_args, inner_kwargs = jax.tree.unflatten(structure, filled)
            return call(*inner_args, **inner_kwargs)

        try:
            return simplified(function)(*[leaves[place] for place in places])
        except UnsupportedModel as refusal:
            refusals.append(refusal)
            raise

    return traced
