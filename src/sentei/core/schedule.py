"""When a rule acts, and how strongly: schedules of sparsity over optimizer steps."""

from __future__ import annotations

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.core.errors import SenteiError

_NEVER = 2**31 - 1


class Schedule:
    """How sparse the weights are after each optimizer step.

    Step `n` means "`n` optimizer steps have been taken since the rule was attached". Between two
    updates the sparsity is held, so a schedule is a staircase under the curve `sparsity(step)`.

    Invariants:
        - updates happen at `begin_step`, every `frequency` steps after it, and at `end_step`,
          whatever the frequency: the final sparsity is always reached, exactly;
        - before `begin_step` nothing is pruned; after `end_step` nothing changes any more;
        - `schedule(n)` is the sparsity of the weights after step `n` (the first step performs an
          update that fell on step 0).

    To write your own, subclass it, override `sparsity` (plain Python: it is called on the host,
    once per update, never inside a compiled step) and `get_config`, and register the class with
    `keras.saving.register_keras_serializable` so that a half-pruned model can be reloaded.

    Args:
        begin_step: the step of the first update, at least 0.
        end_step: the step of the last update, at least `begin_step`. `None` means updates go on
            for ever, at the sparsity of `begin_step`.
        frequency: steps between two updates, at least 1.

    Raises:
        SenteiError: for a step or a frequency that is not such an integer.
    """

    def __init__(self, begin_step: int, end_step: int | None, frequency: int = 100) -> None:
        self.begin_step = _whole("begin_step", begin_step, least=0)
        self.end_step = None if end_step is None else _whole("end_step", end_step, least=0)
        self.frequency = _whole("frequency", frequency, least=1)
        if self.end_step is not None and self.end_step < self.begin_step:
            raise SenteiError(
                f"A schedule must end after it begins. Received: begin_step={begin_step}, "
                f"end_step={end_step}. Make `end_step` at least {begin_step}."
            )

    def sparsity(self, step: int) -> float:
        """The curve: share of weights that should be zero at `step`, in [0, 1)."""
        raise NotImplementedError(
            f"{type(self).__name__} must override `sparsity(step)`, a plain Python function that "
            "returns the share of zeros, in [0, 1)."
        )

    @property
    def final(self) -> float:
        """The sparsity after the last update."""
        return float(self.table()[-1])

    def updates(self) -> np.ndarray:
        """The steps at which the sparsity may change, ascending, int64 of shape `(updates,)`."""
        if self.end_step is None:
            return np.array([self.begin_step], "int64")
        steps = np.arange(self.begin_step, self.end_step, self.frequency, dtype="int64")
        return np.append(steps, self.end_step)

    def table(self) -> np.ndarray:
        """The sparsity set by each update, float64 of shape `(updates,)`.

        Raises:
            SenteiError: when the curve leaves [0, 1) or is not finite.
        """
        return self._table

    @functools.cached_property
    def _table(self) -> np.ndarray:
        values = np.array([float(self.sparsity(int(step))) for step in self.updates()])
        if not np.all((values >= 0.0) & (values < 1.0)):
            bad = int(np.argmin((values >= 0.0) & (values < 1.0)))
            raise SenteiError(
                f"A sparsity must be at least 0 and less than 1. {self!r} gives {values[bad]} at "
                f"step {self.updates()[bad]}."
            )
        values.flags.writeable = False
        return values

    def __call__(self, step: int) -> float:
        """The sparsity in force after `step` steps (the staircase, not the curve)."""
        done = int(np.searchsorted(self.updates(), int(step), side="right"))
        return 0.0 if done == 0 else float(self.table()[done - 1])

    def updates_done(self, step: Any) -> Any:
        """How many updates are due by `step`: an int32 scalar tensor, usable under jit."""
        step = ops.cast(step, "int32")
        done = (step - self.begin_step) // self.frequency + 1
        if self.end_step is not None:
            done = ops.where(
                step >= self.end_step, self._regular + 1, ops.minimum(done, self._regular)
            )
        return ops.cast(ops.where(step < self.begin_step, 0, done), "int32")

    def update_after(self, done: Any) -> Any:
        """The step of the next update when `done` (at least 1) are done; int32, usable under jit.

        After the last one it is a step that is never reached.
        """
        step = self.begin_step + ops.cast(done, "int32") * self.frequency
        if self.end_step is not None:
            step = ops.where(done > self._regular, _NEVER, ops.minimum(step, self.end_step))
        return ops.cast(step, "int32")

    @property
    def _regular(self) -> int:
        """Updates before the one at `end_step`."""
        return math.ceil(((self.end_step or 0) - self.begin_step) / self.frequency)

    def plot(self, axes: Any = None) -> Any:
        """Draws curve and staircase with matplotlib and returns the axes drawn on."""
        if axes is None:
            import matplotlib.pyplot as plt

            axes = plt.subplots(figsize=(6, 3))[1]
        end = self.end_step if self.end_step is not None else self.begin_step + 10 * self.frequency
        margin = max(1, (end - self.begin_step) // 20)
        steps = np.append(self.updates(), end + margin)
        axes.step(steps, np.append(self.table(), self.final), where="post", label="in force")
        axes.plot(self.updates(), self.table(), ".", label="update")
        axes.set(xlabel="optimizer step", ylabel="sparsity", ylim=(0, 1), title=repr(self))
        axes.legend()
        return axes

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for saving."""
        return {
            "begin_step": self.begin_step,
            "end_step": self.end_step,
            "frequency": self.frequency,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        """The schedule that `get_config` described."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((type(self), repr(self)))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@keras.saving.register_keras_serializable("sentei")
class ConstantSparsity(Schedule):
    """One sparsity from `begin_step` on.

    Args:
        target: share of zeros, in [0, 1).
        begin_step: the step of the first update.
        end_step: the step of the last update; `None` (the default) means there is none.
        frequency: steps between two updates.

    Raises:
        SenteiError: for a target outside [0, 1) or steps that are no steps.
    """

    def __init__(
        self,
        target: float,
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: int = 100,
    ) -> None:
        super().__init__(begin_step, end_step, frequency)
        self.target = check_sparsity("target", target)

    def sparsity(self, step: int) -> float:
        """The target, at every step."""
        return self.target

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for saving."""
        return {"target": self.target, **super().get_config()}


@keras.saving.register_keras_serializable("sentei")
class PolynomialDecay(Schedule):
    """Gradual pruning: fast while many weights are redundant, slower as few are left.

    Zhu & Gupta 2017, "To prune, or not to prune" (arXiv:1710.01878), eq. 1 with a free power:
    `s_t = s_f + (s_i - s_f) (1 - p)^power`, `p = (t - begin_step) / (end_step - begin_step)`.

    Args:
        initial: sparsity `s_i` at `begin_step`, in [0, 1).
        final: sparsity `s_f` at `end_step`, in [0, 1).
        begin_step: the step of the first update.
        end_step: the step of the last update.
        power: exponent, above 0; 3 in the paper.
        frequency: steps between two updates. As the power by name only: a number of steps taken for
            a power would prune everything in the last update but one or two.

    Raises:
        SenteiError: for a sparsity outside [0, 1), a power that is not positive, or steps that
            are no steps.
    """

    def __init__(
        self,
        initial: float,
        final: float,
        begin_step: int,
        end_step: int,
        *,
        power: float = 3,
        frequency: int = 100,
    ) -> None:
        if end_step is None:
            raise SenteiError(
                "PolynomialDecay needs an `end_step` at which `final` is reached. "
                "Received: end_step=None."
            )
        super().__init__(begin_step, end_step, frequency)
        self.initial = check_sparsity("initial", initial)
        self._final = check_sparsity("final", final)
        if not (isinstance(power, (int, float)) and math.isfinite(power) and power > 0):
            raise SenteiError(f"`power` must be a number above 0. Received: power={power!r}.")
        self.power = power

    def sparsity(self, step: int) -> float:
        """Zhu & Gupta 2017, eq. 1, clipped to the schedule's ends."""
        length = max((self.end_step or 0) - self.begin_step, 1)
        p = min(max((step - self.begin_step) / length, 0.0), 1.0)
        if step >= (self.end_step or 0):
            p = 1.0
        return self._final + (self.initial - self._final) * (1.0 - p) ** self.power

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for saving."""
        steps = super().get_config()
        frequency = steps.pop("frequency")
        return {
            "initial": self.initial,
            "final": self._final,
            **steps,
            "power": self.power,
            "frequency": frequency,
        }


def check_sparsity(name: str, value: Any) -> float:
    """The value as a float, if it is a share of zeros.

    Raises:
        SenteiError: when it is not a number in [0, 1).
    """
    number = isinstance(value, (int, float, np.integer, np.floating))
    if isinstance(value, bool) or not number or not 0.0 <= value < 1.0:
        hint = f" Did you mean {value / 100:g}?" if number and 1.0 < value < 100.0 else ""
        raise SenteiError(
            f"`{name}` must be a share of zeros, at least 0 and less than 1. "
            f"Received: {name}={value!r}.{hint}"
        )
    return float(value)


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise SenteiError(
            f"`{name}` must be a whole number of optimizer steps, at least {least}. "
            f"Received: {name}={value!r}."
        )
    return int(value)
