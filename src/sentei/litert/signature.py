"""What a model is called with: names, shapes and dtypes of its inputs, pinned before tracing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from sentei.core.errors import SenteiError, UnsupportedModel

# Keras counts these names up within a process, so they say nothing and change from run to run.
_AUTOMATIC_NAME = re.compile(r"(keras_tensor|input_layer)(_\d+)?")
# JAX computes with 32 bits, and a file for small devices wants no half or double precision inputs.
_NARROWED = {
    "float16": "float32",
    "bfloat16": "float32",
    "float64": "float32",
    "int64": "int32",
    "uint64": "uint32",
}


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output.

    Attributes:
        name: The name in the file's signature.
        shape: The shape, batch first; `None` where the size is left open.
        dtype: The dtype's name, such as `"float32"`.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {self.dtype}[{sizes}]"


@dataclass(frozen=True)
class Signature:
    """How a model is called.

    Invariants:
        The leaves of `structure` are TensorSpecs with unique names;
        the first size of every spec of rank 1 or more is the batch, the same in all of them;
        no other size is open.

    Attributes:
        structure: One spec, or lists and dicts of specs, as the model's `call` takes them.
        by_keyword: Whether `structure` is a dict of the arguments of `call`, not its one argument.
    """

    structure: Any
    by_keyword: bool = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The specs in the order in which Keras flattens the structure."""
        return tuple(keras.tree.flatten(self.structure))

    @property
    def open_batch(self) -> bool:
        """Whether the batch size is left to whoever runs the file."""
        return any(spec.shape[:1] == (None,) for spec in self.inputs)

    def call(self, model: Any, tensors: Sequence[Any]) -> Any:
        """Calls the model at inference.

        Args:
            model: The model.
            tensors: One tensor per spec, in the order of `inputs`.

        Returns:
            What the model returns.
        """
        packed = keras.tree.pack_sequence_as(self.structure, list(tensors))
        if self.by_keyword:
            return model(**packed, training=False)
        return model(packed, training=False)

    def with_batch(self, size: int) -> Signature:
        """The same signature for another batch size.

        Args:
            size: The batch size.
        """
        return replace(
            self,
            structure=keras.tree.map_structure(
                lambda spec: replace(spec, shape=(size, *spec.shape[1:])) if spec.shape else spec,
                self.structure,
            ),
        )


def signature_of(model: Any, given: Any = None, batch_size: int | None = 1) -> Signature:
    """Finds out what a model is called with.

    Args:
        model: A built Keras model.
        given: What the user said about the inputs: a shape with its batch axis, `(shape, dtype)`,
            `keras.InputSpec`, `keras.KerasTensor`, an example array, or a list or dict of these.
            Keys are names. None takes the model's own inputs or the shapes it was built with.
        batch_size: The batch size to pin, or None to leave it open.

    Returns:
        The signature.

    Raises:
        SenteiError: `given` cannot be read or does not fit the model, an axis beside the batch is
            open, the model has a batch size of its own, or the model does not tell its inputs.
        UnsupportedModel: An input is no dense tensor of numbers.
    """
    own = _own_inputs(model)
    if given is None:
        structure = own if own is not None else _built_shapes(model)
    else:
        structure = _leaves(given)
        if own is not None:
            structure = _arrange(structure, own, model.name)
    by_keyword = own is None and _names_arguments(model, structure)
    return Signature(_pin(structure, batch_size, model.name), by_keyword)


def float_model_of(model: Any) -> Any:
    """The model whose names and layers tell what a model takes and gives.

    Args:
        model: Any Keras model.

    Returns:
        The float model that a quantized one runs; any other model itself.
    """
    for layer in getattr(model, "layers", ()):
        if getattr(layer, "runs_float_model", False):
            return layer.float_model
    return model


def name_outputs(model: Any, outputs: Any) -> list[str]:
    """Names a model's outputs: its dict's keys, else its output layers' names, else by position.

    Args:
        model: The model.
        outputs: What it returned: a tensor, or lists and dicts of tensors.

    Returns:
        One unique name per tensor, in the order in which Keras flattens them.
    """
    model = float_model_of(model)
    paths = [path for path, _ in keras.tree.flatten_with_path(outputs)]
    names = _path_names(paths, "output")
    if not any(isinstance(key, str) for path in paths for key in path):
        layer_names = list(getattr(model, "output_names", []))
        if isinstance(model, keras.Sequential) and model.layers:
            layer_names = [model.layers[-1].name]
        if len(layer_names) == len(names):
            pairs = zip(layer_names, names, strict=True)
            names = [position if _AUTOMATIC_NAME.fullmatch(n) else n for n, position in pairs]
    return _unique(names)


