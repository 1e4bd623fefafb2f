"""How good predictions are, and how sure one can be that others are hardly worse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sentei.core.errors import SenteiError

Score = Callable[[np.ndarray, Any], np.ndarray]


class Judge:
    """Compares predictions with a model's own, sample by sample.

    Attributes:
        expected: What the float model predicts.
        score: Its mean score.
    """

    def __init__(self, expected: np.ndarray, labels: Any, score: Score | None) -> None:
        """Scores the float model.

        Args:
            expected: What it predicts.
            labels: Integers or one-hot rows; None: its own decisions are the right ones.
            score: Another way to score: from predictions and labels to one number a sample, the
                higher the better; None: 1 where the largest class is the label's.

        Raises:
            SenteiError: The labels do not fit the predictions.
        """
        self.expected = expected
        self._labels = None if labels is None else np.asarray(labels)
        self._score = score
        self._each = self._scores(expected)
        self.score = float(self._each.mean())

    def drop(self, found: np.ndarray) -> tuple[float, float]:
        """How much worse predictions are on average, and the standard error of that.

        Args:
            found: Predictions, of the shape of `expected`.
        """
        worse = self._each - self._scores(found)
        return float(worse.mean()), float(worse.std() / math.sqrt(len(worse)))

    def _scores(self, found: np.ndarray) -> np.ndarray:
        if self._score is not None:
            each = np.asarray(self._score(found, self._labels), np.float64)
            if each.shape != (len(found),):
                raise SenteiError(
                    f"`score` must return one number a sample, {len(found)} in all. Received: "
                    f"shape {each.shape}."
                )
            return each
        return (found.argmax(-1) == self._classes()).astype(np.float64)

    def _classes(self) -> np.ndarray:
        shape = self.expected.shape
        if len(shape) != 2 or shape[1] < 2:
            raise SenteiError(
                f"The model puts out shape {shape}, which has no classes to count right ones of. "
                "Pass score=, a function of predictions and labels that gives one number a sample."
            )
        labels = self.expected if self._labels is None else self._labels
        if labels.shape == shape:
            return np.asarray(labels.argmax(-1))
        if labels.size == len(self.expected):
            return np.asarray(labels.reshape(-1))
        raise SenteiError(
            f"The labels have shape {labels.shape}, the predictions {shape}. Give an integer or a "
            "one-hot row for each sample, or pass score=."
        )
