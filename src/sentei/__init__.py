"""sentei: make Keras 3 models small and fast, and prove it on the real runtime."""

import os
import sys
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# One public door. Each name lives in the room on the right and is imported on first use, so that
# `import sentei` costs nothing and never drags in the converter, the runtime or another framework.
_HOME = {
    "Projected": "sentei.core.project",
    "prune": "sentei.sparsity.prune",
    "cluster": "sentei.clustering.cluster",
    "preserve": "sentei.keep",
    "quantize": "sentei.quantization.quantize",
    "strip": "sentei.core.install",
    "update_batch_norm": "sentei.core.batch_norm",
    "export": "sentei.litert.export",
    "benchmark": "sentei.litert.benchmarking",
    "diagnose": "sentei.litert.doctor",
    "inspect": "sentei.litert.inspect",
    "pack": "sentei.codec.packing",
    "unpack": "sentei.codec.unpacking",
    "quantize_file": "sentei.litert.post",
    "compress": "sentei.compression.search",
    "advise": "sentei.advice.advise",
}
_ROOMS = (
    "core",
    "sparsity",
    "clustering",
    "quantization",
    "codec",
    "litert",
    "compression",
    "advice",
    "tfmot",
)

__all__ = [*sorted(_HOME), "clustering", "codec", "quantization", "sparsity"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _ROOMS:
        value = import_module(f"sentei.{name}")
    else:
        raise AttributeError(f"module 'sentei' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _is_command_line() -> bool:
    """Whether this process is `sentei ...` or `python [options] -m sentei[.module] ...`."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word == "-m":
            return next(words, "").split(".")[0] == "sentei"
        if word in ("-X", "-W"):
            next(words, "")
        elif not word.startswith("-") or word == "-c":
            return os.path.basename(word) in ("sentei", "sentei.exe")
    return False


# A model saved in the middle of training holds classes of sentei: Keras must know them as soon as
# sentei is imported. The command line waits, for it picks a Keras backend before it loads Keras.
if not _is_command_line():
    import_module("sentei.sparsity")
    import_module("sentei.clustering")
    import_module("sentei.quantization")
