"""`sentei bench`."""

import argparse
from pathlib import Path
from typing import Any

from sentei.cli.arguments import command, positive
from sentei.cli.output import only_our_output, show


def add(commands: Any) -> None:
    """Describes the command.

    Args:
        commands: Where the commands are listed.
    """
    parser = command(
        commands,
        "bench",
        run,
        "measure size, latency and memory of .tflite files side by side",
        "sentei bench dense.tflite pruned.tflite --runs 100",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="the first is compared with")
    parser.add_argument("--threads", type=positive, default=1, help="of the runtime (default 1)")
    parser.add_argument("--runs", type=positive, default=50, help="timed rounds (default 50)")
    parser.add_argument(
        "--inputs", metavar="X.npz", type=Path, help="inputs by name; random by default"
    )

    parser.add_argument("--profile", action="store_true", help="show which operators take the time")


def run(arguments: argparse.Namespace) -> int:
    """Does the job.

    Args:
        arguments: The parsed arguments.

    Returns:
        The exit status.
    """
    with only_our_output():
        from sentei.litert.benchmarking import benchmark, read_inputs

        inputs = None if arguments.inputs is None else read_inputs(arguments.inputs)
        results = benchmark(arguments.files, inputs, arguments.threads, arguments.runs)
    if not arguments.profile or arguments.json:
        return show(results, arguments.json)
    from sentei.litert import tables

    tables.show(*results.tables(), *results.profiles())
    return 0
