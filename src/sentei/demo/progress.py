"""What the demo shows while it works: a bar for every stage on a terminal, a line elsewhere."""

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import keras
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class Stage:
    """A stage of the work that is under way."""

    def __init__(self, bars: Progress, name: str, total: int):
        self._bars = bars
        self._task = bars.add_task(name, total=total, note="")
        self.note = ""

    def advance(self, steps: int = 1) -> None:
        """Moves the bar."""
        self._bars.update(self._task, advance=steps)

    def tell(self, note: str) -> None:
        """Writes beside the bar how it is going."""
        self.note = note
        self._bars.update(self._task, note=note)


class Stages:
    """The stages of the demo, one under another, on the error stream."""

    def __init__(self, stream: TextIO):
        self.console = Console(file=stream, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description:<21}"),
            BarColumn(bar_width=18),  # so that a line fits 80 columns
            TimeRemainingColumn(elapsed_when_finished=True, compact=True),
            TextColumn("[dim]{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Draws the bars for as long as the stages last."""
        with self._bars:
            yield

    @contextlib.contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """A stage of `total` steps.

        Args:
            name: What is done.
            total: How many steps it has.

        Yields:
            The stage, to be advanced.
        """
        start = time.perf_counter()
        stage = Stage(self._bars, name, total)
        yield stage
        if not self.console.is_terminal:
            seconds = time.perf_counter() - start
            self.console.print(f"{name}: {seconds:.1f} s  {stage.note}".rstrip(), markup=False)


@contextlib.contextmanager
def stages() -> Iterator[Stages]:
    """Stages on a stream of their own.

    Exporting and loading files hold back what is written to file descriptor 2, where the converter
    and the runtime log; bars that were drawn there would stand still, so they go to a copy of it.

    Yields:
        The stages.
    """
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # no stream, or one that is not a file
        yield Stages(sys.stderr or io.StringIO())
        return
    with os.fdopen(descriptor, "w", encoding=sys.stderr.encoding, errors="replace") as stream:
        yield Stages(stream)


class TrainingProgress(keras.callbacks.Callback):
    """Moves a stage's bar with every batch, and notes the accuracy after every epoch.

    Args:
        stage: The stage, of as many steps as there are batches in all epochs.
        pause: Called after every batch.
    """

    def __init__(self, stage: Stage, pause: Callable[[], None]):
        super().__init__()
        self._stage = stage
        self._pause = pause

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Moves the bar."""
        self._stage.advance()
        self._pause()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes how good the network is now, and how sparse."""
        if not logs:
            return
        note = f"accuracy {logs['val_accuracy']:.2%}"
        sparsity = logs.get("sparsity")
        self._stage.tell(f"{note}, sparsity {sparsity:.1%}" if sparsity else note)
