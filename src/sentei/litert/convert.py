"""StableHLO → `.tflite` bytes, by the LiteRT converter, with its faults named."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from sentei.core.errors import ExportError
from sentei.litert.batch import open_batch
from sentei.litert.stderr import captured_stderr
from sentei.litert.trace import Graph

_SIGNATURE = "serving_default"
# What the converter writes as operators of the runtime; the rest of a module's operations are
# either leftovers of StableHLO (some of which the runtime has, too) or calls into TensorFlow.
_HALF = ("float16", "bfloat16")
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


@dataclass(frozen=True)
class Converted:
    """What the converter made.

    Attributes:
        content: The `.tflite` file's bytes.
        leftovers: The operations that the runtime may not have, each once.
    """

    content: bytes
    leftovers: tuple[Leftover, ...]


def convert(graph: Graph, larger: Graph | None = None) -> Converted:
    """Converts a traced graph.

    Args:
        graph: The graph.
        larger: The same model with another batch size (see `batch.BATCH_SIZES`), to leave the batch
            open.

    Returns:
        The file's bytes, and what in them may not run.

    Raises:
        ExportError: The converter refuses the graph; the message holds its own words and names the
            Keras layers they are about where that is known.
    """
    with captured_stderr() as chatter:
        # Even importing the converter writes to the terminal.
        from litert_converter import converter_api_ext as api
        from litert_converter.mlir import ir

        context = ir.Context()
        api.prepare_mlir_context(context)
        said: list[str] = []
        leftovers: tuple[Leftover, ...] = ()
        with context, ir.Location.unknown():
            context.attach_diagnostic_handler(_listener(said, graph.layers))
            try:
                module = _run_passes(graph)
                leftovers = find_leftovers(module, graph.layers)
                if larger is not None:
                    name_layer = partial(_layer_of_operation, layers=graph.layers)
                    open_batch(module, _run_passes(larger), name_layer)
                content = api.export_flatbuffer_to_bytes(module.operation)
            except ExportError:
                raise
            except (ValueError, RuntimeError, ir.MLIRError) as error:
                reason = _refusal([str(error), *said, chatter()], leftovers, graph.layers)
                raise ExportError(reason) from None
    return Converted(_without_negative_zeros(content), leftovers)


def _run_passes(graph: Graph) -> Any:
    """Reads a graph into the current MLIR context and turns it into the runtime's operators."""
    from litert_converter import converter_api_ext as api
    from litert_converter.mlir import ir, passmanager

    module = ir.Module.parse(graph.stablehlo)
    _bind_weights(module, graph.weights)
    names = [[spec.name for spec in specs] for specs in (graph.inputs, graph.outputs)]
    api.set_signature(module.operation, _SIGNATURE, *names)
    module = api.merge_modules([module])
    api.run_convert_to_tfl_passes(module, passmanager.PassManager(), api.ConvertToTFLConfig())
    return module


def _bind_weights(module: Any, weights: Sequence[np.ndarray]) -> None:
    """Replaces the first arguments of `main` by constants.

    The bytes are copied once into the converter's memory; written out in MLIR text they would take
    three times their size.
    """
    from litert_converter.mlir import ir
    from litert_converter.mlir.dialects import stablehlo

    main = next(
        operation
        for operation in module.body.operations
        if ir.StringAttr(operation.attributes["sym_name"]).value == "main"
    )
    block = main.regions[0].blocks[0]
    with ir.InsertionPoint.at_block_begin(block):
        for argument, value in zip(list(block.arguments), weights, strict=False):
            if value.dtype.name in _HALF:
                _bind_half(argument, value)
            else:
                constant = stablehlo.ConstantOp(_constant(value))
                argument.replace_all_uses_with(constant.result)
    for _ in weights:
        block.erase_argument(0)
    kind = ir.FunctionType(ir.TypeAttr(main.attributes["function_type"]).value)
    inputs = kind.inputs[len(weights) :]
    main.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get(inputs, kind.results))
    if "arg_attrs" in main.attributes:
        kept = list(ir.ArrayAttr(main.attributes["arg_attrs"]))[len(weights) :]
        main.attributes["arg_attrs"] = ir.ArrayAttr.get(kept)


def _constant(value: np.ndarray) -> Any:
    """An array as an MLIR attribute; only unsigned integers carry their sign in the type."""
    from litert_converter.mlir import ir

    return ir.DenseElementsAttr.get(np.ascontiguousarray(value), signless=value.dtype.kind != "u")


def _bind_half(argument: Any, value: np.ndarray) -> None:
    """Binds a weight stored in half precision, in float32 wherever the graph widens it anyway."""
    from litert_converter.mlir import ir
    from litert_converter.mlir.dialects import stablehlo

    constant = stablehlo.ConstantOp(_constant(value.astype(np.float32))).result
    for use in list(argument.uses):
        if use.owner.name == "stablehlo.convert" and use.owner.results[0].type == constant.type:
            use.owner.results[0].replace_all_uses_with(constant)
    narrow = stablehlo.ConvertOp(ir.RankedTensorType(argument.type), constant)
    argument.replace_all_uses_with(narrow.result)


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
            found[Leftover(name, _layer_of_operation(operation, layers))] = None
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return tuple(found)


def _layer_of_operation(operation: Any, layers: frozenset[str]) -> str | None:
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


def _listener(said: list[str], layers: frozenset[str]) -> Callable[[Any], bool]:
    """A diagnostic handler that keeps the errors and lets nothing through to the terminal."""
    from litert_converter.mlir import ir

    def listen(note: Any) -> bool:
        if note.severity == ir.DiagnosticSeverity.ERROR:
            layer = layer_of(str(note.location), layers)
            said.append(note.message + (f" (layer {layer!r})" if layer else ""))
        return True

    return listen


def _refusal(words: Sequence[str], leftovers: Sequence[Leftover], layers: frozenset[str]) -> str:
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


def _without_negative_zeros(content: bytes) -> bytes:
    """Writes every -0.0 among the weights as 0.0.

    Folding a batch norm multiplies a pruned weight by a factor that may be negative. The products
    are equal to zero, but a stray sign bit per weight is what makes zeros compress badly.
    """
    data = bytearray(content)
    model = schema.Model.GetRootAs(data, 0)
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            if tensor.Type() != schema.TensorType.FLOAT32:
                continue
            buffer = model.Buffers(tensor.Buffer())
            if buffer.DataLength():
                values = buffer.DataAsNumpy().view(np.float32)
                values += np.float32(0.0)
    return bytes(data)
