"""`sentei export`."""

import argparse
from pathlib import Path
from typing import Any

from sentei.cli.arguments import check_output, command, positive
from sentei.cli.output import show, working

_SPARSE: dict[str, Any] = {"auto": "auto", "all": True, "never": False}


def add(commands: Any) -> None:
    """Describes the command.

    Args:
        commands: Where the commands are listed.
    """
    parser = command(
        commands,
        "export",
        run,
        "write a Keras model as a .tflite file and check it against Keras",
        "sentei export model.keras model.tflite",
    )
    parser.add_argument("model", metavar="MODEL.keras", type=Path, help="the saved Keras model")
    parser.add_argument("out", metavar="OUT.tflite", type=Path, help="the file to write")
    parser.add_argument(
        "--batch", type=_batch, default=1, help="batch size of the file, or 'open' (default 1)"
    )
    parser.add_argument(
        "--sparse",
        choices=_SPARSE,
        default="auto",
        help="store pruned weights sparse: where smaller (auto, the default), all, or never",
    )
    parser.add_argument(
        "--quantize", metavar="MODE", help="float16, dynamic, weight-only-int8, int4, int4-block32"
    )
    parser.add_argument(
        "--no-verify", action="store_true", help="do not compare the file's outputs with Keras'"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT.tflite if it exists")


def run(arguments: argparse.Namespace) -> int:
    """Does the job.

    Args:
        arguments: The parsed arguments.

    Returns:
        The exit status.
    """
    check_output(arguments.out, arguments.force)
    with working(f"exporting {arguments.model}"):
        from sentei.litert.export import export
        from sentei.litert.keras_file import load_model

        model = load_model(arguments.model)
        report = export(
            model,
            arguments.out,
            batch_size=arguments.batch,
            quantize=arguments.quantize,
            sparse=_SPARSE[arguments.sparse],
            verify=not arguments.no_verify,
        )
    return show(report, arguments.json)


def _batch(text: str) -> int | None:
    return None if text == "open" else positive(text)
