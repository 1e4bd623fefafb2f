"""Image resizing as RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sentei.litert.rewrites.graph import Rule, Run, Step, Value, same_program, size

_METHODS = {"bilinear": "odml.upsample_bilinear2d", "nearest": "tfl.resize_nearest_neighbor"}


def _written(array: Any, height: int, width: int, method: str) -> Any:
    """An image batch (batch, height, width, channels) resized by one LiteRT op."""
    shape = (array.shape[0], height, width, array.shape[3])
    attributes: dict[str, Any] = {"size": np.array([height, width]), "is_nchw_op": False}
    if method == "bilinear":
        attributes["align_corners"] = False
    return jax.lax.composite(
        lambda x, **_: jax.image.resize(x, shape, method, antialias=False), _METHODS[method]
    )(array, **attributes)


def _resize(step: Step, run: Run) -> Sequence[Any] | None:
    """`jax.image.resize` of images, channels last or first."""
    if len(step.inputs) != 1 or len(step.shapes[0]) != 4 or not step.inputs[0].floating:
        return None
    image, target = step.inputs[0].array, step.shapes[0]
    changed = {axis for axis in range(4) if image.shape[axis] != target[axis]}
    last, first = changed <= {1, 2}, changed <= {2, 3}
    for method in _METHODS:
        resize = partial(jax.image.resize, shape=target, method=method, antialias=False)
        if (last or first) and same_program(step, resize, image):
            if last:
                return [_written(image, target[1], target[2], method)]
            turned = jnp.moveaxis(image, 1, 3)
            return [jnp.moveaxis(_written(turned, target[2], target[3], method), 3, 1)]
    return None


def _repeated(step: Step, run: Run) -> Sequence[Any] | None:
    """A reshape that merges a new axis with the one before it repeats each point of that axis."""
    spread = step.inputs[0].made_by("broadcast_in_dim")
    if spread is None:
        return None
    value, wide = spread.inputs[0], tuple(spread.params["shape"])
    kept = list(spread.params["broadcast_dimensions"])
    added = [axis for axis in range(len(wide)) if axis not in kept]
    if len(added) != 1 or added[0] == 0 or not value.floating:
        return None
    axis, times = added[0] - 1, wide[added[0]]
    merged = list(value.shape)
    if merged[axis] == 1:
        return None
    merged[axis] *= times
    if step.shapes[0] != tuple(merged) or wide != (
        *value.shape[: axis + 1],
        times,
        *value.shape[axis + 1 :],
    ):
        return None
    return [_repeat(value, axis, times)]


def _repeat(value: Value, axis: int, times: int) -> Any:
    """Each point of an axis, several times; of an image batch, both axes in one op."""
    shape = value.shape
    if len(shape) == 4 and axis in (1, 2):
        first = value.made_by("reshape")
        earlier = _repeats(first) if axis == 2 and first is not None else None
        image, height = earlier if earlier is not None else (value, 1)
        factors = [height, times] if axis == 2 else [times, 1]
        return _written(
            image.array, image.shape[1] * factors[0], image.shape[2] * factors[1], "nearest"
        )
    before, after = size(shape[:axis]), size(shape[axis + 1 :])
    column = value.array.reshape(before, shape[axis], 1, after)
    longer = _written(column, shape[axis] * times, 1, "nearest")
    return longer.reshape(*shape[:axis], shape[axis] * times, *shape[axis + 1 :])


def _repeats(step: Step) -> tuple[Value, int] | None:
    """The image and factor of a repetition of rows."""
    spread = step.inputs[0].made_by("broadcast_in_dim")
    if spread is None or tuple(spread.params["broadcast_dimensions"]) != (0, 1, 3, 4):
        return None
    image = spread.inputs[0]
    return image, spread.params["shape"][2]


RULES: dict[str, Rule] = {"jit _resize": _resize, "reshape": _repeated}
