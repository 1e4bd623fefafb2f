"""`sentei bench`."""

import argparse
from pathlib import Path
from typing import Any

from sentei.cli.arguments import command, positive
from sentei.cli.output import only_our_output, show
from sentei.core.errors import SenteiError


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
    parser.add_argument(
        "--browser",
        action="store_true",
        help="in headless Chromium, with runtimes of npm",
    )
    parser.add_argument(
        "--chromium", metavar="PATH", type=Path, help="the browser (default: on the PATH)"
    )
    parser.add_argument(
        "--node-modules", metavar="FOLDER", type=Path, help="of npm (default: looked for)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Does the job.

    Args:
        arguments: The parsed arguments.

    Returns:
        The exit status.
    """
    if arguments.browser:
        return _in_browser(arguments)
    for option in ("chromium", "node_modules"):
        if getattr(arguments, option) is not None:
            raise SenteiError(f"--{option.replace('_', '-')} is for --browser; give both or none.")
    with only_our_output():
        from sentei.litert.benchmarking import benchmark, read_inputs

        inputs = None if arguments.inputs is None else read_inputs(arguments.inputs)
        results = benchmark(arguments.files, inputs, arguments.threads, arguments.runs)
    if not arguments.profile or arguments.json:
        return show(results, arguments.json)
    from sentei.litert import tables

    tables.show(*results.tables(), *results.profiles())
    return 0


def _in_browser(arguments: argparse.Namespace) -> int:
    if arguments.threads != 1 or arguments.profile:
        raise SenteiError("--browser runs on one thread, without --profile. Leave them out.")
    with only_our_output():
        from sentei.litert.benchmarking import read_inputs
        from sentei.litert.browser.bench import benchmark_in_browser

        inputs = None if arguments.inputs is None else read_inputs(arguments.inputs)
        results = benchmark_in_browser(
            arguments.files, inputs, arguments.runs, arguments.chromium, arguments.node_modules
        )
    return show(results, arguments.json)
