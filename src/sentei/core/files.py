"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sentei.core.errors import SenteiError


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """Gives a temporary file beside the target that becomes it if all goes well, else vanishes.

    Args:
        target: The file to write; it may exist.

    Yields:
        The path of the temporary file, empty so far.

    Raises:
        SenteiError: The file cannot be written.
    """
    try:
        # What is written may depend on the suffix.
        handle, name = tempfile.mkstemp(target.suffix, f".{target.stem}-", target.parent)
    except OSError as error:
        raise SenteiError(f"{str(target)!r} cannot be written: {error.strerror}.") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner may read; give it the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, target)
    except OSError as error:
        raise SenteiError(f"{str(target)!r} cannot be written: {error}.") from None
    finally:
        temporary.unlink(missing_ok=True)
