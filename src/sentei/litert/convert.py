"""StableHLO → `.tflite` bytes, by the LiteRT converter, with its faults named."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from sentei.core.errors import ExportError
from sentei.litert.batch import open_batch
from sentei.litert.refusal import Leftover, find_leftovers, layer_of_operation, listener, refusal
from sentei.litert.stderr import captured_stderr
from sentei.litert.trace import Graph

_SIGNATURE = "serving_default"
_HALF = ("float16", "bfloat16")


def convert(graph: Graph, path: Path, larger: Graph | None = None) -> tuple[Leftover, ...]:
    """Converts a traced graph and writes the file.

    Args:
        graph: The graph.
        path: Where to write the `.tflite` file.
        larger: The same model with another batch size (see `batch.BATCH_SIZES`), to leave the batch
            open.

    Returns:
        The operations of the file that the runtime may not have.

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
            context.attach_diagnostic_handler(listener(said, graph.layers))
            try:
                module = _run_passes(graph)
                leftovers = find_leftovers(module, graph.layers)
                if larger is not None:
                    name_layer = partial(layer_of_operation, layers=graph.layers)
                    open_batch(module, _run_passes(larger), name_layer)
                api.export_flatbuffer_to_file(module.operation, str(path))
            except ExportError:
                raise
            except (ValueError, RuntimeError, ir.MLIRError) as error:
                reason = refusal([str(error), *said, chatter()], leftovers, graph.layers)
                raise ExportError(reason) from None
    del module, context
    _return_memory()
    _clear_negative_zeros(path)
    return leftovers


def _run_passes(graph: Graph) -> Any:
    """Reads a graph into the current MLIR context and turns it into the runtime's operators."""
    from litert_converter import converter_api_ext as api
    from litert_converter.mlir import ir, passmanager

    module = ir.Module.parse(graph.stablehlo)
    _bind_weights(module, graph.weights)
    names = [[spec.name for spec in specs] for specs in (graph.inputs, graph.outputs)]
    api.set_signature(module.operation, _SIGNATURE, *names)
    module = api.merge_modules([module])
    config = api.ConvertToTFLConfig()
    config.strict_qdq_mode = graph.quantized
    api.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
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

    # Not np.ascontiguousarray: it makes a vector of a scalar.
    return ir.DenseElementsAttr.get(np.asarray(value, order="C"), signless=value.dtype.kind != "u")


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


def _clear_negative_zeros(path: Path) -> None:
    """Writes every -0.0 among the weights as 0.0, in place.

    Folding a batch norm multiplies a pruned weight by a factor that may be negative. The products
    are equal to zero, but a stray sign bit per weight is what makes zeros compress badly.
    """
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        model = schema.Model.GetRootAs(data, 0)
        for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
            for tensor in map(graph.Tensors, range(graph.TensorsLength())):
                buffer = model.Buffers(tensor.Buffer())
                if tensor.Type() == schema.TensorType.FLOAT32 and buffer.DataLength():
                    _clear(buffer.DataAsNumpy())


def _clear(data: np.ndarray) -> None:
    values = data.view(np.float32)
    values += np.float32(0.0)


def _return_memory() -> None:
    """Gives the memory that the converter has freed back to the system.

    It frees several times the size of the model in small pieces, which the C library would keep
    for later, while XLA asks for its own from elsewhere.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # GNU/Linux; other C libraries do so by themselves.
        trim(0)