@dataclass(frozen=True)
class _Leaf:
    """A spec before its name is settled; `fixed` when its batch size is the model's own."""

    shape: tuple[int | None, ...]
    dtype: str | None
    name: str | None = None
    fixed: bool = True


def _own_inputs(model: Any) -> Any:
    """The structure of a Functional or Sequential model's inputs, None for other models."""
    if isinstance(model, keras.Sequential):
        return _leaf(model.inputs[0]) if hasattr(model, "inputs") else None
    if not hasattr(model, "inputs") or not hasattr(model, "input"):
        return None
    return keras.tree.map_structure(_leaf, model.input)


def _built_shapes(model: Any) -> Any:
    """The shapes a subclassed model was built with; they tell no dtypes, so float32 is taken."""
    config = model.get_build_config() or {}
    shapes = config.get("input_shape", config.get("shapes_dict"))
    if not shapes:
        raise SenteiError(
            f"Model {model.name!r} does not tell what it is called with. Pass it, batch axis "
            "included: signature=(None, 28, 28, 1), or a dict of such shapes by name."
        )
    return keras.tree.map_structure(
        lambda leaf: _Leaf(leaf.shape, None, fixed=False), _leaves(shapes)
    )


def _leaves(given: Any) -> Any:
    """Reads what the user said into a structure of leaves."""
    if isinstance(given, Mapping):
        return {str(key): _leaves(value) for key, value in given.items()}
    if isinstance(given, list | tuple) and not _is_shape(given) and not _is_typed_shape(given):
        return [_leaves(value) for value in given]
    return _leaf(given)


def _is_shape(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        size is None or (isinstance(size, int | np.integer) and not isinstance(size, bool))
        for size in value
    )


def _is_typed_shape(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and _is_shape(value[0])
        and (isinstance(value[1], str | type | np.dtype))
    )


def _leaf(value: Any) -> _Leaf:
    if _is_shape(value):
        return _Leaf(_sizes(value), None)
    if _is_typed_shape(value):
        return _Leaf(_sizes(value[0]), _dtype_name(value[1]))
    symbolic = isinstance(value, keras.KerasTensor | keras.InputSpec)
    if symbolic and (getattr(value, "sparse", False) or getattr(value, "ragged", False)):
        raise UnsupportedModel(
            f"Input {getattr(value, 'name', value)!r} is sparse or ragged, which a .tflite input "
            "cannot be. Build the model with a dense keras.Input."
        )
    shape = getattr(value, "shape", None)
    if shape is None:
        raise SenteiError(
            f"`signature` holds {value!r} of type {type(value).__name__}, which is no shape. Give "
            "a shape with its batch axis, such as (None, 28, 28, 1), a (shape, dtype) pair, a "
            "keras.InputSpec, an example array, or a list or dict of these."
        )
    dtype = _dtype_name(value.dtype) if getattr(value, "dtype", None) is not None else None
    name = getattr(value, "name", None) if symbolic else None
    return _Leaf(_sizes(shape), dtype, name, fixed=symbolic)


def _sizes(shape: Iterable[Any]) -> tuple[int | None, ...]:
    return tuple(None if size is None else int(size) for size in shape)


def _dtype_name(dtype: Any) -> str:
    try:
        name = keras.utils.standardize_dtype(dtype)
    except (TypeError, ValueError):
        raise SenteiError(
            f"`signature` names the dtype {dtype!r}, which is none. Use e.g. 'float32' or 'int32'."
        ) from None
    if name == "string":
        raise UnsupportedModel(
            "An input takes strings, which the exported graph cannot hold. Turn strings into "
            "integers before the model (keras.layers.StringLookup in the data pipeline)."
        )
    return name


