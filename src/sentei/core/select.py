"""Which weights a rule is about: the layers of a model, their kernels, and the kernels' axes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers as kl

from sentei.core.errors import SenteiError
from sentei.core.policies import resolve

Layers = None | str | Iterable[str] | Mapping[str, Any] | Callable[[Any], Any]


@dataclass(frozen=True)
class Axes:
    """What the axes of a weight mean.

    Invariant: `position`, `input` and `output` together name every axis exactly once.

    Attributes:
        position: axes along which the kernel slides (height, width), or batches.
        input: axes summed over with the layer's input channels.
        output: axes of the output channels.
    """

    position: tuple[int, ...]
    input: tuple[int, ...]
    output: tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """One weight a rule can be about.

    Attributes:
        index: its position among `model.trainable_variables`.
        path: names of the layers around it from the model inwards, then its own: what `layers`
            takes as its name (a variable's own path leaves out the models it is nested in).
        layer: the name of the layer that owns it.
        shape: its shape.
        axes: what its axes mean.
    """

    index: int
    path: str
    layer: str
    shape: tuple[int, ...]
    axes: Axes


@dataclass(frozen=True)
class Selected:
    """A weight, and what the user said about it (`None`: nothing, use the default)."""

    weight: Weight
    setting: Any = None


@dataclass(frozen=True)
class Skipped:
    """A weight left alone, and why."""

    weight: Weight
    reason: str


def _dense(layer: Any, rank: int) -> Axes:
    return Axes((), tuple(range(rank - 1)), (rank - 1,))


def _convolution(layer: Any, rank: int) -> Axes:
    return Axes(tuple(range(rank - 2)), (rank - 2,), (rank - 1,))


def _transposed_convolution(layer: Any, rank: int) -> Axes:
    return Axes(tuple(range(rank - 2)), (rank - 1,), (rank - 2,))


def _embedding(layer: Any, rank: int) -> Axes:
    # A LiteRT table is stored row by row: the vector is the contiguous axis, as `in` is elsewhere.
    return Axes((), (1,), (0,))


def _einsum(layer: Any, rank: int) -> Axes:
    inputs, kernel, outputs = re.split(r",|->", layer.equation.replace(".", "").replace(" ", ""))
    place = {axis: (letter in inputs, letter in outputs) for axis, letter in enumerate(kernel)}
    return Axes(
        tuple(a for a, both in place.items() if both == (True, True)),
        tuple(a for a, both in place.items() if both[0] and not both[1]),
        tuple(a for a, both in place.items() if not both[0]),
    )


# Layer class, name of the weight, its axes, and whether rules take it without being told to.
# The first row that fits decides. Depthwise kernels hold few weights and hurt most: on request.
_KINDS: tuple[tuple[type, str, Callable[[Any, int], Axes], bool], ...] = (
    (kl.Conv1DTranspose, "kernel", _transposed_convolution, True),
    (kl.Conv2DTranspose, "kernel", _transposed_convolution, True),
    (kl.Conv3DTranspose, "kernel", _transposed_convolution, True),
    (kl.DepthwiseConv1D, "kernel", _convolution, False),
    (kl.DepthwiseConv2D, "kernel", _convolution, False),
    (kl.SeparableConv1D, "pointwise_kernel", _convolution, True),
    (kl.SeparableConv2D, "pointwise_kernel", _convolution, True),
    (kl.SeparableConv1D, "depthwise_kernel", _convolution, False),
    (kl.SeparableConv2D, "depthwise_kernel", _convolution, False),
    (kl.Conv1D, "kernel", _convolution, True),
    (kl.Conv2D, "kernel", _convolution, True),
    (kl.Conv3D, "kernel", _convolution, True),
    (kl.Dense, "kernel", _dense, True),
    (kl.EinsumDense, "kernel", _einsum, True),
    (kl.Embedding, "embeddings", _embedding, True),
    (kl.SimpleRNNCell, "kernel", _dense, True),
    (kl.SimpleRNNCell, "recurrent_kernel", _dense, True),
    (kl.LSTMCell, "kernel", _dense, True),
    (kl.LSTMCell, "recurrent_kernel", _dense, True),
    (kl.GRUCell, "kernel", _dense, True),
    (kl.GRUCell, "recurrent_kernel", _dense, True),
)


def children(layer: Any) -> list[Any]:
    """The layers held directly by a layer, each once, in the order in which it holds them.

    Keras has no public way from a layer to its parts that works for every layer (a model has
    `layers`, Bidirectional and custom blocks have not), so its attributes are looked through.

    Args:
        layer: any Keras layer or model.
    """
    found: dict[int, Any] = {}
    waiting = list(reversed(list(vars(layer).values())))
    while waiting:
        value = waiting.pop()
        if isinstance(value, kl.Layer):
            found.setdefault(id(value), value)
        elif isinstance(value, (list, tuple, set)):
            waiting.extend(reversed(list(value)))
        elif isinstance(value, dict):
            waiting.extend(reversed(list(value.values())))
    found.pop(id(layer), None)
    return list(found.values())


def sublayers(layer: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Every layer inside a layer or model, itself first, each once, with the layers around it.

    Args:
        layer: any Keras layer or model.

    Yields:
        `(layer, holders)`: a layer and the layers that hold it, outermost first.
    """
    seen: set[int] = set()
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(layer, ())]
    while waiting:
        current, holders = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current, holders
        around = (*holders, current)
        waiting.extend((child, around) for child in reversed(children(current)))


