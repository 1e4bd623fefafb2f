"""What the converter could not do, in the words of Keras layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# What the converter writes as operators of the runtime; the rest of a module's operations are
# either leftovers of StableHLO (some of which the runtime has, too) or calls into TensorFlow.
_LOOPS = ("tfl.while", "tfl.if", "tfl.custom")
_MOST_LINES = 6
_CHATTER = re.compile(
    # Logs, empty frames of messages, and an advice that holds for TensorFlow models only.
    r"WARNING: All log|[IW]\d{4} |INFO:|VERBOSE:|Failed to .*:$|Details:$|TF Select"
    r"|Some ops are not|.* note: |\^$"
)
_LOCATION = re.compile(r"loc\(.*?\): ")
_NATIVE = ("tfl.", "func.", "arith.", "builtin.", "quant.")


@dataclass(frozen=True)
class Leftover:
    """An operation that the converter left as it was.

    Attributes:
        operation: Its name, such as `"stablehlo.sort"`.
        layer: The Keras layer it came from, or None when that is not known.
    """

    operation: str
    layer: str | None

    def __str__(self) -> str:
        return self.operation + (f" (layer {self.layer!r})" if self.layer else "")


def find_leftovers(module: Any, layers: frozenset[str]) -> tuple[Leftover, ...]:
    """Finds the operations of a converted module that are not the runtime's own.

    Loops count, too: the file writer refuses those that pass weights in, without a word.

    Args:
        module: The MLIR module after the converter's passes.
        layers: The names of the model's layers.

    Returns:
        The operations, each once per layer, in the order of the graph.
    """
    from litert_converter.mlir import ir

    found: dict[Leftover, None] = {}

    def visit(operation: Any) -> Any:
        name = operation.name
        native = name.startswith(_NATIVE) and name not in _LOOPS
        if not native and not name.endswith(".return"):
            found[Leftover(name, layer_of_operation(operation, layers))] = None
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return tuple(found)


def layer_of_operation(operation: Any, layers: frozenset[str]) -> str | None:
    """Finds the innermost Keras layer that an MLIR operation came from.

    Args:
        operation: The operation.
        layers: The names of the model's layers.

    Returns:
        The layer's name, or None when that is not known.
    """
    return layer_of(str(operation.location), layers)


def layer_of(location: str, layers: frozenset[str]) -> str | None:
    """Finds the innermost Keras layer in an MLIR location.

    JAX names each operation by its scopes, and Keras opens one per layer:
    `loc("jit(forward)/functional/encoder/attention/dot_general")`.

    Args:
        location: The printed location.
        layers: The names of the model's layers.

    Returns:
        The layer's name, or None when no scope of the location is a layer.
    """
    for path in re.findall(r'"([^"]*/[^"]*)"', location):
        for scope in reversed(path.split("/")):
            if scope in layers:
                return scope
    return None


def listener(said: list[str], layers: frozenset[str]) -> Callable[[Any], bool]:
    """A diagnostic handler that keeps the errors and lets nothing through to the terminal."""
    from litert_converter.mlir import ir

    def listen(note: Any) -> bool:
        if note.severity == ir.DiagnosticSeverity.ERROR:
            layer = layer_of(str(note.location), layers)
            said.append(note.message + (f" (layer {layer!r})" if layer else ""))
        return True

    return listen


def refusal(words: Sequence[str], leftovers: Sequence[Leftover], layers: frozenset[str]) -> str:
    """One paragraph of what the converter said, and what it is about."""
    lines: dict[str, None] = {}
    for line in "\n".join(words).splitlines():
        where, _, reason = line.rpartition("error: ")
        reason = " ".join(_LOCATION.sub("", reason).split())
        if not reason or _CHATTER.match(reason):
            continue
        layer = layer_of(where + line, layers)
        about = f" (layer {layer!r})" if layer else ""
        lines[(reason if len(reason) <= 200 else reason[:197] + "...") + about] = None
    kept = list(lines)[:_MOST_LINES]
    about = ", ".join(map(str, leftovers[:_MOST_LINES]))
    return (
        "The converter refuses the model"
        + (f" because of {about}" if about else "")
        + (". It says: " + "; ".join(kept) if kept else ", and gives no reason")
        + ". Replace these layers, or split the model before them."
    )
