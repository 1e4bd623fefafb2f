"""What quantization-aware training costs: its step over the plain one, per backend.

Measured like the cost of pruning (see prune_overhead.py): both models in one process, in turns. The
quantized model is calibrated and its ranges move along with the batches.

    python benchmarks/qat_overhead.py                     # every backend it finds
    python benchmarks/qat_overhead.py --backend jax       # this interpreter, one backend

Writes benchmarks/results/qat_overhead.json and .md.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from prune_overhead import Rule, main


def quantize(model: Any, steps: int) -> Any:
    """The model with int8 weights and activations, compiled like itself."""
    import keras
    import numpy as np

    import sentei
    from sentei.quantization import Custom

    shape = model.input_shape[1:]
    samples = np.random.default_rng(1).normal(size=(64, *shape)).astype("float32")
    qmodel = sentei.quantize(model, Custom(ranges="moving"), calibration=samples)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel.compile(keras.optimizers.Adam(1e-3), loss)
    return qmodel


def weights(model: Any) -> int:
    """How many weights train."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


QUANTIZATION = Rule(
    __file__,
    "quantized",
    "int8 quantization (moving ranges)",
    {"resnet20": (5, 11, 1.25), "dense_300_100": (100, 21, None)},
    quantize,
    weights,
)

if __name__ == "__main__":
    sys.exit(main(QUANTIZATION))
