"""The command line: translates arguments into calls of the library, and errors into one line.

Nothing heavy is imported before a command needs it, so `sentei --help` answers at once.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

from sentei import __version__
from sentei.core.errors import SenteiError

_FAILED, _MISUSED, _INTERRUPTED, _TERMINATED, _PIPE_CLOSED = 1, 2, 130, 143, 141


class _Result(Protocol):
    """What a command has to show: a text, and plain data for `--json`."""

    def to_dict(self) -> dict[str, Any]: ...


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, like every other error of ours."""

    def error(self, message: str) -> NoReturn:
        command = self.prog
        self.exit(_MISUSED, f"sentei: error: {message}. See `{command} --help`.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: The words after `sentei`; those of the process by default.

    Returns:
        The exit status: 0 only when the job is done, 1 when it failed, 2 for wrong arguments, 130
        after Ctrl-C.
    """
    try:
        parsed = _parser().parse_args(arguments)
    except SystemExit as end:  # argparse has printed the help, the version or the complaint
        return int(end.code or 0)
    _prepare_process()
    try:
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        return _complain("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        # The reader (`| head`) left; without this Python complains once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except SenteiError as error:
        return _complain(str(error))
    except ImportError as error:
        return _complain(f"a package is missing: {error}. Install it, or unset KERAS_BACKEND.")
    except OSError as error:
        return _complain(": ".join(filter(None, (error.filename, error.strerror or str(error)))))
    except Exception as error:
        if os.environ.get("SENTEI_TRACEBACK"):
            raise
        return _complain(
            f"unexpected {type(error).__name__}: {error}. This is a fault of sentei; "
            "set SENTEI_TRACEBACK=1 to see where."
        )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sentei",
        description="Make Keras models small and fast, and prove it on the real runtime.",
        epilog="Each command explains itself: sentei COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"sentei {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = _command(
        commands,
        "demo",
        _demo,
        "prune a small network on real images, export it, measure the files",
        "sentei demo --out ./sentei-demo",
    )
    demo.add_argument("--out", type=Path, default=Path("sentei-demo"), help="folder for the files")
    demo.add_argument("--quick", action="store_true", help="a much shorter training, to try it out")
    demo.add_argument("--seed", type=int, default=0, help="seed of the training (default 0)")

    export = _command(
        commands,
        "export",
        _export,
        "write a Keras model as a .tflite file and check it against Keras",
        "sentei export model.keras model.tflite",
    )
    export.add_argument("model", metavar="MODEL.keras", type=Path, help="the saved Keras model")
    export.add_argument("out", metavar="OUT.tflite", type=Path, help="the file to write")
    export.add_argument(
        "--batch", type=_batch, default=1, help="batch size of the file, or 'open' (default 1)"
    )
    export.add_argument(
        "--no-verify", action="store_true", help="do not compare the file's outputs with Keras'"
    )
    export.add_argument("--force", action="store_true", help="replace OUT.tflite if it exists")

    bench = _command(
        commands,
        "bench",
        _bench,
        "measure size, latency and memory of .tflite files side by side",
        "sentei bench dense.tflite pruned.tflite --runs 100",
    )
    bench.add_argument("files", metavar="FILE", nargs="+", help="the first is compared with")
    bench.add_argument("--threads", type=_positive, default=1, help="of the runtime (default 1)")
    bench.add_argument("--runs", type=_positive, default=50, help="timed rounds (default 50)")
    bench.add_argument(
        "--inputs", metavar="X.npz", type=Path, help="inputs by name; random by default"
    )

    bench.add_argument("--profile", action="store_true", help="show which operators take the time")

    inspect = _command(
        commands,
        "inspect",
        _inspect,
        "list operators, tensors, types, zeros and sizes of a file",
        "sentei inspect model.tflite",
    )
    inspect.add_argument("file", metavar="FILE", help="a .tflite, .keras or .weights.h5 file")
    return parser


def _command(
    commands: Any, name: str, run: Callable[[Any], int], purpose: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON and no more")
    parser.set_defaults(run=run)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    from sentei.demo import run

    return run(arguments.out, quick=arguments.quick, json=arguments.json, seed=arguments.seed)


def _export(arguments: argparse.Namespace) -> int:
    _check_output(arguments.out, arguments.force)
    with _working(f"exporting {arguments.model}"):
        from sentei.litert.export import export
        from sentei.litert.keras_file import load_model

        model = load_model(arguments.model)
        report = export(
            model, arguments.out, batch_size=arguments.batch, verify=not arguments.no_verify
        )
    return _show(report, arguments.json)


def _bench(arguments: argparse.Namespace) -> int:
    with _only_our_output():
        from sentei.litert.benchmarking import benchmark, read_inputs

        inputs = None if arguments.inputs is None else read_inputs(arguments.inputs)
        results = benchmark(arguments.files, inputs, arguments.threads, arguments.runs)
    if not arguments.profile or arguments.json:
        return _show(results, arguments.json)
    from sentei.litert import tables

    tables.show(*results.tables(), *results.profiles())
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    with _only_our_output():
        from sentei.litert.inspect import inspect

        found = inspect(arguments.file)
    return _show(found, arguments.json)


def _prepare_process() -> None:
    """Sets what must be set before Keras is imported, and makes a kind `kill` clean up."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(_TERMINATED)

    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        signal.signal(signal.SIGTERM, terminate)


def _check_output(path: Path, force: bool) -> None:
    """Refuses before the long work what would fail after it."""
    if path.is_dir():
        raise SenteiError(f"{path} is a directory. Give the path of the file to write.")
    if not path.parent.is_dir():
        raise SenteiError(f"the folder {path.parent} does not exist. Create it first.")
    if path.exists() and not force:
        raise SenteiError(f"{path} exists. Give another path, or --force to replace it.")


@contextlib.contextmanager
def _only_our_output() -> Iterator[None]:
    """Sends what libraries print to the error stream, so that `--json` stays pure."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _working(on: str) -> Iterator[None]:
    """Shows on a terminal that work goes on."""
    from rich.console import Console

    console = Console(stderr=True, markup=False)
    spinner = console.status(on) if console.is_terminal else contextlib.nullcontext()
    with spinner, _only_our_output():
        yield


def _show(result: _Result, as_json: bool) -> int:
    """Prints a result."""
    if as_json:
        sys.stdout.write(json.dumps(result.to_dict(), indent=2) + "\n")
    elif hasattr(result, "tables"):
        from sentei.litert import tables

        tables.show(*result.tables())
    else:
        sys.stdout.write(f"{result}\n")
    sys.stdout.flush()
    return 0


def _complain(message: str, status: int = _FAILED) -> int:
    line = " ".join(message.split())
    sys.stderr.write(f"sentei: error: {line}\n")
    return status


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, received {text!r}")
    return int(text)


def _batch(text: str) -> int | None:
    return None if text == "open" else _positive(text)


if __name__ == "__main__":
    sys.exit(main())
