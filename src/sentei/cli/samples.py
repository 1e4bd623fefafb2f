"""Samples and labels as arguments of a command."""

import argparse
from pathlib import Path
from typing import Any

from sentei.core.errors import SenteiError


def add_samples(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Adds `--data` and `--labels`.

    Args:
        parser: The command's.
        required: Whether the command needs samples.
    """
    parser.add_argument(
        "--data",
        metavar="DATA.npz",
        type=Path,
        required=required,
        help="sample inputs, an array per input by name (.npz) or of the one input (.npy)",
    )
    parser.add_argument(
        "--labels", metavar="NAME", help="the array in DATA.npz that holds the class indices"
    )


def read_samples(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The inputs, an array or a dict of arrays, and the labels; None for what was not given.

    Args:
        arguments: Parsed ones of a command with `add_samples`.

    Raises:
        SenteiError: The file cannot be read, or has no such array.
    """
    if arguments.data is None:
        if arguments.labels is not None:
            raise SenteiError("--labels names an array of --data: give that too.")
        return None, None
    from sentei.litert.benchmarking import read_inputs

    data: Any = read_inputs(arguments.data)
    labels = None
    if arguments.labels is not None:
        if not isinstance(data, dict) or arguments.labels not in data:
            known = sorted(data) if isinstance(data, dict) else "one array without a name"
            raise SenteiError(
                f"{arguments.data} has no array {arguments.labels!r}. It has {known}."
            )
        labels = data.pop(arguments.labels)
    alone = isinstance(data, dict) and len(data) == 1
    return (next(iter(data.values())) if alone else data), labels
