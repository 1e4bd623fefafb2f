"""A Keras callback that writes sparsity beside the loss, to CSV and TensorBoard."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import keras
from keras import ops

from sentei.core.errors import SenteiError
from sentei.core.install import find
from sentei.sparsity.report import SparsityReport, report


class Log(keras.callbacks.Callback):
    """Logs each weight's sparsity at the end of every epoch.

    The overall sparsity also joins the epoch's `logs`, so that `History`, `CSVLogger`,
    `TensorBoard` and early stopping see it (put this callback before them).

    Args:
        csv_path: file to write, one row a weight and epoch: `epoch, step, weight, sparsity,
            scheduled, target, nonzeros, size`. An existing one is replaced unless `append`.
        tensorboard_dir: folder for a TensorBoard event file. Needs the `tensorboard` extra.
        append: add to an existing CSV file (a resumed run) instead of replacing it.
        key: name under which the overall sparsity joins `logs`.

    Raises:
        SenteiError: when the CSV's folder does not exist or tensorboard is not installed.
    """

    def __init__(
        self,
        csv_path: str | os.PathLike[str] | None = None,
        tensorboard_dir: str | os.PathLike[str] | None = None,
        *,
        append: bool = False,
        key: str = "sparsity",
    ) -> None:
        super().__init__()
        self.csv_path = None if csv_path is None else Path(csv_path)
        self.tensorboard_dir = None if tensorboard_dir is None else os.fspath(tensorboard_dir)
        self.append = append
        self.key = key
        self._writer = None if tensorboard_dir is None else _event_writer(self.tensorboard_dir)
        if self.csv_path is not None and not self.csv_path.parent.is_dir():
            raise SenteiError(
                f"Cannot write {self.csv_path}: its folder does not exist. Make "
                f"{self.csv_path.parent} first."
            )

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Starts the CSV file."""
        if self.csv_path is not None and not (self.append and self.csv_path.exists()):
            with self.csv_path.open("w", newline="") as file:
                csv.writer(file).writerow(_COLUMNS)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the epoch's rows."""
        rows = report(self.model)
        if logs is not None:
            logs[self.key] = rows.sparsity
        projected = find(self.model)
        step = 0 if projected is None else int(ops.convert_to_numpy(projected.iterations))
        if self.csv_path is not None:
            with self.csv_path.open("a", newline="") as file:
                csv.writer(file).writerows(_csv_rows(epoch, step, rows))
        if self._writer is not None:
            _write_events(self._writer, step, rows)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Flushes the TensorBoard file."""
        if self._writer is not None:
            self._writer.flush()


_COLUMNS = ("epoch", "step", "weight", "sparsity", "scheduled", "target", "nonzeros", "size")


def _csv_rows(epoch: int, step: int, rows: SparsityReport) -> list[tuple[Any, ...]]:
    return [
        (epoch, step, r.path, r.sparsity, r.scheduled, r.target, r.nonzeros, r.size) for r in rows
    ]


def _event_writer(folder: str | None) -> Any:
    try:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        raise SenteiError(
            "Log(tensorboard_dir=...) needs the tensorboard package. Install it: "
            "pip install 'sentei[tensorboard]'."
        ) from None
    return EventFileWriter(folder)


def _write_events(writer: Any, step: int, rows: SparsityReport) -> None:
    import time

    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag="sparsity/all", simple_value=rows.sparsity)]
    values += [Summary.Value(tag=f"sparsity/{r.path}", simple_value=r.sparsity) for r in rows]
    writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
