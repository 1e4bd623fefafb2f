"""The old toolkit's schedules, and what they are among sentei's."""

from __future__ import annotations

import abc
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.core import schedule as native
from sentei.core.errors import SenteiError

# A schedule of the user's own that does not say when it ends is asked up to this step.
HORIZON = 100_000


class PruningSchedule(abc.ABC):
    """When to prune, and how sparse. Subclass it to write your own.

    Override `__call__(step)`, which returns `(should_prune, sparsity)`, and `get_config`. It is
    asked beforehand, once for every step, up to its attribute `end_step`, or step 100 000 when it
    has none: it can depend on nothing but the step.
    """

    def _should_prune_in_step(
        self, step: Any, begin_step: int, end_step: int, frequency: int
    ) -> Any:
        step = ops.convert_to_tensor(step)
        turn = ops.equal((step - begin_step) % frequency, 0)
        if end_step >= 0:
            turn = ops.logical_and(turn, step <= end_step)
        return ops.logical_and(turn, step >= begin_step)

    def _validate_step(
        self, begin_step: Any, end_step: Any, frequency: Any, allow_negative_1: bool
    ) -> None:
        if begin_step < 0:
            raise SenteiError(f"begin_step should be >= 0. Received: begin_step={begin_step!r}.")
        if end_step == -1 and not allow_negative_1:
            raise SenteiError("end_step cannot be -1: the sparsity has to end somewhere.")
        if end_step != -1 and end_step < 0:
            raise SenteiError(f"end_step can be -1 or >= 0. Received: end_step={end_step!r}.")
        if end_step != -1 and end_step < begin_step:
            raise SenteiError(
                f"begin_step should be <= end_step if end_step != -1. Received: "
                f"begin_step={begin_step!r}, end_step={end_step!r}."
            )
        if frequency <= 0:
            raise SenteiError(f"frequency should be > 0. Received: frequency={frequency!r}.")

    def _validate_sparsity(self, sparsity: Any, variable_name: str) -> None:
        if not 0.0 <= sparsity < 1.0:
            raise SenteiError(
                f"{variable_name} must be in range [0,1). Received: {variable_name}={sparsity!r}."
            )

    @abc.abstractmethod
    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Whether to prune in a step, and the sparsity.

        Args:
            step: The step; a number or an integer tensor of any shape.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as they are or as `{"class_name": ..., "config": ...}`."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PruningSchedule:
        """The schedule that `get_config` described.

        Args:
            config: What it gave, or its inner `config`.
        """
        nested = set(config) == {"class_name", "config"}
        return cls(**(config["config"] if nested else config))

    def _config(self, *names: str) -> dict[str, Any]:
        arguments = {name: getattr(self, name) for name in names}
        return {"class_name": type(self).__name__, "config": arguments}


