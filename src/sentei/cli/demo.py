"""`sentei demo`."""

import argparse
from pathlib import Path
from typing import Any

from sentei.cli.arguments import command


def add(commands: Any) -> None:
    """Describes the command.

    Args:
        commands: Where the commands are listed.
    """
    parser = command(
        commands,
        "demo",
        run,
        "prune a small network on real images, export it, measure the files",
        "sentei demo --out ./sentei-demo",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("sentei-demo"), help="folder for the files"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a much shorter training, to try it out"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (default 0)")


def run(arguments: argparse.Namespace) -> int:
    """Does the job.

    Args:
        arguments: The parsed arguments.

    Returns:
        The exit status.
    """
    from sentei.demo import run

    return run(arguments.out, quick=arguments.quick, json=arguments.json, seed=arguments.seed)
