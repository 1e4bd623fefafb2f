"""The callbacks that programs for the old toolkit pass to `fit`, or call in loops of their own."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from sentei.core.errors import SenteiError
from sentei.core.install import find
from sentei.sparsity import Log
from sentei.tfmot.attach import put_beside


class UpdatePruningStep(keras.callbacks.Callback):
    """Nothing to do in `fit`; in a training loop of your own, it prunes.

    Where a model was not compiled but given an optimizer (`model.optimizer = ...`) that the loop
    steps itself, it prunes after each step: at the next `on_train_batch_begin`, or `on_epoch_end`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rules: Any = None
        self._seen = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Makes the rules, if the optimizer has none."""
        self._rules = put_beside(self.model)

    def on_train_batch_begin(self, batch: Any, logs: Any = None) -> None:
        """Prunes after the step before."""
        self._project()

    def on_train_batch_end(self, batch: Any, logs: Any = None) -> None:
        """Prunes after the step."""
        self._project()

    def on_epoch_end(self, epoch: Any = None, logs: Any = None, batch: Any = None) -> None:
        """Prunes after the last step."""
        self._project()

    def on_train_end(self, logs: Any = None) -> None:
        """Prunes after the last step."""
        self._project()

    def _project(self) -> None:
        if self._rules is None:
            return
        steps = int(ops.convert_to_numpy(self._rules.iterations))
        if steps != self._seen:
            self._rules.project()
            self._seen = steps


class PruningSummaries(Log):
    """Writes the sparsity of each weight to TensorBoard.

    Args:
        log_dir: Folder of the event files.
        update_freq: `"epoch"`, `"batch"`, or a number of batches.
        **kwargs: Taken for the sake of old programs, and not used.

    Raises:
        SenteiError: When `log_dir` is no path, or tensorboard is not installed (a ValueError).
    """

    def __init__(self, log_dir: str, update_freq: str | int = "epoch", **kwargs: Any) -> None:
        if not isinstance(log_dir, str) or not log_dir:
            raise SenteiError(
                f"`log_dir` must be a non-empty string. You passed `log_dir`={log_dir!r}."
            )
        super().__init__(tensorboard_dir=log_dir)
        self.log_dir = log_dir
        self.update_freq = 1 if update_freq == "batch" else update_freq
        self._batches = 0

    def on_epoch_begin(self, epoch: Any, logs: Any = None) -> None:
        """In a training loop of your own, which calls nothing else: writes."""
        if find(self.model) is None:
            super().on_epoch_end(epoch, {})
            self.on_train_end()

    def on_train_batch_end(self, batch: Any, logs: Any = None) -> None:
        """Writes, if it is the batch for it."""
        self._batches += 1
        if isinstance(self.update_freq, int) and self._batches % self.update_freq == 0:
            super().on_epoch_end(0, {})
