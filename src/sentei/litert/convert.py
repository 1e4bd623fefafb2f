"""StableHLO → `.tflite` bytes, by the LiteRT converter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from litert_converter import converter_api_ext
from litert_converter.mlir import ir, passmanager
from litert_converter.mlir.dialects import stablehlo

from sentei.litert.trace import Graph


def convert(graph: Graph) -> bytes:
    """Converts a traced graph.

    Args:
        graph: The graph.

    Returns:
        The `.tflite` file's bytes.
    """
    context = ir.Context()
    converter_api_ext.prepare_mlir_context(context)
    with context, ir.Location.unknown():
        module = ir.Module.parse(graph.stablehlo)
        _bind_weights(module, graph.weights)
        converter_api_ext.set_signature(
            module.operation,
            "serving_default",
            [port.name for port in graph.inputs],
            [port.name for port in graph.outputs],
        )
        merged = converter_api_ext.merge_modules([module])
        converter_api_ext.run_convert_to_tfl_passes(
            merged, passmanager.PassManager(), converter_api_ext.ConvertToTFLConfig()
        )
        return converter_api_ext.export_flatbuffer_to_bytes(merged.operation)


def _bind_weights(module: ir.Module, weights: Sequence[np.ndarray]) -> None:
    """Replaces the first arguments of `main` by constants.

    The bytes are copied once into the converter's memory; as MLIR text they would take nine
    characters a weight.
    """
    main = next(
        op
        for op in module.body.operations
        if ir.StringAttr(op.attributes["sym_name"]).value == "main"
    )
    block = main.regions[0].blocks[0]
    with ir.InsertionPoint.at_block_begin(block):
        for argument, value in zip(list(block.arguments), weights, strict=False):
            constant = stablehlo.ConstantOp(ir.DenseElementsAttr.get(value))
            argument.replace_all_uses_with(constant.result)
    for _ in weights:
        block.erase_argument(0)
    kind = ir.FunctionType(ir.TypeAttr(main.attributes["function_type"]).value)
    main.attributes["function_type"] = ir.TypeAttr.get(
        ir.FunctionType.get(kind.inputs[len(weights) :], kind.results)
    )
    if "arg_attrs" in main.attributes:
        kept = list(ir.ArrayAttr(main.attributes["arg_attrs"]))[len(weights) :]
        main.attributes["arg_attrs"] = ir.ArrayAttr.get(kept)
