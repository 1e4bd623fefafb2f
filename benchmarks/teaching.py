"""Training towards what another network says (Hinton et al. 2015, arXiv:1503.02531)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from sentei.litert.runtime import Runner

TEMPERATURE = 2.0


class Teacher:
    """A network's logits; the runtime is faster than the backends here.

    Args:
        path: its file, of one output.
    """

    def __init__(self, path: Path) -> None:
        # More threads than processors this process may use would be in each other's way.
        self._runner = Runner(path, threads=len(os.sched_getaffinity(0)))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """What it says of images."""
        (logits,) = self._runner(images).values()
        return logits


def distance(taught: Any, said: Any) -> Any:
    """Kullback and Leibler's divergence of two networks' classes (last axis), at a temperature."""
    taught, said = (ops.log_softmax(logits / TEMPERATURE) for logits in (taught, said))
    return TEMPERATURE**2 * ops.mean(ops.sum(ops.exp(taught) * (taught - said), axis=-1))
