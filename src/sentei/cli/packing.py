"""`sentei pack`, `sentei unpack` and `sentei verify`."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sentei.cli.arguments import check_output, command
from sentei.cli.output import show


def add(commands: Any) -> None:
    """Describes the commands.

    Args:
        commands: Where the commands are listed.
    """
    parser = command(
        commands,
        "pack",
        _pack,
        "pack a model file losslessly, for download and storage",
        "sentei pack model.tflite model.tflite.stz",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        help="any file; weights are found in .tflite, .keras, .weights.h5 and .safetensors",
    )
    parser.add_argument("out", metavar="OUT.stz", type=Path, help="the packed file to write")
    parser.add_argument("--effort", choices=("fast", "max"), default="fast", help="default fast")
    parser.add_argument("--force", action="store_true", help="replace OUT.stz if it exists")
    parser = command(
        commands,
        "unpack",
        _unpack,
        "write the file that was packed, byte by byte the same",
        "sentei unpack model.tflite.stz model.tflite",
    )
    parser.add_argument("file", metavar="FILE.stz", type=Path, help="the packed file")
    parser.add_argument("out", metavar="OUT", type=Path, help="the file to write")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser = command(
        commands,
        "verify",
        _verify,
        "check all of a packed file, writing nothing",
        "sentei verify model.tflite.stz",
    )
    parser.add_argument("file", metavar="FILE.stz", type=Path, help="the packed file")


def _pack(arguments: argparse.Namespace) -> int:
    check_output(arguments.out, arguments.force)
    from sentei.codec import pack

    with _bar("packing") as progress:
        done = pack(arguments.file, arguments.out, effort=arguments.effort, progress=progress)
    return show(done, arguments.json)


def _unpack(arguments: argparse.Namespace) -> int:
    check_output(arguments.out, arguments.force)
    from sentei.codec import unpack

    with _bar("unpacking") as progress:
        done = unpack(arguments.file, arguments.out, progress=progress)
    return show(done, arguments.json)


def _verify(arguments: argparse.Namespace) -> int:
    from sentei.codec import verify

    with _bar("verifying") as progress:
        done = verify(arguments.file, progress=progress)
    return show(done, arguments.json)


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
