"""The one optimizer wrapper: rules about where weights may be, kept after every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from sentei.core.errors import SenteiError
from sentei.core.projection import Projection, Tensors


@keras.saving.register_keras_serializable("sentei")
class Projected(keras.optimizers.Optimizer):
    """Any Keras optimizer, followed after every step by projections of the weights.

    Equation: `w ← P_k(... P_1(w + step(w, gradient)))`, projected gradient descent with one
    projection a rule, applied in the order of the list. When `apply` returns, every rule holds in
    the variables themselves. Running averages (`use_ema`) are kept under the rules too. A rule
    may also change the gradients that the wrapped optimizer sees (`Projection.gradients`).

    Learning rate, iterations, loss scaling, EMA settings and anything else the trainer or a
    callback asks for are those of the wrapped optimizer.

    Example, in a training loop of your own:

    ```python
    rule = sentei.sparsity.pruning(model, sentei.sparsity.ConstantSparsity(0.8))
    optimizer = sentei.Projected(keras.optimizers.Adam(1e-3), [rule])
    optimizer.build(model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)
    ```

    Args:
        inner_optimizer: a Keras optimizer; its state, if it has any, is kept.
        projections: the rules, in the order in which they are applied.
        name: name of the optimizer.

    Raises:
        SenteiError: when `inner_optimizer` is no optimizer, is a LossScaleOptimizer, or is
            itself a `Projected`.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        projections: Sequence[Projection] = (),
        name: str = "projected",
    ) -> None:
        _check_inner(inner_optimizer)
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.projections: list[Projection] = []
        for rule in projections:
            self._append(rule)

    # -- state ------------------------------------------------------------------------------------

    def build(self, variables: Sequence[Any]) -> None:
        """Builds the wrapped optimizer and the state of every rule.

        Args:
            variables: the trainable variables, in the order in which `apply` gets gradients.

        Raises:
            SenteiError: there are rules and no variables, or not those that a rule was made for.
        """
        if self.built:
            return
        variables = list(variables)
        if self.projections and not variables:
            raise SenteiError(
                "An optimizer with rules was built for no variables. Keras does so when it loads a "
                "compiled model from the legacy .h5 format, which cannot hold rules: save as "
                ".keras, or load with compile=False, compile, and make the rules again."
            )
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
        super().build(variables)
        # `Optimizer.build` must not make averages a second time; SwapEMAWeights asks afterwards.
        self.use_ema = getattr(self.inner_optimizer, "use_ema", False)
        self._averages = _running_averages(self.inner_optimizer, variables)
        asked = [rule for given in self.projections for rule in given.resolved(variables)]
        self.projections = []
        for rule in asked:
            self._append(rule)
        for rule in self.projections:
            rule.build(self, variables)

    def add(self, projection: Projection) -> None:
        """Adds a rule after those already there; its state is made at once if `built`.

        Args:
            projection: the new rule.

        Raises:
            SenteiError: when it is no rule, or would undo one that is there.
        """
        self._append(projection)
        if self.built:
            projection.build(self, self._trainable_variables)

    def _append(self, projection: Any) -> None:
        _check_projection(projection)
        for rule in self.projections:
            rule.check_follower(projection)
        self.projections.append(projection)

    @property
    def variables(self) -> list[Any]:
        """The rules' state, then the wrapped optimizer's."""
        return self._variables + self.inner_optimizer.variables

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Assigns all state, as `variables` lists it: what reading a file in HDF5 does.

        Args:
            weights: one value a variable.

        Raises:
            SenteiError: when it is not built, or there are more or fewer.
        """
        variables = self.variables
        if not self.built or len(weights) != len(variables):
            raise SenteiError(
                f"The optimizer has {len(variables)} variables, built: {self.built}. "
                f"Received: {len(weights)} values."
            )
        for variable, weight in zip(variables, weights, strict=True):
            variable.assign(weight)

    # -- the step ---------------------------------------------------------------------------------

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """One optimizer step, on gradients that every rule has seen, then every rule.

        Args:
            grads: gradients, one a variable.
            trainable_variables: the variables; may be omitted once `built`.
        """
        if len(grads) == 0:
            return
        if not self.built and trainable_variables is not None:
            self.build(trainable_variables)
        positions = (
            range(len(grads))
            if trainable_variables is None
            else [self._get_variable_index(v) for v in trainable_variables]
        )
        given = {p: g for p, g in zip(positions, grads, strict=True) if g is not None}
        seen = dict(given)
        for rule in self.projections:
            seen.update(rule.gradients(seen))
        self.inner_optimizer.apply([seen.get(p) for p in positions], trainable_variables)
        self._project(given)

    def project(self) -> None:
        """Moves the variables to where the rules want them, without a step of the optimizer.

        For a training loop that calls `apply` of the wrapped optimizer itself; `build` first.
        """
        self._project({})

    def _project(self, gradients: Tensors) -> None:
        step = ops.cast(ops.convert_to_tensor(self.inner_optimizer.iterations), "int32")
        held = frozenset().union(*(rule.positions for rule in self.projections))
        before = {p: _tensor(self._trainable_variables[p]) for p in sorted(held)}
        values = dict(before)
        for rule in self.projections:
            values.update(rule.project(values, gradients, step))
        for position, value in values.items():
            if value is not before[position]:
                self.assign(self._trainable_variables[position], value)
        self._restrict_averages()

    def _restrict_averages(self) -> None:
        for rule in self.projections:
            for position in sorted(rule.positions & self._averages.keys()):
                average = self._averages[position]
                self.assign(average, rule.restrict(position, _tensor(average)))

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Ends training: averages (if any) become the weights, and the rules hold in them.

        Args:
            var_list: the model's trainable variables.

        Raises:
            SenteiError: when a rule has met weights it could not work with (NaN, infinite).
        """
        self.inner_optimizer.finalize_variable_values(var_list)
        for position in self._averages:
            # On JAX, Keras leaves weight and average on one buffer, which the next `fit` cannot
            # donate twice.
            variable = self._trainable_variables[position]
            variable.assign(ops.copy(ops.convert_to_tensor(variable)))
        for rule in self.projections:
            for position in sorted(rule.positions):
                variable = self._trainable_variables[position]
                variable.assign(rule.restrict(position, _tensor(variable)))
        self.check()

    def check(self) -> None:
        """Raises SenteiError when a rule has met weights it could not work with.

        `fit` calls it when it ends; call it yourself in a training loop of your own (a compiled
        step cannot raise).
        """
        for rule in self.projections:
            rule.check()

    # -- a transparent wrapper --------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        # Only reached for what neither this class nor its base knows (`beta_1`, `momentum`, ...).
        inner = self.__dict__.get("inner_optimizer")
        if inner is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(inner, name)

    @property
    def iterations(self) -> Any:
        """Optimizer steps taken: the wrapped optimizer's counter."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        """The wrapped optimizer's learning rate; may be set."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.inner_optimizer.learning_rate = value

    @property
    def loss_scale_factor(self) -> Any:
        """The wrapped optimizer's loss scale; LossScaleOptimizer clears it."""
        inner = self.__dict__.get("inner_optimizer")
        return None if inner is None else inner.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, value: Any) -> None:
        inner = self.__dict__.get("inner_optimizer")
        if inner is not None:
            inner.loss_scale_factor = value

    def scale_loss(self, loss: Any) -> Any:
        """The loss as the wrapped optimizer wants it scaled."""
        return self.inner_optimizer.scale_loss(loss)

    def get_config(self) -> dict[str, Any]:
        """The wrapped optimizer, the rules and the name, for saving."""
        return {
            "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "projections": [keras.saving.serialize_keras_object(p) for p in self.projections],
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Projected:
        """The optimizer that `get_config` described, not yet built.

        Args:
            config: what `get_config` returned.
            custom_objects: names of unregistered classes, as in `keras.saving`.
        """
        load = keras.saving.deserialize_keras_object
        return cls(
            load(config["inner_optimizer"], custom_objects),
            [load(rule, custom_objects) for rule in config["projections"]],
            name=config["name"],
        )


def _tensor(variable: Any) -> Any:
    """The variable's value; on PyTorch its own memory, outside the gradient's graph."""
    tensor = ops.convert_to_tensor(variable)
    return tensor.detach() if keras.backend.backend() == "torch" else tensor


def _check_inner(inner: Any) -> None:
    if isinstance(inner, keras.optimizers.LossScaleOptimizer):
        raise SenteiError(
            "Projected cannot wrap a LossScaleOptimizer (its `apply` does not trace on JAX). "
            "Put it outside: LossScaleOptimizer(Projected(optimizer, projections))."
        )
    if isinstance(inner, Projected):
        raise SenteiError(
            "Projected cannot wrap another Projected. Add the rule to the one you have: "
            "optimizer.add(projection)."
        )
    if not isinstance(inner, keras.optimizers.Optimizer):
        raise SenteiError(
            f"Projected wraps a Keras optimizer. Received: inner_optimizer={inner!r} of type "
            f"{type(inner).__name__}. Pass one, such as keras.optimizers.Adam(1e-3)."
        )


def _check_projection(rule: Any) -> Projection:
    if not isinstance(rule, Projection):
        raise SenteiError(
            f"A projection must be a sentei.core.projection.Projection. Received: {rule!r}. "
            "Make one with sentei.sparsity.pruning(model, schedule)."
        )
    return rule


def _running_averages(inner: Any, variables: Sequence[Any]) -> Tensors:
    """Position → the wrapped optimizer's running average of that variable, where it keeps one.

    Keras has no public accessor: averages are recognised by the name the optimizer gives them
    (`add_variable_from_reference(variable, name="average")`), in the order of the variables.
    """
    if not getattr(inner, "use_ema", False):
        return {}
    found: Tensors = {}
    averages = iter([v for v in inner.variables if v.name.endswith("_average")])
    for position, variable in enumerate(variables):
        if getattr(variable, "overwrite_with_gradient", False):
            continue
        average = next(averages, None)
        if average is None or tuple(average.shape) != tuple(variable.shape):
            raise SenteiError(
                f"The running average of {variable.path} was not found in {inner!r}. Use a Keras "
                "optimizer, or set use_ema=False."
            )
        found[position] = average
    return found
