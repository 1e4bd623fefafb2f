"""Quantization that keeps zeros and clusters: the collaborative schemes of the old toolkit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import keras

from sentei.core.errors import SenteiError
from sentei.core.projection import Projection
from sentei.keep import rules_that_keep
from sentei.quantization import Custom, quantized
from sentei.tfmot.quantization.ranges import remade
from sentei.tfmot.quantization.schemes import Default8BitQuantizeScheme


@dataclass(frozen=True)
class KeepingWish:
    """What the weights of a model shall keep while they train.

    Attributes:
        zeros: Whether zeros stay zero.
        clusters: Whether equal weights stay equal.
    """

    zeros: bool
    clusters: bool
    order = 2

    def key(self) -> str:
        """Equal for wishes that mean the same."""
        return json.dumps([self.zeros, self.clusters])

    def rules(self, model: Any, layers: Sequence[Any]) -> list[Projection]:
        """The rules, read off the weights as they are.

        Args:
            model: A built model.
            layers: Not used: a quantized model is one layer.
        """
        return rules_that_keep(model, [], self.zeros, self.clusters)


@keras.saving.register_keras_serializable("sentei_tfmot")
@dataclass(frozen=True)
class Keeping(Custom):
    """A scheme of a model whose weights shall keep something; its `compile` makes the rules.

    Attributes:
        zeros: Whether zeros stay zero.
        clusters: Whether equal weights stay equal.
    """

    zeros: bool = False
    clusters: bool = False

    @property
    def wish(self) -> KeepingWish:
        """What `sentei.tfmot.attach` looks for."""
        return KeepingWish(self.zeros, self.clusters)

    def plain(self) -> Custom:
        """The scheme without it."""
        return Custom(**{field.name: getattr(self, field.name) for field in fields(Custom)})


class Default8BitPrunePreserveQuantizeScheme(Default8BitQuantizeScheme):
    """LiteRT's 8 bits, keeping zeros (PQAT).

    Args:
        disable_per_axis: Whether kernels have one scale.
    """

    def native(self) -> Custom:
        """The scheme of `sentei.quantize` for it."""
        return Keeping(per_channel=super().native().per_channel, zeros=True)


class Default8BitClusterPreserveQuantizeScheme(Default8BitQuantizeScheme):
    """LiteRT's 8 bits, keeping clusters (CQAT) and, if asked for, zeros (PCQAT).

    Args:
        preserve_sparsity: Whether zeros stay zero.
    """

    def __init__(self, preserve_sparsity: bool = True) -> None:
        super().__init__()
        self.preserve_sparsity = preserve_sparsity

    def native(self) -> Custom:
        """The scheme of `sentei.quantize` for it."""
        return Keeping(zeros=self.preserve_sparsity, clusters=True)


def strip_clustering_cqat(to_strip: Any) -> Any:
    """A quantized model without what keeps its clusters and zeros.

    Args:
        to_strip: A quantized model, or another Keras model or layer, which has nothing to be
            stripped and is returned as it is. What is returned shares its variables.

    Returns:
        The quantized model, uncompiled.

    Raises:
        SenteiError: When it is neither (a ValueError).
    """
    if not isinstance(to_strip, keras.layers.Layer):
        raise SenteiError(
            "Expected to_strip to be a `keras.Model` or `keras.layers.Layer` instance but got: "
            f"{type(to_strip).__name__}."
        )
    layer = quantized(to_strip)
    if layer is None:
        return to_strip
    own = {name: _plain(setting) for name, setting in layer.settings.own.items()}
    return remade(to_strip, _plain(layer.scheme), own)


def _plain(setting: Any) -> Any:
    return setting.plain() if isinstance(setting, Keeping) else setting
