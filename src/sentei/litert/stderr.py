"""Holding back what C++ libraries write to the terminal behind Python's back."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STDERR = 2
# The descriptor belongs to the whole process: two threads must not swap it at the same time.
_lock = threading.RLock()


@contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Catches what is written to file descriptor 2, by any library in any language.

    MLIR, absl and the runtime log there with no switch in Python. What other threads write to it
    meanwhile is caught as well.

    Yields:
        A function that returns what was caught so far.
    """
    with _lock, tempfile.TemporaryFile() as log:
        try:
            saved = os.dup(_STDERR)
        except OSError:  # The process has no stderr, so there is nothing to hold back.
            yield lambda: ""
            return
        _flush()
        os.dup2(log.fileno(), _STDERR)

        def caught() -> str:
            size = os.fstat(log.fileno()).st_size
            return os.pread(log.fileno(), size, 0).decode("utf-8", "replace")

        try:
            yield caught
        finally:
            _flush()
            os.dup2(saved, _STDERR)
            os.close(saved)


def _flush() -> None:
    """Writes out what Python still holds for stderr, while it goes where it was meant to."""
    if sys.stderr is not None and not sys.stderr.closed:
        sys.stderr.flush()
