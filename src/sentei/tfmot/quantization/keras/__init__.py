"""`tfmot.quantization.keras`."""

from sentei.tfmot.quantization.annotate import quantize_annotate_layer, quantize_annotate_model
from sentei.tfmot.quantization.apply import quantize_apply, quantize_model, quantize_scope
from sentei.tfmot.quantization.config import QuantizeConfig
from sentei.tfmot.quantization.keras import collab_opts, default_8bit, experimental, quantizers
from sentei.tfmot.quantization.ranges import fix_input_output_range, remove_input_range
from sentei.tfmot.quantization.registry import QuantizeRegistry
from sentei.tfmot.quantization.schemes import QuantizeLayoutTransform, QuantizeScheme
from sentei.tfmot.quantization.wrapper import QuantizeWrapper, QuantizeWrapperV2

__all__ = [
    "QuantizeConfig",
    "QuantizeLayoutTransform",
    "QuantizeRegistry",
    "QuantizeScheme",
    "QuantizeWrapper",
    "QuantizeWrapperV2",
    "collab_opts",
    "default_8bit",
    "experimental",
    "fix_input_output_range",
    "quantize_annotate_layer",
    "quantize_annotate_model",
    "quantize_apply",
    "quantize_model",
    "quantize_scope",
    "quantizers",
    "remove_input_range",
]
