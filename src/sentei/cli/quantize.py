"""`sentei quantize`."""

import argparse
from pathlib import Path
from typing import Any

from sentei.cli.arguments import check_output, command
from sentei.cli.output import show, working
from sentei.core.errors import SenteiError

_MODES = (
    "float16",
    "dynamic",
    "weight-only-int8",
    "int4",
    "int4-block32",
    "int8",
    "int16x8",
)


def add(commands: Any) -> None:
    """Describes the command.

    Args:
        commands: Where the commands are listed.
    """
    parser = command(
        commands,
        "quantize",
        run,
        "store a float .tflite file of any origin in fewer bits, and run both side by side",
        "sentei quantize model.tflite small.tflite --mode int8 --calibration samples.npz",
    )
    parser.add_argument("file", metavar="IN.tflite", type=Path, help="the float file")
    parser.add_argument("out", metavar="OUT.tflite", type=Path, help="the file to write")
    parser.add_argument(
        "--mode", choices=_MODES, default="dynamic", help="how to store it (default dynamic)"
    )
    parser.add_argument(
        "--calibration",
        metavar="DATA.npz",
        type=Path,
        help="sample inputs, an array per input by name (.npz) or of the one input (.npy); "
        "int8 and int16x8 need them",
    )
    parser.add_argument(
        "--no-verify", action="store_true", help="do not compare the outputs of the two files"
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
    samples = None if arguments.calibration is None else _samples(arguments.calibration)
    with working(f"quantizing {arguments.file}"):
        from sentei.litert.post import quantize_file

        report = quantize_file(
            arguments.file,
            arguments.out,
            arguments.mode,
            calibration=samples,
            verify=not arguments.no_verify,
        )
    return show(report, arguments.json)


def _samples(path: Path) -> Any:
    """Reads sample inputs: a dict by name from .npz (its values, if there is one), else an array.

    Args:
        path: The file.

    Raises:
        SenteiError: It is no file of arrays.
    """
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise SenteiError(f"{path}: no such file. Check the path.") from None
    except (OSError, ValueError, EOFError) as error:
        raise SenteiError(
            f"{path} holds no arrays that numpy can read ({' '.join(str(error).split())}). Write "
            "it with numpy.savez(path, input_name=array)."
        ) from None
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        try:
            arrays = {name: loaded[name] for name in loaded.files}
        except (ValueError, OSError) as error:
            raise SenteiError(f"{path} is damaged: {' '.join(str(error).split())}.") from None
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays
