"""The parts of the layer table: inputs, cases and rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import keras
import numpy as np

WORKS, REWRITE, REFUSED, NO_GRAPH = "works", "works with rewrite", "refused", "no layer"


@dataclass(frozen=True)
class Spec:
    """One input of a case: its shape without batch, and the numbers it is filled with."""

    shape: tuple[int, ...]
    kind: str = "normal"
    high: int = 10

    @property
    def dtype(self) -> str:
        return {"ids": "int32", "mask": "bool"}.get(self.kind, "float32")

    def sample(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        shape = (batch, *self.shape)
        if self.kind == "ids":
            return rng.integers(0, self.high, shape).astype("int32")
        if self.kind == "mask":
            # The first of each row is kept: attention over nothing is a division of zeros.
            keep = rng.uniform(size=shape) < 0.7
            keep[..., 0] = True
            return keep
        if self.kind == "pixels":
            return rng.uniform(0, 255, shape).astype("float32")
        values = rng.normal(size=shape).astype("float32")
        if self.kind == "gaps":  # whole time steps of zeros, for Masking
            values[0, self.shape[0] // 2 :] = 0
            values[-1, :1] = 0
        return values


def x(*shape: int) -> Spec:
    return Spec(shape)


def pixels(*shape: int) -> Spec:
    return Spec(shape, "pixels")


def ids(*shape: int, high: int = 10) -> Spec:
    return Spec(shape, "ids", high)


def mask(*shape: int) -> Spec:
    return Spec(shape, "mask")


def gaps(*shape: int) -> Spec:
    return Spec(shape, "gaps")


@dataclass(frozen=True)
class Case:
    """One way to use a layer.

    Attributes:
        inputs: Its inputs.
        options: The layer's arguments.
        make: A function of the inputs, for uses that are more than `Layer(**options)(*inputs)`.
        has: Operators the file must hold.
        reason: For a refused layer, words of the error beside the layer's name.
        needs: A package without which Keras itself cannot make the layer.
        subclassed: Whether the layer stands in a subclassed model, not a functional one.
        batch: The batch size that the model is made for, if it is fixed.
    """

    inputs: tuple[Spec, ...]
    options: dict[str, Any] = field(default_factory=dict)
    make: Callable[..., Any] | None = None
    has: tuple[str, ...] = ()
    reason: str = ""
    needs: str = ""
    subclassed: bool = False
    batch: int | None = None

    def __str__(self) -> str:
        words = [f"{key}={value}" for key, value in self.options.items()]
        return ",".join(words).replace(" ", "") or ("custom" if self.make else "plain")

    def model(self, layer: str) -> Any:
        """A built model around the layer, with random weights."""
        with mock.patch.object(keras.layers.Layer, "add_weight", add_weight_at_once):
            return randomised(self._built(layer))

    def _built(self, layer: str) -> Any:
        use = self.make or (lambda *tensors: getattr(keras.layers, layer)(**self.options)(*tensors))
        if self.subclassed:
            made = Around(getattr(keras.layers, layer)(**self.options))
            made(np.zeros((2, *self.inputs[0].shape), "float32"))
            return made
        inputs = [
            keras.Input(spec.shape, batch_size=self.batch, dtype=spec.dtype) for spec in self.inputs
        ]
        return keras.Model(inputs if len(inputs) > 1 else inputs[0], use(*inputs))

    def samples(self, batch: int = 2) -> list[np.ndarray]:
        """Random inputs."""
        rng = np.random.default_rng(1)
        return [spec.sample(rng, batch) for spec in self.inputs]


class Around(keras.Model):
    """A subclassed model that holds one layer."""

    def __init__(self, layer: Any):
        super().__init__()
        self.inner = layer

    def call(self, tensor: Any, training: bool | None = None) -> Any:
        return self.inner(tensor)


_add_weight = keras.layers.Layer.add_weight


def add_weight_at_once(self: Any, shape: Any = None, initializer: Any = None, **rest: Any) -> Any:
    """`Layer.add_weight` without random numbers, which JAX compiles anew for each shape."""
    chosen = keras.initializers.get(initializer)
    if isinstance(chosen, keras.initializers.Initializer) and "seed" in chosen.get_config():
        initializer = "zeros"
    return _add_weight(self, shape, initializer, **rest)


def randomised(model: Any) -> Any:
    """The model with random numbers in its weights and batch-norm statistics."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.trainable or "moving" in weight.name or weight.name == "vector_u":
            value = rng.normal(size=weight.shape) * 0.4
            weight.assign(np.abs(value) + 0.5 if "variance" in weight.name else value)
    return model


@dataclass(frozen=True)
class Row:
    """A layer's line in the table."""

    layer: str
    verdict: str
    cases: tuple[Case, ...] = ()
    note: str = ""


def cases(*inputs: Spec, **common: Any) -> Callable[..., tuple[Case, ...]]:
    """Cases that share their inputs; each dict of options gives one."""

    def make(*options: dict[str, Any]) -> tuple[Case, ...]:
        return tuple(Case(inputs, options=o, **common) for o in options or ({},))

    return make


def use(function: Callable[..., Any], *inputs: Spec, **more: Any) -> tuple[Case, ...]:
    """One case that applies a function to the inputs."""
    return (Case(inputs, make=function, **more),)


def works(layer: str, *groups: tuple[Case, ...], note: str = "") -> Row:
    return Row(layer, WORKS, sum(groups, ()), note)


def rewrite(layer: str, *groups: tuple[Case, ...], note: str) -> Row:
    return Row(layer, REWRITE, sum(groups, ()), note)


def refused(layer: str, *groups: tuple[Case, ...], reason: str, note: str) -> Row:
    cases_ = tuple(replace(case, reason=case.reason or reason) for case in sum(groups, ()))
    return Row(layer, REFUSED, cases_, note)
