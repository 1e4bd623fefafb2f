"""What the commands' arguments have in common: the parser, the kinds of value, checks of paths."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from sentei.core.errors import SenteiError

_MISUSED = 2


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, like every other error of ours."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with the complaint."""
        command = self.prog
        self.exit(_MISUSED, f"sentei: error: {message}. See `{command} --help`.\n")


def command(
    commands: Any, name: str, run: Callable[[Any], int], purpose: str, example: str
) -> argparse.ArgumentParser:
    """A command's own parser.

    Args:
        commands: Where the commands are listed.
        name: What it is called.
        run: What it does with its parsed arguments; returns the exit status.
        purpose: What it is for, in lower case, without a full stop.
        example: A line that could be typed.

    Returns:
        The parser, with `--json`.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON and no more")
    parser.set_defaults(run=run)
    return parser


def check_output(path: Path, force: bool) -> None:
    """Refuses before the long work what would fail after it.

    Args:
        path: The file to write.
        force: Whether it may replace one that is there.

    Raises:
        SenteiError: The file cannot or may not be written.
    """
    if path.is_dir():
        raise SenteiError(f"{path} is a directory. Give the path of the file to write.")
    if not path.parent.is_dir():
        raise SenteiError(f"the folder {path.parent} does not exist. Create it first.")
    if path.exists() and not force:
        raise SenteiError(f"{path} exists. Give another path, or --force to replace it.")


def positive(text: str) -> int:
    """A number from 1, as an argument.

    Args:
        text: What was typed.

    Raises:
        ArgumentTypeError: It is something else.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, received {text!r}")
    return int(text)
