"""Which scales suit a clustered kernel: one, so that its n values stay n integers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from keras import ops

from sentei.core.select import sublayers
from sentei.quantization import rules
from sentei.quantization.scheme import Custom
from sentei.quantization.settings import Setting, Settings

_MOST_VALUES = 256
_SAMPLE = 4096


def with_one_scale(model: Any, default: Custom, own: Any) -> dict[str, Setting]:
    """Schemes of single layers, with one scale for the kernels of those that are clustered.

    A scale per channel turns the n values of a kernel into n integers in every channel, others in
    each: more than n in all, which an entropy coder pays for. Measured in
    `benchmarks/combinations.py`.

    Args:
        model: A built Keras model.
        default: The scheme of layers that are not named.
        own: From names to a scheme or None, as `sentei.quantize` takes it.

    Returns:
        The same, with the clustered layers before them.
    """
    settings = Settings(default, own)
    found: dict[str, Setting] = {}
    for layer, holders in sublayers(model):
        path = "/".join([*(holder.name for holder in holders[1:]), layer.name])
        scheme = settings.scheme_of(layer, path)
        if scheme is None or scheme.per_channel is not None or scheme.rate is not None:
            continue
        if (scheme.weight_bits or 0) < 8:
            continue  # on a grid of few steps, one scale for all channels merges values
        kernels = [variable for variable, _ in rules.kernels(layer)]
        if kernels and all(_is_clustered(kernel) for kernel in kernels):
            found[f"/{path}"] = replace(scheme, per_channel=False)
    return {**found, **settings.own}


def _is_clustered(variable: Any) -> bool:
    """Whether so few values make up a kernel that they must have been chosen."""
    values = np.ravel(ops.convert_to_numpy(ops.cast(variable.value, "float32")))
    if len(np.unique(values[:_SAMPLE])) > _MOST_VALUES:
        return False
    distinct = np.unique(values[values != 0])
    return 0 < len(distinct) <= min(_MOST_VALUES, int(np.count_nonzero(values)) // 2)
