"""What has no LiteRT form, with the reason: Keras layers, and JAX primitives inside any layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentei.core.errors import UnsupportedModel
from sentei.litert.rewrites.graph import Rule, Run, Step

_RANDOM = "draws random numbers at inference, and a file must answer the same each time"
_ALGEBRA = "factorizes a matrix, which LiteRT has no op for"
_PYTHON = "calls back into Python, which the runtime does not have"

# JAX primitive: what the layer does that LiteRT cannot.
_PRIMITIVES = {
    **dict.fromkeys(
        ("random_bits", "random_seed", "random_wrap", "random_split", "threefry2x32", "rng_uniform"),
        _RANDOM,
    ),
    **dict.fromkeys(
        ("cholesky", "eig", "eigh", "lu", "qr", "svd", "triangular_solve", "schur"), _ALGEBRA
    ),
    **dict.fromkeys(("pure_callback", "io_callback", "debug_callback"), _PYTHON),
    "sort": "sorts, which LiteRT has no op for",
}


def _refuse(step: Step, run: Run) -> Sequence[Any] | None:
    raise UnsupportedModel(
        f"Layer {step.layer!r} cannot be exported: it {_PRIMITIVES[step.name]} "
        f"(JAX primitive {step.name!r})."
    )


RULES: dict[str, Rule] = dict.fromkeys(_PRIMITIVES, _refuse)


def check_layers(model):
    pass
