"""`sentei compress`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from sentei.cli.arguments import check_output, command, positive
from sentei.cli.output import show, working
from sentei.cli.samples import add_samples, read_samples


def add(commands: Any) -> None:
    """Describes the command.

    Args:
        commands: Where the commands are listed.
    """
    parser = command(
        commands,
        "compress",
        run,
        "find the smallest file of a model within a loss of accuracy, without training",
        "sentei compress model.keras model.stz --data samples.npz --labels y --max-drop 0.005",
    )
    parser.add_argument("model", metavar="MODEL.keras", type=Path, help="the saved Keras model")
    parser.add_argument(
        "out", metavar="OUT.stz", type=Path, help="the packed file to write; OUT.tflite: to run"
    )
    add_samples(parser, required=True)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--max-drop",
        metavar="SHARE",
        type=_share,
        help="how much of the score may be lost, from 0 to 1 (default 0.005)",
    )
    budget.add_argument(
        "--target-bytes", metavar="N", type=positive, help="how large the packed file may be"
    )
    parser.add_argument(
        "--effort", choices=("fast", "max"), default="fast", help="max looks closer (default fast)"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def run(arguments: argparse.Namespace) -> int:
    """Does the job.

    Args:
        arguments: The parsed arguments.

    Returns:
        The exit status.
    """
    check_output(arguments.out, arguments.force)
    with working(f"compressing {arguments.model}"):
        from sentei.compression import compress
        from sentei.litert.keras_file import load_model

        data, labels = read_samples(arguments)
        found = compress(
            load_model(arguments.model),
            data if labels is None else (data, labels),
            max_drop=arguments.max_drop,
            target_bytes=arguments.target_bytes,
            effort=arguments.effort,
            progress=_tell if sys.stderr.isatty() else None,
        )
        found.save(arguments.out)
    return show(found, arguments.json)


def _tell(candidate: Any) -> None:
    sys.stderr.write(f"{candidate.bytes:>10,} bytes, score {candidate.score:.4f}\n")


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, received {text!r}")
    return value
