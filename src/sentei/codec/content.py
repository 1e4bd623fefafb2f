"""A file's bytes, without reading what is not looked at."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sentei.core.errors import CorruptFile


@contextmanager
def mapped(path: str | os.PathLike[str]) -> Iterator[memoryview]:
    """Gives a file's bytes.

    Args:
        path: The file.

    Yields:
        A read-only view, valid within.

    Raises:
        CorruptFile: There is no such file, or it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise CorruptFile(f"{path}: no such file. Check the path.")
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "not a regular file"
        raise CorruptFile(f"{path} is {kind}. Give the path of a file.")
    try:
        file = path.open("rb")
    except OSError as error:
        raise CorruptFile(f"{path} cannot be read: {error.strerror}.") from None
    with file:
        if os.fstat(file.fileno()).st_size == 0:
            yield memoryview(b"")
            return
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view = memoryview(mapping)
        try:
            yield view
        finally:
            view.release()
            # A traceback may hold parts of the view; the mapping then goes with them.
            with suppress(BufferError):
                mapping.close()