def select(
    model: Any,
    layers: Layers = None,
    *,
    declare: str | Callable[[Any], Iterable[Any]] = "get_prunable_variables",
) -> tuple[list[Selected], list[Skipped]]:
    """The weights of a model that a rule is about, and those it leaves alone.

    Args:
        model: a built Keras model.
        layers: what the user said:

            - `None`: every layer of the default kinds;
            - a name or a list of names: only these layers;
            - `"xnnpack"`: only the layers that XNNPACK will run sparse (`sentei.diagnose`);
            - a dict from name to setting: these layers get their own setting, all others the
              default; `None` as a setting leaves a layer alone. The first entry that fits counts;
            - a function of the layer, as the model or block lists it (an LSTM, not its cell):
              `None` or `False` leaves it alone, `True` takes its weights of the default kinds
              with the default setting, anything else is their setting.

            A name is a layer's name, the name of a block or model around it, a path of such names
            (`"encoder/dense"`), one with a weight's name at its end (`"dense/bias"`), or a
            regular expression that matches one of these in full. A layer that is named itself
            gives its kernels whatever its kind; a weight that is named itself is taken.
        declare: method by which a custom layer lists the variables a rule may touch, or a function
            from any layer to those that it lists.

    Returns:
        The selected weights and the skipped ones (of two or more axes), by position.

    Raises:
        SenteiError: when a name fits no layer.
    """
    index = {id(variable): i for i, variable in enumerate(model.trainable_variables)}
    choose = _Choice(resolve(layers, model))
    selected: dict[int, Selected] = {}
    skipped: dict[int, Skipped] = {}
    for layer, holders in sublayers(model):
        for variable, axes, usual in _weights(layer, declare):
            if id(variable) not in index:
                continue
            i = index[id(variable)]
            shape = tuple(variable.shape)
            path = "/".join([*(holder.name for holder in holders[1:]), layer.name, variable.name])
            weight = Weight(i, path, _visible(layer, holders).name, shape, axes)
            taken, setting, reason = choose(layer, holders, variable, usual)
            if taken:
                selected.setdefault(i, Selected(weight, setting))
            elif _is_kernel(variable):
                skipped.setdefault(i, Skipped(weight, reason))
    choose.check_used(model)
    return (
        [selected[i] for i in sorted(selected)],
        [skipped[i] for i in sorted(skipped.keys() - selected.keys())],
    )


def _weights(
    layer: Any, declare: str | Callable[[Any], Iterable[Any]]
) -> Iterator[tuple[Any, Axes, bool]]:
    """The layer's own matrices and kernels, their axes, and whether rules take them by default."""
    inner = {id(v) for child in children(layer) for v in child.variables}
    declared: dict[int, Any] = {}
    if not isinstance(declare, str):
        declared = {id(v): v for v in declare(layer)}
    elif callable(getattr(layer, declare, None)):
        declared = {id(v): v for v in getattr(layer, declare)()}
    own = {id(v): v for v in layer.trainable_variables if id(v) not in inner}
    for key, variable in {**own, **declared}.items():
        rank = len(variable.shape)
        axes, usual = (_convolution if rank > 2 else _dense)(layer, rank), False
        for kind, name, find_axes, default in _KINDS:
            if isinstance(layer, kind) and variable.name == name:
                axes, usual = find_axes(layer, rank), default
                break
        yield variable, axes, key in declared if declared else usual


