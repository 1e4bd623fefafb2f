"""`ClusteringSummaries`: what clustering does, for TensorBoard."""

from __future__ import annotations

import time
from typing import Any

import keras

from sentei.clustering import report
from sentei.core.errors import SenteiError


class ClusteringSummaries(keras.callbacks.Callback):
    """Writes the distinct values and the bits of each weight to TensorBoard.

    Args:
        log_dir: Folder of the event files.
        cluster_update_freq: `"epoch"`, `"batch"`, or a number of batches.
        **kwargs: Taken for the sake of old programs, and not used.

    Raises:
        SenteiError: When `log_dir` is no path, or tensorboard is not installed (a ValueError).
    """

    def __init__(
        self, log_dir: str = "logs", cluster_update_freq: str | int = "epoch", **kwargs: Any
    ) -> None:
        super().__init__()
        if not isinstance(log_dir, str) or not log_dir:
            raise SenteiError(
                f"`log_dir` must be a non-empty string. You passed `log_dir`={log_dir!r}."
            )
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise SenteiError(
                "ClusteringSummaries needs the tensorboard package. Install it: "
                "pip install 'sentei[tensorboard]'."
            ) from None
        self.log_dir = log_dir
        self.cluster_update_freq = 1 if cluster_update_freq == "batch" else cluster_update_freq
        self.continuous_batch = 0
        self._writer = EventFileWriter(log_dir)

    def on_train_batch_end(self, batch: Any, logs: Any = None) -> None:
        """Writes, if it is the batch for it."""
        self.continuous_batch += 1
        every = self.cluster_update_freq
        if isinstance(every, int) and self.continuous_batch % every == 0:
            self._write()

    def on_epoch_end(self, epoch: Any, logs: Any = None) -> None:
        """Writes, if it is asked for each epoch."""
        if self.cluster_update_freq == "epoch":
            self._write()

    def on_train_end(self, logs: Any = None) -> None:
        """Flushes the file."""
        self._writer.flush()

    def _write(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=f"clustering/{row.path}/{name}", simple_value=number)
            for row in report(self.model)
            if row.n is not None
            for name, number in (("distinct", row.distinct), ("bits", row.entropy))
        ]
        step = self.continuous_batch
        self._writer.add_event(
            Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        )
