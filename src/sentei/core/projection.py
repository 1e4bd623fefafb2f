"""What a rule about weights is, and how it does under jit what it does rarely."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

Tensors = dict[int, Any]


class Projection:
    """A rule about where weights may be: after each optimizer step it moves them there.

    Weights are named by their position among the variables the optimizer was built with: paths
    change when a model is reloaded, positions do not. All state lives in optimizer variables
    (made with `optimizer.add_variable` in `build`), so checkpoints carry it.

    Invariants:
        - `project` returns values that satisfy the rule, for every position it is given that the
          rule holds, and changes no other;
        - `restrict` is idempotent, needs no new decision, and is the rule as it stands now;
        - everything but `build`, `check_follower` and `check` runs under jit on every backend.

    Attributes:
        positions: the weights it is about.
        makes_zeros: whether `project` sets weights to zero that must stay zero: a later rule on
            them has to leave zeros where they are.
    """

    positions: frozenset[int] = frozenset()
    makes_zeros: bool = False

    def build(self, optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
        """Makes the rule's state with `optimizer.add_variable`.

        Args:
            optimizer: the optimizer that will hold the state.
            variables: all trainable variables, in the optimizer's order.
        """
        raise NotImplementedError

    def resolved(self, variables: Sequence[Any]) -> list[Projection]:
        """The rules that this one stands for; asked once, before they are built.

        Args:
            variables: all trainable variables, in the optimizer's order.
        """
        return [self]

    def resume(self, earlier: Projection, shift: int) -> None:
        """Goes on where a rule of the same kind on another optimizer is, for weights of both.

        Nothing by default: the rule begins anew.

        Args:
            earlier: the rule to go on from, built.
            shift: what to add to a step of its optimizer to get one of this rule's optimizer.
        """

    def gradients(self, gradients: Tensors) -> Tensors:
        """The gradients that the wrapped optimizer should see in place of those given.

        Args:
            gradients: position → the gradient of this step; positions without one are absent.

        Returns:
            position → gradient, for those that are to be replaced; none by default.
        """
        return {}

    def project(self, values: Tensors, gradients: Tensors, step: Any) -> Tensors:
        """The values after the rule, and, inside, the rule's new state.

        Args:
            values: position → the weight as the wrapped optimizer left it. On PyTorch it lies
                in the variable's own memory, and a rule may change it there and return it.
            gradients: position → the gradient of this step, as it came; positions without one
                are absent.
            step: int32 scalar, the number of optimizer steps taken, this one included.

        Returns:
            position → the weight as the rule wants it; same shapes and dtypes.
        """
        raise NotImplementedError

    def restrict(self, position: int, value: Any) -> Any:
        """A tensor shaped like the weight at `position` (its running average), under the rule."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises SenteiError when the rule has met weights it could not work with."""

    def check_follower(self, other: Projection) -> None:
        """Raises SenteiError when `other` would undo this rule if it came after it."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for saving."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Projection:
        """The projection that `get_config` described."""
        return cls(**config)


def advance(due: Any, update: Callable[..., Sequence[Any]], state: Sequence[Any]) -> list[Any]:
    """The state after an update if one is due, the state itself if not; what a rule does rarely.

    Meaning: `update(*state) if due else state`, under jit. Which construct costs nothing while no
    update is due depends on the backend: XLA's conditional copies everything that passes through
    it, a loop of no or one turn works in place; TensorFlow's conditional copies nothing; PyTorch
    runs eagerly, where `ops.cond` spends 0.3 ms on walking its arguments.

    Args:
        due: boolean scalar tensor.
        update: from the state's tensors to new ones of the same shapes and dtypes.
        state: tensors.
    """
    state = list(state)
    if keras.backend.backend() == "torch":
        return list(update(*state)) if due else state
    if keras.backend.backend() == "tensorflow":
        return list(ops.cond(due, lambda: list(update(*state)), lambda: state))
    never = ops.zeros((), "bool")
    result = ops.while_loop(
        lambda pending, *_: pending, lambda _, *now: (never, *update(*now)), (due, *state)
    )
    return list(result[1:])