@keras.saving.register_keras_serializable("sentei_tfmot")
class ConstantSparsity(PruningSchedule):
    """The same sparsity from `begin_step` on.

    Args:
        target_sparsity: Share of zeros, in [0, 1).
        begin_step: The step at which pruning begins.
        end_step: The step at which it ends; -1: never.
        frequency: Steps between two updates.

    Raises:
        SenteiError: For a sparsity or steps that are none (a ValueError).
    """

    def __init__(
        self, target_sparsity: float, begin_step: int, end_step: int = -1, frequency: int = 100
    ) -> None:
        self.target_sparsity = target_sparsity
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency
        self._validate_step(begin_step, end_step, frequency, True)
        self._validate_sparsity(target_sparsity, "target_sparsity")

    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Whether to prune in a step, and the sparsity.

        Args:
            step: The step; a number or an integer tensor of any shape.
        """
        turn = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        return turn, ops.convert_to_tensor(self.target_sparsity, "float32")

    def get_config(self) -> dict[str, Any]:
        """The class's name and the constructor's arguments."""
        return self._config("target_sparsity", "begin_step", "end_step", "frequency")


@keras.saving.register_keras_serializable("sentei_tfmot")
class PolynomialDecay(PruningSchedule):
    """Gradual pruning: fast at first, slower as few weights are left.

    Args:
        initial_sparsity: Share of zeros at `begin_step`, in [0, 1).
        final_sparsity: Share of zeros at `end_step`, in [0, 1).
        begin_step: The step at which pruning begins.
        end_step: The step at which it ends.
        power: The exponent.
        frequency: Steps between two updates.

    Raises:
        SenteiError: For a sparsity or steps that are none (a ValueError).
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
    ) -> None:
        self.initial_sparsity = initial_sparsity
        self.final_sparsity = final_sparsity
        self.power = power
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency
        self._validate_step(begin_step, end_step, frequency, False)
        self._validate_sparsity(initial_sparsity, "initial_sparsity")
        self._validate_sparsity(final_sparsity, "final_sparsity")

    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Whether to prune in a step, and the sparsity.

        Args:
            step: The step; a number or an integer tensor of any shape.
        """
        turn = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        done = ops.cast(ops.convert_to_tensor(step) - self.begin_step, "float32")
        p = ops.clip(done / max(self.end_step - self.begin_step, 1), 0.0, 1.0)
        left = (self.initial_sparsity - self.final_sparsity) * ops.power(1.0 - p, self.power)
        return turn, self.final_sparsity + left

    def get_config(self) -> dict[str, Any]:
        """The class's name and the constructor's arguments."""
        return self._config(
            "initial_sparsity", "final_sparsity", "power", "begin_step", "end_step", "frequency"
        )


def translated(schedule: Any) -> native.Schedule:
    """What a schedule is among sentei's.

    Args:
        schedule: The old toolkit's, or one of the user's own.
    """
    if isinstance(schedule, native.Schedule):
        return schedule
    if type(schedule).__call__ is ConstantSparsity.__call__:
        end = None if schedule.end_step == -1 else int(schedule.end_step)
        steps = (int(schedule.begin_step), end, int(schedule.frequency))
        return native.ConstantSparsity(schedule.target_sparsity, *steps)
    if type(schedule).__call__ is PolynomialDecay.__call__:
        return native.PolynomialDecay(
            schedule.initial_sparsity,
            schedule.final_sparsity,
            int(schedule.begin_step),
            int(schedule.end_step),
            power=schedule.power,
            frequency=int(schedule.frequency),
        )
    return Asked(schedule)


@keras.saving.register_keras_serializable("sentei")
class Asked(native.Schedule):
    """A schedule of the user's own, asked beforehand about every step.

    Its updates are the steps at which `should_prune` holds and the sparsity is another than before.

    Args:
        schedule: The user's.
    """

    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule
        end = getattr(schedule, "end_step", None)
        self._steps, self._shares = _asked(schedule, HORIZON if not end or end < 0 else int(end))
        super().__init__(int(self._steps[0]), int(self._steps[-1]), 1)

    def sparsity(self, step: int) -> float:
        """The sparsity that the last update up to a step sets."""
        done = int(np.searchsorted(self._steps, step, side="right"))
        return 0.0 if done == 0 else float(self._shares[done - 1])

    def updates(self) -> np.ndarray:
        """The steps at which the sparsity changes."""
        return self._steps

    def updates_done(self, step: Any) -> Any:
        """How many updates are due by `step`."""
        reached = ops.cast(self._steps, "int32") <= ops.cast(step, "int32")
        return ops.sum(ops.cast(reached, "int32"))

    def update_after(self, done: Any) -> Any:
        """The step of the next update; after the last, one that is never reached."""
        return ops.take(ops.cast(np.append(self._steps, 2**31 - 1), "int32"), done)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"schedule": keras.saving.serialize_keras_object(self.schedule)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Asked:
        """The schedule that `get_config` described."""
        return cls(keras.saving.deserialize_keras_object(config["schedule"]))


def _asked(schedule: Any, end: int) -> tuple[np.ndarray, np.ndarray]:
    """The steps of the updates, and the sparsity that each sets."""
    turns, shares = _answers(schedule, end)
    steps = np.flatnonzero(turns)
    if not len(steps):
        return np.zeros(1, "int64"), np.zeros(1)
    shares = shares[steps]
    changes = np.append(True, shares[1:] != shares[:-1])
    return steps[changes].astype("int64"), shares[changes]


def _answers(schedule: Any, end: int) -> tuple[np.ndarray, np.ndarray]:
    def answer(step: Any, shape: tuple[int, ...]) -> list[np.ndarray]:
        return [np.broadcast_to(ops.convert_to_numpy(part), shape) for part in schedule(step)]

    some = (0, end // 2, end)
    try:  # all steps at once, if the schedule is made of tensor operations
        turns, shares = answer(ops.arange(end + 1, dtype="int32"), (end + 1,))
        for step in some:
            turn, share = answer(step, ())
            if turn != turns[step] or abs(share - shares[step]) > 1e-6:
                raise ValueError("not elementwise")
    except Exception:  # whatever a plain Python function makes of an array
        alone = [answer(step, ()) for step in range(end + 1)]
        turns, shares = (np.array(part) for part in zip(*alone, strict=True))
    return turns.astype(bool), shares.astype("float64")
