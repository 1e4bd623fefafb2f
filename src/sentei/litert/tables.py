"""Tables of results: one way to draw them, on a terminal or as plain text."""

import io
import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

# Wide enough that text destined for a file or a pipe is never folded.
_PLAIN_WIDTH = 10_000
_NARROWEST_NAME = 16


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Draws rows under headings; the first column is a name, the others are numbers.

    A column that is empty in every row is left out.

    Args:
        columns: The headings.
        rows: One text per column.

    Returns:
        A table that `rich` can print.
    """
    cells = [list(column) for column in zip(*rows, strict=True)]
    kept = [
        (heading, column) for heading, column in zip(columns, cells, strict=True) if any(column)
    ]
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, (heading, column) in enumerate(kept):
        # On a narrow terminal names fold; numbers never do.
        if index:
            width = max(map(len, (heading, *column)))
            drawn.add_column(heading, justify="right", no_wrap=True, min_width=width)
        else:
            width = min(_NARROWEST_NAME, max(map(len, (heading, *column))))
            drawn.add_column(heading, overflow="fold", min_width=width)
    for row in zip(*(column for _, column in kept), strict=True):
        drawn.add_row(*row)
    return drawn


def show(*tables: Table | str) -> None:
    """Prints tables and lines: plain into a file or a pipe, drawn to fit on a terminal.

    A table that does not fit is drawn wider than the terminal rather than with numbers cut off.
    """
    if not sys.stdout.isatty():
        sys.stdout.write(plain(*tables) + "\n")
        return
    roomy = Console(width=_PLAIN_WIDTH)
    width = Console().width
    for item in tables:
        needed = roomy.measure(item).minimum if isinstance(item, Table) else 0
        Console(markup=False, highlight=False, width=max(width, needed)).print(item)


def plain(*tables: Table | str) -> str:
    """Renders tables and lines as plain text without colour or trailing spaces."""
    console = Console(file=io.StringIO(), width=_PLAIN_WIDTH, color_system=None, markup=False)
    with console.capture() as capture:
        for item in tables:
            console.print(item, highlight=False)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join(lines).strip("\n")


def count(number: int | None) -> str:
    """A whole number with its thousands apart, or a dash."""
    return "–" if number is None else f"{number:,}"


def share(number: float | None) -> str:
    """A share as a percentage, or a dash."""
    return "–" if number is None else f"{number:.1%}"


def shorten(name: str, width: int = 60) -> str:
    """Cuts a long name in the middle: exporters join the names of all that they fused."""
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    return f"{name[:head]}…{name[-(width - 1 - head) :]}"
