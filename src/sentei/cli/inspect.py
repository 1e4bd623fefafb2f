"""`sentei inspect`."""

import argparse
from typing import Any

from sentei.cli.arguments import command
from sentei.cli.output import only_our_output, show


def add(commands: Any) -> None:
    """Describes the command.

    Args:
        commands: Where the commands are listed.
    """
    parser = command(
        commands,
        "inspect",
        run,
        "list operators, tensors, types, zeros and sizes of a file",
        "sentei inspect model.tflite",
    )
    parser.add_argument("file", metavar="FILE", help="a .tflite, .keras or .weights.h5 file")


def run(arguments: argparse.Namespace) -> int:
    """Does the job.

    Args:
        arguments: The parsed arguments.

    Returns:
        The exit status.
    """
    with only_our_output():
        from sentei.litert.inspect import inspect

        found = inspect(arguments.file)
    return show(found, arguments.json)
