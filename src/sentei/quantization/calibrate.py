"""Giving activations their ranges: runs samples through the float model and watches."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.core.errors import SenteiError
from sentei.quantization.layer import QuantizedModel
from sentei.quantization.masking import Unmasked
from sentei.quantization.observers import OBSERVERS, Observer
from sentei.quantization.quantizer import ActivationQuantizer


class _Probe(keras.layers.Layer):
    """Gives the tensors that are to be rounded as outputs, so that any backend compiles them."""

    def __init__(self, layer: QuantizedModel) -> None:
        # The class' name would give a name that TensorFlow refuses.
        super().__init__(autocast=False, name="probe")
        self.layer = layer
        self.built = True

    def call(self, inputs: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        counts: dict[str, int] = {}

        def watch(label: str, x: Any) -> None:
            if isinstance(self.layer.quantizer_of(label), ActivationQuantizer):
                counts[label] = counts.get(label, 0) + 1
                # Every range holds 0: masked steps do not count.
                found[f"{label}|{counts[label]}"] = Unmasked()(x)

        outputs = self.layer.watched(inputs, watch)
        # A model must use its inputs; one without activations to calibrate still has outputs.
        return found or {"|": keras.tree.flatten(outputs)[0]}


def calibrate(
    qmodel: Any, samples: Any, *, batch_size: int = 32, progress: bool | None = None
) -> Any:
    """Gives every activation of a quantized model its range, from samples.

    The float model is run; its activations are observed by the method that the scheme names.

    Args:
        qmodel: A model made by `sentei.quantize`, changed in place.
        samples: As the argument `calibration` of `sentei.quantize`. Of pairs `(x, y)` the first
            counts.
        batch_size: How many samples of an array to run at once.
        progress: Whether to show progress on a terminal; None: if there is one.

    Returns:
        The same model.

    Raises:
        SenteiError: There are no samples, they have the wrong shapes, or something computed from
            them is not finite. Ranges are then as they were.
    """
    layer = layer_of(qmodel)
    probe = keras.Model(qmodel.input, _Probe(layer)(qmodel.input))
    observers = {
        label: OBSERVERS[activation.scheme.observer]()
        for label, activation in layer.plan.activations.items()
        if isinstance(layer.quantizer_of(label), ActivationQuantizer)
    }
    seen: set[str] = set()
    count = 0
    shown = sys.stderr.isatty() if progress is None else progress
    for batch in batches(qmodel, samples, batch_size):
        _observe(probe.predict_on_batch(batch), observers, seen)
        count += 1
        if shown:
            sys.stderr.write(f"\rcalibration: batch {count}")
    if shown and count:
        sys.stderr.write("\n")
    if not count:
        raise SenteiError("The calibration data is empty. Give at least one batch of samples.")
    for label in seen:
        quantizer = layer.quantizer_of(label)
        low, high = observers[label].range(quantizer.kind)
        quantizer.set_range(low, high)
    return qmodel


def layer_of(qmodel: Any) -> QuantizedModel:
    """The layer that holds a quantized model's float model.

    Args:
        qmodel: What the user passed.

    Raises:
        SenteiError: It is no quantized model.
    """
    for layer in getattr(qmodel, "layers", ()):
        if isinstance(layer, QuantizedModel):
            return layer
    raise SenteiError(
        "Expected a model made by sentei.quantize. Received: "
        f"{getattr(qmodel, 'name', type(qmodel).__name__)!r}."
    )


def _observe(found: Mapping[str, Any], observers: Mapping[str, Observer], seen: set[str]) -> None:
    for key, values in found.items():
        label = key.rpartition("|")[0]
        if label not in observers:
            continue
        values = np.asarray(values, np.float32)
        if not np.isfinite(values).all():
            raise SenteiError(
                f"The activation {label!r} is not finite (NaN or infinite) on the calibration "
                "data. Check the samples and the model's weights."
            )
        if values.size:
            observers[label].update(values)
            seen.add(label)


def batches(model: Any, samples: Any, batch_size: int) -> Iterator[Any]:
    """Batches in the structure of the model's inputs, checked.

    Args:
        model: The model.
        samples: As the argument `calibration` of `sentei.quantize`.
        batch_size: How many samples of an array to put together.

    Raises:
        SenteiError: They do not fit the inputs, or are not finite.
    """
    for batch in _raw_batches(model, samples, batch_size):
        yield _checked(model, batch)


def _raw_batches(model: Any, samples: Any, batch_size: int) -> Iterator[Any]:
    if isinstance(samples, keras.utils.PyDataset):
        if samples.num_batches is None:
            raise SenteiError("The calibration PyDataset is endless: `num_batches` must be set.")
        for index in range(samples.num_batches):
            yield _first(samples[index])
    elif _is_structure(model, samples):
        leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(samples)]
        sizes = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
        if len(sizes) != 1:
            raise SenteiError(
                f"The calibration arrays have different numbers of samples: {sorted(sizes)}."
            )
        for start in range(0, sizes.pop(), batch_size):
            cut = iter([leaf[start : start + batch_size] for leaf in leaves])
            yield keras.tree.map_structure(lambda _, cut=cut: next(cut), samples)
    elif isinstance(samples, Iterable):
        for batch in samples:
            yield _first(batch)
    else:
        raise SenteiError(
            "`calibration` must be an array, a dict of arrays by input name, or batches (a "
            f"PyDataset, generator, tf.data.Dataset or DataLoader). Received: {samples!r}."
        )


def peeked(samples: Any) -> tuple[Any, Any]:
    """The first batch of samples, and the samples still complete.

    Args:
        samples: As the argument `calibration` of `sentei.quantize`, or None.

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
        many = len(model.inputs) > 1 and len(samples) == len(model.inputs)
        return many and all(hasattr(leaf, "shape") for leaf in samples)
    return hasattr(samples, "shape") and hasattr(samples, "__getitem__")


def _checked(model: Any, batch: Any) -> Any:
    specs = model.inputs
    if isinstance(batch, Mapping):
        names = [spec.name for spec in specs]
        keys = sorted(model.input) if isinstance(model.input, Mapping) else names
        missing = [name for name in keys if name not in batch]
        if missing:
            raise SenteiError(
                f"The calibration data lacks the inputs {missing}. It has {sorted(batch)}."
            )
        leaves = [batch[name] for name in keys]
    else:
        leaves = list(batch) if isinstance(batch, (list, tuple)) else [batch]
    if len(leaves) != len(specs):
        raise SenteiError(
            f"The model has {len(specs)} inputs. The calibration data has {len(leaves)}."
        )
    arrays = []
    for spec, leaf in zip(specs, leaves, strict=True):
        array = np.asarray(ops.convert_to_numpy(leaf) if not hasattr(leaf, "__array__") else leaf)
        fits = array.ndim == len(spec.shape) and all(
            want in (None, have) for want, have in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits:
            raise SenteiError(
                f"The calibration data for input {spec.name!r} has the shape {array.shape}; the "
                f"model takes {tuple(spec.shape)}."
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise SenteiError(
                f"The calibration data for input {spec.name!r} is not finite: it holds NaN or "
                "infinite values."
            )
        arrays.append(array.astype(keras.backend.standardize_dtype(spec.dtype)))
    found = iter(arrays)
    return keras.tree.map_structure(lambda _: next(found), model.input)
