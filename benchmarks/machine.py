"""What a benchmark that trains makes of this machine: its backend, and its cores.

Imported before Keras. On the processors these benchmarks were measured on PyTorch trains ten times
as fast as JAX, whose convolutions for CPUs are slow; so it is the backend wherever it is installed,
unless KERAS_BACKEND says otherwise.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

_ASKED_FOR = "KERAS_BACKEND" in os.environ
os.environ.setdefault("KERAS_BACKEND", "torch" if importlib.util.find_spec("torch") else "jax")


def refuse_hours() -> None:
    """Ends the program, with what to do, if it would train for hours because PyTorch is missing.

    Raises:
        SystemExit: if PyTorch is not installed and no backend was asked for.
    """
    if os.environ["KERAS_BACKEND"] != "torch" and not _ASKED_FOR:
        raise SystemExit(
            "This trains for up to an hour on PyTorch, which is not installed, and for many on "
            "JAX. With PyTorch: `make .venv-bench/.installed`, then `.venv-bench/bin/python "
            f"{sys.argv[0]}`. Just to see it run: --quick. On JAX all the same: KERAS_BACKEND=jax."
        )


def side_by_side(*runs: list[str]) -> None:
    """Runs this program several times at once, each on its share of the cores.

    Args:
        runs: the arguments of each.

    Raises:
        SystemExit: if one fails; the others are stopped.
    """
    threads = str(max(1, (os.cpu_count() or 1) // len(runs)))
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    begun = [subprocess.Popen([sys.executable, sys.argv[0], *run], env=environment) for run in runs]
    try:
        for run, process in zip(runs, begun, strict=True):
            if process.wait():
                raise SystemExit(f"{sys.argv[0]} {' '.join(run)} failed")
    finally:
        for process in begun:
            process.terminate()
