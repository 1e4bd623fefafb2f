"""Samples in the forms in which Keras takes data, as batches of a model's inputs.

An array, a dict of arrays by input name, a list of arrays (one per input), a
`keras.utils.PyDataset`, or anything that gives batches: a generator, a `tf.data.Dataset`, a
`DataLoader`. A batch that is a tuple holds targets too, as `fit` takes them: they are left out.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.core.errors import SenteiError
from sentei.core.graph import structure_of


def batches(model: Any, samples: Any, batch_size: int) -> Iterator[Any]:
    """Batches in the structure of the model's inputs, checked.

    Args:
        model: The model. One without symbolic inputs (subclassed) gets batches as they are.
        samples: See the module.
        batch_size: How many samples of an array to put together.

    Raises:
        SenteiError: They do not fit the inputs, or are not finite.
    """
    for batch in _raw_batches(model, samples, batch_size):
        yield _checked(model, batch) if _inputs(model) else batch


def told(
    given: Iterable[Any], title: str, progress: bool | None, *, each: str = "batch"
) -> Iterator[Any]:
    """The same batches, counted on a terminal while they are worked on.

    Args:
        given: The batches, or other work.
        title: What is done with them.
        progress: Whether to show it; None: if there is a terminal.
        each: What one of them is called.

    Raises:
        SenteiError: There are none.
    """
    shown = sys.stderr.isatty() if progress is None else progress
    count = 0
    try:
        for count, batch in enumerate(given, start=1):
            yield batch
            if shown:
                sys.stderr.write(f"\r{title}: {each} {count}")
    finally:
        if shown and count:
            sys.stderr.write("\n")
    if not count:
        raise SenteiError(f"The {title} data is empty. Give at least one batch of samples.")


def _inputs(model: Any) -> list[Any]:
    """A model's symbolic inputs; none of a subclassed one."""
    return getattr(model, "inputs", None) or []


def _raw_batches(model: Any, samples: Any, batch_size: int) -> Iterator[Any]:
    if isinstance(samples, keras.utils.PyDataset):
        if samples.num_batches is None:
            raise SenteiError("The PyDataset of samples is endless: `num_batches` must be set.")
        for index in range(samples.num_batches):
            yield _first(samples[index])
    elif _is_structure(model, samples):
        leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(samples)]
        sizes = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
        if len(sizes) != 1:
            raise SenteiError(f"The arrays have different numbers of samples: {sorted(sizes)}.")
        for start in range(0, sizes.pop(), batch_size):
            cut = iter([leaf[start : start + batch_size] for leaf in leaves])
            yield keras.tree.map_structure(lambda _, cut=cut: next(cut), samples)
    elif isinstance(samples, Iterable):
        for batch in samples:
            yield _first(batch)
    else:
        raise SenteiError(
            "Samples must be an array, a dict of arrays by input name, or batches (a "
            f"PyDataset, generator, tf.data.Dataset or DataLoader). Received: {samples!r}."
        )


def peeked(samples: Any) -> tuple[Any, Any]:
    """The first batch of samples, and the samples still complete.

    Args:
        samples: See the module, or None.

    Returns:
        Inputs for one call (None without samples), and what to calibrate with.
    """
    if samples is None:
        return None, None
    if isinstance(samples, keras.utils.PyDataset):
        return _first(samples[0]), samples
    if isinstance(samples, Mapping) or hasattr(samples, "shape"):
        return samples, samples
    if isinstance(samples, (list, tuple)) and all(hasattr(leaf, "shape") for leaf in samples):
        return samples, samples
    if not isinstance(samples, Iterable):
        return None, samples
    rest = iter(samples)
    first = next(rest, None)
    if first is None:
        raise SenteiError("The calibration data is empty. Give at least one batch of samples.")
    return _first(first), itertools.chain([first], rest)


def _first(batch: Any) -> Any:
    """The inputs of a batch that may hold targets too, as `fit` takes them."""
    return keras.utils.unpack_x_y_sample_weight(batch)[0] if isinstance(batch, tuple) else batch


def _is_structure(model: Any, samples: Any) -> bool:
    """Whether samples are arrays in the structure of the inputs, not batches of them."""
    if isinstance(samples, Mapping):
        return True
    if isinstance(samples, (list, tuple)):
        many = len(_inputs(model)) > 1 and len(samples) == len(_inputs(model))
        return many and all(hasattr(leaf, "shape") for leaf in samples)
    return hasattr(samples, "shape") and hasattr(samples, "__getitem__")


def _checked(model: Any, batch: Any) -> Any:
    specs = model.inputs
    structure = structure_of(model)
    if isinstance(batch, Mapping):
        names = [spec.name for spec in specs]
        keys = sorted(structure) if isinstance(structure, Mapping) else names
        missing = [name for name in keys if name not in batch]
        if missing:
            raise SenteiError(f"The samples lack the inputs {missing}. They have {sorted(batch)}.")
        leaves = [batch[name] for name in keys]
    else:
        leaves = list(batch) if isinstance(batch, (list, tuple)) else [batch]
    if len(leaves) != len(specs):
        raise SenteiError(f"The model has {len(specs)} inputs. The samples have {len(leaves)}.")
    arrays = []
    for spec, leaf in zip(specs, leaves, strict=True):
        array = np.asarray(ops.convert_to_numpy(leaf) if not hasattr(leaf, "__array__") else leaf)
        fits = array.ndim == len(spec.shape) and all(
            want in (None, have) for want, have in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits:
            raise SenteiError(
                f"The samples for input {spec.name!r} have the shape {array.shape}; the "
                f"model takes {tuple(spec.shape)}."
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise SenteiError(
                f"The samples for input {spec.name!r} are not finite: they hold NaN or infinite "
                "values."
            )
        arrays.append(array.astype(keras.backend.standardize_dtype(spec.dtype)))
    found = iter(arrays)
    return keras.tree.map_structure(lambda _: next(found), structure)
