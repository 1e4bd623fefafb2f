"""A Keras callback that moves the price of bits towards a size."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from sentei.core.errors import SenteiError
from sentei.quantization.rate.log import priced, rate_report

# Weights follow a price slowly, and their bytes fall with a small power of it: a higher power than
# this makes them swing around the goal. And how far the price may move at one epoch's end.
_POWER, _LEAST, _MOST = 2.0, 0.75, 4 / 3


class RateTarget(keras.callbacks.Callback):
    """Moves the price of bits epoch by epoch, so that the weights take so many bytes in the end.

    At each epoch's end all prices are multiplied by the square of how much larger the weights
    are than they should be by then, by 0.75 to 1.33. Should: on a straight line from where they
    begin to `size`, which is reached after the share `by` of the epochs. The prices given to
    `Custom(rate=...)` are where the search begins. It needs about ten epochs or more (for a data
    set seen fewer times, give `fit` more epochs of fewer steps each).

    Args:
        size: Bytes of all weights that have a price, as `rate_report` estimates them. What else the
            file holds (the graph, batch normalizations, other weights) comes on top.
        by: After which share of the epochs, above 0 and at most 1. Leave some for a learning rate
            that ends near zero: prices move nothing any more then.
        start: Where the line begins, in bytes; by default what the weights take when training
            begins. Give it where training may be stopped and resumed.

    Raises:
        SenteiError: An argument is out of range, or (when training begins) no weight has a price
            above 0.
    """

    def __init__(self, size: float, *, by: float = 0.8, start: float | None = None) -> None:
        super().__init__()
        self.start = size if start is None else start
        for name, given in (("size", size), ("start", self.start)):
            if not 0 < given < float("inf"):
                raise SenteiError(f"`{name}` must be a number of bytes above 0. Received: {given}.")
        if not 0 < by <= 1:
            raise SenteiError(f"`by`, a share of the epochs, must be in (0, 1]. Received: {by}.")
        self.size, self.by, self.given = size, by, start is not None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Sees where the weights begin."""
        if not any(quantizer.price for _, quantizer in priced(self.model)):
            raise SenteiError(
                "All prices are 0, and no factor moves them. Quantize the model with one above 0: "
                "Custom(activation_bits=None, rate=0.01)."
            )
        if not self.given:
            self.start = rate_report(self.model).bits / 8

    def goal(self, done: float) -> float:
        """Bytes that the weights should take.

        Args:
            done: After which share of the epochs.
        """
        return self.start + (self.size - self.start) * min(1.0, done / self.by)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves the prices."""
        goal = self.goal((epoch + 1) / self.params["epochs"])
        off = rate_report(self.model).bits / 8 / goal
        change = float(np.clip(off**_POWER, _LEAST, _MOST))
        for _, quantizer in priced(self.model):
            quantizer.factor.assign(quantizer.factor * change)
            if logs is not None:
                logs["price_factor"] = float(quantizer.factor)
