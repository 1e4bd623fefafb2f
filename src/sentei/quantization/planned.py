"""From a model to its plan, and from the plan to the quantizers it asks for."""

from __future__ import annotations

from typing import Any

from keras import layers as kl

from sentei.core.graph import graph_of, is_graph
from sentei.quantization.calls import Rounded, plan_subclassed
from sentei.quantization.pairs import in_pairs
from sentei.quantization.plan import Activation, Plan, Weight, plan_graph
from sentei.quantization.quantizer import ActivationQuantizer, FixedQuantizer, Quantizer
from sentei.quantization.settings import Settings
from sentei.quantization.weight_quantizer import WeightQuantizer


def plan_of(model: Any, settings: Settings, specs: Any) -> tuple[Plan, dict[str, Rounded]]:
    """The grids of a model; of a subclassed one also what is rounded at each call of a layer.

    Args:
        model: A built Keras model.
        settings: The scheme of each layer.
        specs: What a subclassed model is called with; see `calls.specs_of`.
    """
    if is_graph(model):
        graph = in_pairs(graph_of(model), lambda *layer: settings.scheme_of(*layer) is not None)
        return plan_graph(model, graph, settings.scheme_of), {}
    return plan_subclassed(model, specs, settings.scheme_of)


def quantizers_of(plan: Plan) -> dict[str, Quantizer]:
    """The quantizers of a plan by name: weights first, then activations without ranges.

    Args:
        plan: The plan.
    """
    found: dict[str, Quantizer] = {}
    for weight in plan.weights:
        found[weight.label] = _weight_quantizer(weight, len(found))
    for label, activation in plan.activations.items():
        if activation.weight is None:
            found[label] = _activation_quantizer(activation, len(found))
    return found


def _weight_quantizer(weight: Weight, number: int) -> WeightQuantizer:
    quantizer = WeightQuantizer(
        weight.kind, label=weight.label, learned=weight.steps == "learned", name=f"grid_{number}"
    )
    quantizer.watch(weight.variable)
    depthwise = getattr(weight.layer, "depthwise_kernel", None)  # of a separable convolution
    quantizer.depthwise = weight.variable is depthwise or isinstance(
        weight.layer, (kl.DepthwiseConv1D, kl.DepthwiseConv2D)
    )
    return quantizer


def _activation_quantizer(activation: Activation, number: int) -> Quantizer:
    name, label, scheme = f"grid_{number}", activation.label, activation.scheme
    if activation.fixed is not None:
        scale, zero = activation.fixed
        return FixedQuantizer(activation.kind, scale=scale, zero_point=zero, label=label, name=name)
    return ActivationQuantizer(
        activation.kind,
        label=label,
        ranges=scheme.ranges,
        momentum=scheme.momentum,
        frozen_after=scheme.frozen_after,
        name=name,
    )
