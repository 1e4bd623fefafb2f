"""Tables of results: one way to draw them, on a terminal or as plain text."""

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

# Wide enough that text destined for a file or a pipe is never folded.
_PLAIN_WIDTH = 10_000


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """Draws rows under headings; the first column is a name, the others are numbers.

    Args:
        columns: The headings.
        rows: One text per column.
        title: A line above the table.

    Returns:
        A table that `rich` can print.
    """
    drawn = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for index, column in enumerate(columns):
        side = "right" if index else "left"
        drawn.add_column(column, justify=side, no_wrap=True, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        drawn.add_row(*row)
    return drawn


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
