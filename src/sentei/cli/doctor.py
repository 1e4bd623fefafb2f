"""`sentei doctor`."""

import argparse
from pathlib import Path
from typing import Any

from sentei.cli.arguments import command
from sentei.cli.output import show, working

# Not 1, which every command ends with when it fails.
_NOT_YET, _CANNOT = 3, 4


def add(commands: Any) -> None:
    """Describes the command.

    Args:
        commands: Where the commands are listed.
    """
    parser = command(
        commands,
        "doctor",
        run,
        "say whether a model runs sparse, operator by operator, and what stands in the way",
        "sentei doctor pruned.tflite\n\nexit status: 0 it runs sparse, "
        f"{_NOT_YET} it would once it is pruned and stored sparse, {_CANNOT} it cannot",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a .tflite or .keras file")
    parser.add_argument(
        "--target", default="xnnpack", choices=["xnnpack"], help="what runs the file"
    )


def run(arguments: argparse.Namespace) -> int:
    """Does the job.

    Args:
        arguments: The parsed arguments.

    Returns:
        The exit status.
    """
    with working(f"examining {arguments.file}"):
        from sentei.litert.doctor import diagnose
        from sentei.litert.keras_file import load_model

        examined = arguments.file
        if examined.suffix == ".keras":
            examined = load_model(examined)
        found = diagnose(examined, arguments.target)
    show(found, arguments.json)
    if found.runs_sparse:
        return 0
    return _NOT_YET if found.qualifies else _CANNOT
