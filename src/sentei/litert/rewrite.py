"""Makes any Keras model traceable into a graph that LiteRT runs well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import keras

from sentei.core.errors import UnsupportedModel
from sentei.core.select import sublayers
from sentei.litert.rewrites.layers import CALLS
from sentei.litert.rewrites.refused import check_layers
from sentei.litert.rewrites.walk import simplified

Call = Callable[..., Any]


@contextmanager
def rewritten(model: Any) -> Iterator[None]:
    """A context in which tracing a model on JAX gives a graph that LiteRT runs well.

    The `call` of the model itself is wrapped, and that of a few layers replaced; nested models and
    custom layers need nothing. On exit, even by an exception, the model is as before.

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
    with ExitStack() as stack:
        for layer, _ in sublayers(model):
            replacement = CALLS.get(type(layer))
            if replacement is not None:
                stack.enter_context(_calling(layer, replacement(layer)))
        stack.enter_context(_calling(model, _simplified_call(model, refusals)))
        try:
            yield
        except Exception:
            if refusals:
                # Keras adds the arguments of every call on the way; the refusal says it better.
                raise refusals[0] from None
            raise


@contextmanager
def _calling(layer: Any, call: Call) -> Iterator[None]:
    """Lets a layer run another function in place of its `call`."""
    # Past Keras' attribute tracking, which would count this as a change of the layer.
    attributes = vars(layer)
    own = {"call": attributes["call"]} if "call" in attributes else {}
    attributes["call"] = call
    try:
        yield
    finally:
        del attributes["call"]
        attributes.update(own)


def _simplified_call(model: Any, refusals: list[UnsupportedModel]) -> Call:
    """A model's `call`, with its tensors traced on their own and the trace said again."""
    call = model.call
    seeds = [variable for variable in model.variables if variable.name == "seed_generator_state"]

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

        before = [seed.value for seed in seeds]
        try:
            return simplified(function)(*[leaves[place] for place in places])
        except UnsupportedModel as refusal:
            refusals.append(refusal)
            raise
        finally:
            # Augmentation draws numbers at inference, too, and throws them away: no change of
            # state. (Numbers that reach an output have been refused by now.)
            for seed, value in zip(seeds, before, strict=True):
                seed.assign(value)

    return traced
