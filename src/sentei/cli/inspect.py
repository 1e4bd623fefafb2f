"""`sentei inspect`."""

import argparse
from io import BytesIO
from pathlib import Path
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
    parser.add_argument(
        "file", metavar="FILE", help="a .tflite, .keras, .weights.h5 or packed file"
    )


def run(arguments: argparse.Namespace) -> int:
    """Does the job.

    Args:
        arguments: The parsed arguments.

    Returns:
        The exit status.
    """
    from sentei.codec.container import MAGIC

    with Path(arguments.file).open("rb") if Path(arguments.file).is_file() else BytesIO() as file:
        packed = file.read(len(MAGIC)) == MAGIC
    if packed:
        from sentei import codec

        with codec.open(arguments.file) as found_packed:
            return show(found_packed, arguments.json)
    with only_our_output():
        from sentei.litert.inspect import inspect

        found = inspect(arguments.file)
    return show(found, arguments.json)
