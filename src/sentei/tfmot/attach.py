"""What annotated layers say takes effect: rules on the optimizer, as soon as there is one.

The old toolkit's wrappers did their work in every forward pass. Here rules live in the optimizer,
which `compile` brings, so `compile` is where they attach: importing `sentei.tfmot` makes
`keras.Model.compile` look for annotated layers after it has done what it always did. A model
without any is not touched. A model whose variables do not exist yet gets its rules when the
optimizer is built, with the first batch. A model that is compiled again goes on where it was.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from sentei.core.install import attach, find
from sentei.core.project import Projected
from sentei.core.projection import Projection, Tensors
from sentei.tfmot.annotation import Wish, asked, wishes


def rules_of(model: Any) -> list[Projection]:
    """The rules that a built model's annotated layers ask for.

    Args:
        model: A Keras model.
    """
    found: dict[tuple[int, str], tuple[Wish, list[Any]]] = {}
    for layer, wish in wishes(model):
        found.setdefault((wish.order, wish.key()), (wish, []))[1].append(layer)
    # In order: a rule on clusters must know of zeros.
    ordered = [found[key] for key in sorted(found, key=lambda key: key[0])]
    rules = [rule for wish, layers in ordered for rule in wish.rules(model, layers)]
    return [*rules, AskedForWhole()] if asked(model) else rules


@keras.saving.register_keras_serializable("sentei")
class Pending(Projection):
    """Stands for the rules of a model whose variables do not exist yet.

    Args:
        model: The model; None in one that was loaded, until it is compiled.
    """

    def __init__(self, model: Any = None) -> None:
        self.model = (lambda: None) if model is None else weakref.ref(model)

    def resolved(self, variables: Sequence[Any]) -> list[Projection]:
        """The rules, now that the variables are there."""
        model = self.model()
        return [] if model is None else rules_of(model)

    def get_config(self) -> dict[str, Any]:
        """Nothing: the model's layers say it."""
        return {}


@keras.saving.register_keras_serializable("sentei")
class AskedForWhole(Projection):
    """Says that the rules beside it were asked for a whole model, and does nothing.

    A file keeps no wishes about a subclassed model, only its rules: by this, a model that was
    loaded keeps them when it is compiled again.
    """

    def build(self, optimizer: Any, variables: Sequence[Any]) -> None:
        """Nothing."""

    def project(self, values: Tensors, gradients: Tensors, step: Any) -> Tensors:
        """Changes nothing."""
        return {}

    def get_config(self) -> dict[str, Any]:
        """Nothing."""
        return {}


def _kept(before: Projected | None) -> list[Projection]:
    """The rules of an optimizer anew, if they were asked for a whole model."""
    rules = [] if before is None else before.projections
    if not any(isinstance(rule, AskedForWhole) for rule in rules):
        return []
    saved = [keras.saving.serialize_keras_object(rule) for rule in rules]
    return [keras.saving.deserialize_keras_object(rule) for rule in saved]


def put_on(model: Any, before: Projected | None = None) -> None:
    """Puts the rules that a model's annotated layers ask for on its optimizer, unless they are on.

    Args:
        model: A compiled Keras model.
        before: The optimizer that it had before it was compiled.
    """
    if getattr(model, "optimizer", None) is None:
        return
    wished = bool(wishes(model))
    kept = [] if wished else _kept(before)
    if not kept and not wished:
        return
    there = find(model)
    if there is not None:
        for rule in there.projections:
            if isinstance(rule, Pending) and rule.model() is None:
                rule.model = weakref.ref(model)
        if model.built:  # a file in HDF5 is read into it; Keras would build it on no variables
            there.build(model.trainable_variables)
        return
    for rule in kept or (rules_of(model) if model.built else [Pending(model)]):
        attach(model, rule)
    now = find(model)
    if now is not None and not now.built:
        _build_outside_of_graphs(now)
        if not model.built:
            _build_at_first_batch(model)
    if now is not None and now.built and before is not None and before.built:
        carry(before, now)


def _build_outside_of_graphs(projected: Projected) -> None:
    """Makes an optimizer build at once where TensorFlow builds it in the middle of a graph.

    Rules look at the values of the weights when they are built.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    build = projected.build

    def build_now(variables: Sequence[Any]) -> None:
        with tf.init_scope():
            build(variables)

    projected.build = build_now  # type: ignore[method-assign]


def _build_at_first_batch(model: Any) -> None:
    """Makes a model build before TensorFlow traces its first step, as on the other backends.

    Variables made in a trace have no values until it is over, and rules look at them.
    """
    if keras.backend.backend() != "tensorflow":
        return

    def make_train_function(force: bool = False) -> None:
        type(model).make_train_function(model, force)
        function = model.train_function
        if model.built:
            return

        def first(iterator: Any) -> Any:
            batch = getattr(iterator, "element_spec", None)
            if batch is None:  # `train_on_batch`
                batch = next(iterator)
                iterator = iter([batch])
            if not model.built:
                x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
                model(keras.tree.map_structure(lambda t: keras.KerasTensor(t.shape, t.dtype), x))
            model.train_function = function
            return function(iterator)

        model.train_function = first

    model.make_train_function = make_train_function


def carry(before: Projected, now: Projected) -> None:
    """Makes rules go on where those of another optimizer are, on weights of both.

    Args:
        before: The optimizer that has worked; built.
        now: The one that is to go on; built.
    """
    shift = _steps(now) - _steps(before)
    for rule in now.projections:
        for earlier in before.projections:
            rule.resume(earlier, shift)


def _steps(optimizer: Any) -> int:
    return int(ops.convert_to_numpy(optimizer.iterations))


def watch_compile() -> None:
    """Makes `keras.Model.compile` put rules on; once."""
    # Where it is defined: loading tells by identity whether a class has a `compile` of its own.
    owner = next(base for base in keras.Model.__mro__ if "compile" in vars(base))
    original = owner.compile
    if getattr(original, "puts_rules_on", False):
        return

    @functools.wraps(original)
    def compile(self: Any, *args: Any, **kwargs: Any) -> None:
        before = find(self)
        original(self, *args, **kwargs)
        put_on(self, before)

    compile.puts_rules_on = True  # type: ignore[attr-defined]
    owner.compile = compile


# Training loops that step a plain optimizer: the rules, on an optimizer that only projects.
_BESIDE: weakref.WeakKeyDictionary[Any, Projected] = weakref.WeakKeyDictionary()


def beside(model: Any) -> Projected | None:
    """The rules of a model beside its plain optimizer; None when there are none.

    Args:
        model: A Keras model.
    """
    return _BESIDE.get(model)


def put_beside(model: Any) -> Projected | None:
    """Makes the rules of a model that is trained without `compile`, beside its optimizer.

    Args:
        model: A built Keras model with a plain optimizer.

    Returns:
        Their optimizer: `project` it after each step of the plain one. None when the model is
        compiled with its rules, or asks for none.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or find(model) is not None or not wishes(model):
        return None
    before = _BESIDE.get(model)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if before is None or before.inner_optimizer is not optimizer:
        now = Projected(optimizer, rules_of(model))
        now.build(model.trainable_variables)
        if before is not None:
            carry(before, now)
        _BESIDE[model] = now
    return _BESIDE[model]
