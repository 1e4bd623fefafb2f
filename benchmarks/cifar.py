"""CIFAR-10 as the benchmarks train and test on it: augmented batches, and accuracy of a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import data
import keras
import numpy as np
import pretrained

from sentei.litert.runtime import Runner

BATCH = 128


class Batches(keras.utils.PyDataset):
    """Training images, shifted by up to 4 pixels and mirrored half of the time.

    Args:
        split: the data.
        steps: how many batches an epoch.
    """

    def __init__(self, split: data.Split, steps: int) -> None:
        super().__init__()
        self.split, self.steps, self.begin = split, steps, 0

    def __len__(self) -> int:
        return self.steps

    def on_epoch_end(self) -> None:
        """Moves on."""
        self.begin += self.steps

    def move_to(self, epoch: int) -> None:
        """Gives the batches of an epoch, counted from 0, as if those before it had been seen."""
        self.begin = epoch * self.steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(self.begin + index)
        chosen = random.integers(0, len(self.split.x_train), BATCH)
        padded = np.pad(self.split.x_train[chosen], ((0, 0), (4, 4), (4, 4), (0, 0)))
        images = np.empty((BATCH, 32, 32, 3), np.uint8)
        for i, (top, left, mirrored) in enumerate(random.integers(0, [9, 9, 2], (BATCH, 3))):
            image = padded[i, top : top + 32, left : left + 32]
            images[i] = image[:, ::-1] if mirrored else image
        return pretrained.normalized(images), self.split.y_train[chosen]


def compiled(model: Any, steps: int, rate: float) -> Any:
    """The model, compiled with Adam and a learning rate that falls to zero along a cosine."""
    decay = keras.optimizers.schedules.CosineDecay(rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(decay), loss, metrics=["accuracy"])
    return model


def fit(model: Any, split: data.Split, steps: int) -> None:
    """Trains a compiled model, with progress."""
    model.fit(Batches(split, steps), verbose=1 if sys.stdout.isatty() else 2)


def accuracy(path: Path, split: data.Split, images: int) -> float:
    """The share of the first test images that a file gets right."""
    runner = Runner(path, threads=os.cpu_count() or 1)
    right = 0
    for i in range(images):
        (logits,) = runner(pretrained.normalized(split.x_test[i : i + 1])).values()
        right += int(logits.argmax() == split.y_test[i])
    return right / images
