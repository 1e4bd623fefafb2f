"""What the commands print: results, and on a terminal that work goes on."""

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any, Protocol


class Result(Protocol):
    """What a command has to show: a text, and plain data for `--json`."""

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        ...


@contextlib.contextmanager
def only_our_output() -> Iterator[None]:
    """Sends what libraries print to the error stream, so that `--json` stays pure.

    Yields:
        Nothing.
    """
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def working(on: str) -> Iterator[None]:
    """Shows on a terminal that work goes on, and keeps the standard output clean meanwhile.

    Args:
        on: What is being done.

    Yields:
        Nothing.
    """
    from rich.console import Console

    console = Console(stderr=True, markup=False)
    spinner = console.status(on) if console.is_terminal else contextlib.nullcontext()
    with spinner, only_our_output():
        yield


def show(result: Result, as_json: bool) -> int:
    """Prints a result.

    Args:
        result: What a command found out.
        as_json: Whether a machine reads it.

    Returns:
        The exit status: 0.
    """
    if as_json:
        sys.stdout.write(json.dumps(result.to_dict(), indent=2) + "\n")
    elif hasattr(result, "tables"):
        from sentei.litert import tables

        tables.show(*result.tables())
    else:
        sys.stdout.write(f"{result}\n")
    sys.stdout.flush()
    return 0
