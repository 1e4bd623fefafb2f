"""`sentei advise`."""

import argparse
from pathlib import Path
from typing import Any

from sentei.cli.arguments import command, positive
from sentei.cli.output import show, working
from sentei.cli.samples import add_samples, read_samples

_HARDWARE = ("cpu", "gpu", "integer", "microcontroller")


def add(commands: Any) -> None:
    """Describes the command.

    Args:
        commands: Where the commands are listed.
    """
    parser = command(
        commands,
        "advise",
        run,
        "say which way of making a model small fits, and measure the candidates",
        "sentei advise model.keras --data samples.npz --labels y --hardware cpu",
    )
    parser.add_argument(
        "model", metavar="MODEL.keras", type=Path, nargs="?", help="the saved model; none: rules"
    )
    add_samples(parser)
    parser.add_argument(
        "--hardware", choices=_HARDWARE, default="cpu", help="where it shall run (default cpu)"
    )
    parser.add_argument(
        "--training", action="store_true", help="there are labeled data and time to train"
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.01, help="accuracy that may be lost (default 0.01)"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=1,
        help="with --training and --labels, how long candidates are trained (default 1; 0: not)",
    )
    parser.add_argument("--runs", type=positive, default=30, help="timed rounds (default 30)")


def run(arguments: argparse.Namespace) -> int:
    """Does the job.

    Args:
        arguments: The parsed arguments.

    Returns:
        The exit status.
    """
    subject = arguments.model or "the choices"
    with working(f"weighing {subject}"):
        from sentei.advice import advise
        from sentei.litert.keras_file import load_model

        data, labels = read_samples(arguments)
        advice = advise(
            None if arguments.model is None else load_model(arguments.model),
            data,
            labels,
            hardware=arguments.hardware,
            training=arguments.training,
            tolerance=arguments.tolerance,
            epochs=arguments.epochs,
            runs=arguments.runs,
            progress=False,
        )
    return show(advice, arguments.json)
