"""The command line: translates arguments into calls of the library, and errors into one line.

Each command is a module here with two functions: `add` describes its arguments, `run` does the job.
Nothing heavy is imported before a command needs it, so `sentei --help` answers at once.
"""

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from sentei import __version__
from sentei.cli import advise, bench, compress, demo, doctor, export, inspect, packing, quantize
from sentei.cli.arguments import Parser
from sentei.core.errors import SenteiError

# In the order in which the help lists them.
_COMMANDS = (demo, export, quantize, compress, advise, bench, doctor, inspect, packing)
_FAILED, _INTERRUPTED, _TERMINATED, _PIPE_CLOSED = 1, 130, 143, 141


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


def _parser() -> Parser:
    parser = Parser(
        prog="sentei",
        description="Make Keras models small and fast, and prove it on the real runtime.",
        epilog="Each command explains itself: sentei COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"sentei {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands)
    return parser


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


def _complain(message: str, status: int = _FAILED) -> int:
    line = " ".join(message.split())
    sys.stderr.write(f"sentei: error: {line}\n")
    return status