def _visible_depth(layer: Any, holders: Sequence[Any]) -> int:
    """Where in `[*holders, layer]` the layer stands as its user sees it.

    That is an LSTM, not its cell; a MultiHeadAttention, not its projections.
    """
    depth = len(holders)
    for holder in reversed(holders):
        if isinstance(holder, keras.Model) or not type(holder).__module__.startswith("keras."):
            break
        depth -= 1
    return depth


def _visible(layer: Any, holders: Sequence[Any]) -> Any:
    return [*holders, layer][_visible_depth(layer, holders)]


class _Choice:
    """The user's `layers` argument, asked about one weight at a time."""

    def __init__(self, layers: Layers) -> None:
        self.function = layers if callable(layers) else None
        self.settings: dict[str, Any] = {}
        self.only = False
        if isinstance(layers, Mapping):
            self.settings = dict(layers)
        elif layers is not None and self.function is None:
            names = [layers] if isinstance(layers, str) else list(layers)  # type: ignore[arg-type]
            self.settings, self.only = dict.fromkeys(names, True), True
        for name in self.settings:
            _check_name(name)
        self.unused = set(self.settings)
        self.names: set[str] = set()

    def __call__(
        self, layer: Any, holders: Sequence[Any], variable: Any, usual: bool
    ) -> tuple[bool, Any, str]:
        """Whether the weight is taken, with which setting, and if not, why not."""
        if self.function is not None:
            setting = self.function(_visible(layer, holders))
            taken = setting is not None and setting is not False and usual
            return taken, None if setting is True else setting, "`layers` says no"
        around = [holder.name for holder in holders[1:]] + [layer.name]
        self.names.update(around)
        outer = _visible_depth(layer, holders[1:])
        for key, setting in self.settings.items():
            if not _names_weight(key, around, outer, variable, usual):
                continue
            self.unused.discard(key)
            if setting is None or setting is False:
                return False, None, f"`layers` says no ({key!r})"
            return True, None if setting is True else setting, ""
        if self.only:
            return False, None, "not named in `layers`"
        return usual, None, "no default kind (name it in `layers` to include it)"

    def check_used(self, model: Any) -> None:
        """Raises SenteiError when a name fitted nothing."""
        for key in sorted(self.unused):
            close = difflib.get_close_matches(key, sorted(self.names), n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise SenteiError(
                f"`layers` names {key!r}, which fits no layer with trainable weights in model "
                f"{model.name!r}.{hint} Its layers: {', '.join(sorted(self.names)) or 'none'}."
            )


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise SenteiError(
            f"`layers` must name layers by strings. Received: {name!r} of type "
            f"{type(name).__name__}. Use layer.name."
        )
    try:
        re.compile(name)
    except re.error as error:
        raise SenteiError(
            f"`layers` holds {name!r}, which is no regular expression ({error})."
        ) from None


def _names_weight(key: str, around: list[str], outer: int, variable: Any, usual: bool) -> bool:
    """Whether a name the user gave means this weight.

    `around` holds the names of the layers around it; from `outer` on they are one layer to users.
    """
    layer_key, _, weight = key.rpartition("/")
    own = [*around[outer:], *("/".join(around[: end + 1]) for end in range(outer, len(around)))]
    if variable.path == key or (weight == variable.name and _fits_any(layer_key, own)):
        return True  # the weight itself is named: taken whatever it is
    if _fits_any(key, own):
        return usual or _is_kernel(variable)
    prefixes = ["/".join(around[: end + 1]) for end in range(outer)]
    return usual and _fits_any(key, (*around[:outer], *prefixes))


def _fits_any(key: str, names: Iterable[str]) -> bool:
    return any(key == name or re.fullmatch(key, name) is not None for name in names)


def _is_kernel(variable: Any) -> bool:
    """Whether naming a layer means this weight of it: matrices and kernels, no biases."""
    return len(variable.shape) > 1 and "bias" not in variable.name


def require_built(model: Any) -> None:
    """Checks that there are weights to speak of.

    Args:
        model: what the user passed.

    Raises:
        SenteiError: when it is no Keras model, or has not been built.
    """
    if not isinstance(model, keras.Model):
        raise SenteiError(
            f"Expected a Keras model (keras.Model). Received: {type(model).__module__}."
            f"{type(model).__name__}."
        )
    if not model.built or any(not layer.built for layer, _ in sublayers(model) if layer.weights):
        raise SenteiError(
            f"Model {model.name!r} is not built: its weights do not exist yet. Call it once on an "
            "example batch, or build it: model.build(input_shape)."
        )