def _arrange(given: Any, own: Any, model_name: str) -> Any:
    """Puts the user's leaves in the places of the model's own inputs, by name or by position."""
    places = keras.tree.flatten_with_path(own)
    names = _leaf_names(own)
    if isinstance(given, Mapping):
        found = dict(zip(_leaf_names(given), keras.tree.flatten(given), strict=True))
    else:
        found = dict(zip(names, keras.tree.flatten(given), strict=False))
    count = len(keras.tree.flatten(given))
    if set(found) != set(names) or count != len(names):
        received = sorted(found) if isinstance(given, Mapping) else f"{count} of them"
        raise SenteiError(
            f"`signature` must describe the inputs {names} of model {model_name!r}. "
            f"Received: {received}."
        )
    leaves = []
    for name, (_, expected) in zip(names, places, strict=True):
        leaf = found[name]
        if len(leaf.shape) != len(expected.shape) or not all(
            None in (mine, theirs) or mine == theirs
            for mine, theirs in list(zip(leaf.shape, expected.shape, strict=True))[1:]
        ):
            raise SenteiError(
                f"`signature` gives input {name!r} the shape {list(leaf.shape)}, but model "
                f"{model_name!r} takes {list(expected.shape)} (batch axis first)."
            )
        sizes = [a if a is not None else b for a, b in zip(leaf.shape, expected.shape, strict=True)]
        if expected.shape and expected.shape[0] is not None:
            sizes[0] = expected.shape[0]
        fixed = leaf.fixed or bool(expected.shape and expected.shape[0] is not None)
        leaves.append(_Leaf(tuple(sizes), leaf.dtype or expected.dtype, name, fixed))
    return keras.tree.pack_sequence_as(own, leaves)


def _names_arguments(model: Any, structure: Any) -> bool:
    """Whether a dict names the arguments of `call`, not the keys of its one dict argument."""
    if not isinstance(structure, Mapping):
        return False
    parameters = inspect.signature(model.call).parameters
    named = [
        n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    return bool(named) and named[0] in structure and set(structure) <= set(named)


def _pin(structure: Any, batch_size: int | None, model_name: str) -> Any:
    """Settles names, dtypes and the batch size."""
    names = _leaf_names(structure)
    specs = [
        TensorSpec(name, _pin_shape(leaf, name, batch_size, model_name), _pin_dtype(leaf.dtype))
        for name, leaf in zip(names, keras.tree.flatten(structure), strict=True)
    ]
    return keras.tree.pack_sequence_as(structure, specs)


def _pin_shape(
    leaf: _Leaf, name: str, batch_size: int | None, model_name: str
) -> tuple[int | None, ...]:
    if not leaf.shape:
        return ()
    batch, *sizes = leaf.shape
    if leaf.fixed and batch is not None and batch != batch_size:
        raise SenteiError(
            f"Input {name!r} of model {model_name!r} has the fixed batch size {batch}, but "
            f"batch_size={batch_size}. Pass batch_size={batch}."
        )
    if None in sizes:
        axis = sizes.index(None) + 1
        example = ", ".join("None" if size is None else str(size) for size in leaf.shape)
        raise SenteiError(
            f"Input {name!r} of model {model_name!r} leaves axis {axis} open: ({example}). A "
            ".tflite file fixes every axis but the batch: pass "
            f"signature={{{name!r}: (None, ...)}} with all other sizes as numbers."
        )
    if 0 in sizes:
        raise SenteiError(f"Input {name!r} of model {model_name!r} is empty: {list(leaf.shape)}.")
    return (batch_size, *sizes)


def _pin_dtype(dtype: str | None) -> str:
    name = dtype or "float32"
    return _NARROWED.get(name, name)


def _leaf_names(structure: Any) -> list[str]:
    """Dict keys first, then names the user chose, then positions."""
    pairs = keras.tree.flatten_with_path(structure)
    names = _path_names([path for path, _ in pairs], "input")
    for i, (path, leaf) in enumerate(pairs):
        keyed = any(isinstance(key, str) for key in path)
        if not keyed and leaf.name and not _AUTOMATIC_NAME.fullmatch(leaf.name):
            names[i] = leaf.name
    return _unique(names)


def _path_names(paths: Sequence[tuple[Any, ...]], prefix: str) -> list[str]:
    return [
        "_".join(str(key) for key in path)
        if any(isinstance(key, str) for key in path)
        else f"{prefix}_{i}"
        for i, path in enumerate(paths)
    ]


def _unique(names: Sequence[str]) -> list[str]:
    result: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in result:
            candidate, number = f"{name}_{number}", number + 1
        result.append(candidate)
    return result
