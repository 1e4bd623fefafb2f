"""Keras model → StableHLO: the graph that the converter reads, traced by JAX at inference."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import keras
import numpy as np

from sentei.core.errors import ExportError, SenteiError, UnsupportedModel
from sentei.core.select import sublayers
from sentei.litert.composite import emitting, on_grids, quantizers_of
from sentei.litert.precision import full_precision
from sentei.litert.rewrite import rewritten
from sentei.litert.rewrites.folding import known_weights
from sentei.litert.signature import Signature, TensorSpec, name_outputs


@dataclass(frozen=True)
class Graph:
    """A traced model.

    Invariants:
        The module's `main` takes the weights first, in order, then the inputs, in order.

    Attributes:
        stablehlo: The module as MLIR text. The weights are arguments, so it stays small.
        weights: The weights' values.
        inputs: The specs of the inputs.
        outputs: The specs of the outputs.
        layers: The names of all layers of the model, which the text's locations mention.
        quantized: Whether tensors are marked as integers (see `composite`).
    """

    stablehlo: str
    weights: tuple[np.ndarray, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: frozenset[str]
    quantized: bool = False


def trace(model: Any, signature: Signature) -> Graph:
    """Traces a built model at inference, in float32, as the converter can take it.

    Args:
        model: The model, on the JAX backend.
        signature: What it is called with, with a fixed batch size.

    Returns:
        The graph.

    Raises:
        UnsupportedModel: A layer cannot be exported; the message names it and the reason.
        ExportError: The model's own code fails while it is traced.
    """
    quantizers = quantizers_of(model)
    with (
        _tracing(model, signature),
        full_precision(model),
        rewritten(model),
        emitting(quantizers),
    ):
        forward, weights, names = _forward(model, signature, stateless=True, quantizers=quantizers)
        stage = jax.jit(forward, keep_unused=True).trace(weights, _specs(signature.inputs))
        outputs = tuple(
            TensorSpec(name, tuple(out.shape), np.dtype(out.dtype).name)
            for name, out in zip(names, stage.out_info, strict=True)
        )
        # The converter knows what CPUs run; lowered for a GPU the graph may hold its own calls.
        lowered = stage.lower(lowering_platforms=("cpu",))
        return Graph(
            stablehlo=lowered.as_text(debug_info=True),
            weights=tuple(np.asarray(weight) for weight in weights),
            inputs=signature.inputs,
            outputs=outputs,
            layers=frozenset(layer.name for layer, _ in sublayers(model)),
            quantized=bool(quantizers),
        )


def compiled(
    model: Any, signature: Signature
) -> Callable[[Sequence[np.ndarray]], dict[str, np.ndarray]]:
    """Compiles the model as it is, not rewritten, for the comparison with the file.

    Args:
        model: The model, on the JAX backend.
        signature: What it is called with, with a fixed batch size.

    Returns:
        A function from one array per input to the outputs by name.

    Raises:
        ExportError: The model's own code fails while it is traced.
    """
    cpu = jax.devices("cpu")[0]
    with _tracing(model, signature), full_precision(model), jax.default_device(cpu):
        forward, weights, names = _forward(model, signature, stateless=False)
        arrays = [np.asarray(weight) for weight in weights]
        lowered = jax.jit(forward).lower(arrays, _specs(signature.inputs))
        program = _quickly_compiled(lowered)

    def run(inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        results = program(arrays, list(inputs))
        return {name: np.asarray(value) for name, value in zip(names, results, strict=True)}

    return run


def _quickly_compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles what will run a few times only, so that optimizing it would cost more than it saves.

    For MobileNetV2 that is 0.3 s of processor time instead of 1.0 s.
    """
    options = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:  # XLA's options come and go.
        return lowered.compile()


def _forward(
    model: Any, signature: Signature, *, stateless: bool, quantizers: Sequence[Any] = ()
) -> tuple[Callable[..., list[Any]], list[Any], list[str]]:
    """The model as a pure function of its weights and inputs; the weights' values; output names.

    The names are known, and filled in, once the function has been traced. With `stateless`, a model
    that moves its variables is refused; not rewritten, even one whose random draws are never used
    does (a recurrent layer with dropout). With quantizers, the weights are on their grids, and the
    rules see their numbers.
    """
    variables = list(model.variables)
    weights = [variable.value for variable in variables]
    numbers: list[np.ndarray] = []
    if quantizers:
        weights = numbers = on_grids(quantizers, variables)
    names: list[str] = []

    def forward(weights: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        scope = keras.StatelessScope(list(zip(variables, weights, strict=True)))
        before = dict(scope.state_mapping)
        with scope, known_weights(weights if quantizers else [], numbers):
            result = signature.call(model, inputs)
        if stateless:
            _refuse_state(model, variables, before, scope.state_mapping)
        names[:] = name_outputs(model, result)
        return keras.tree.flatten(result)

    return forward, weights, names


def _refuse_state(
    model: Any, variables: Sequence[Any], before: dict[int, Any], after: dict[int, Any]
) -> None:
    """A file computes the same at every call; a model that moves its variables does not."""
    moved = {key for key, value in after.items() if before.get(key) is not value}
    if not moved:
        return
    paths = [variable.path for variable in variables if id(variable) in moved]
    what = ", ".join(map(repr, paths)) or "the state of a stateful layer"
    raise UnsupportedModel(
        f"Model {model.name!r} changes {what} when it is called at inference: it draws random "
        "numbers or keeps state from call to call, which the exported graph cannot. Do so only "
        "when `training` is true, or build the model without it (stateful=False)."
    )


def _specs(inputs: Sequence[TensorSpec]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(spec.shape, spec.dtype) for spec in inputs]


@contextmanager
def _tracing(model: Any, signature: Signature) -> Iterator[None]:
    """32-bit tracing in which an error of the model's own code becomes one clear sentence."""
    filtering = keras.config.is_traceback_filtering_enabled()
    # Keras' filter wraps tracer errors in ways that hide them ("no attribute '_error_repr'").
    keras.config.disable_traceback_filtering()
    try:
        with (
            # JAX warns of each 64-bit number it narrows, which is what is wanted here.
            warnings.catch_warnings(action="ignore"),
            jax.enable_x64(False),
            jax.default_matmul_precision("highest"),
            _scopes_only(),
        ):
            yield
    except SenteiError:
        raise
    except Exception as error:
        where = _innermost_layer(error) or f"model {model.name!r}"
        inputs = ", ".join(map(str, signature.inputs))
        raise ExportError(
            f"Tracing {where} failed, called with {inputs}: {type(error).__name__}: "
            f"{_shortened(error)} {_advice(model, error)}"
        ) from None
    finally:
        if filtering:
            keras.config.enable_traceback_filtering()


@contextmanager
def _scopes_only() -> Iterator[None]:
    """Lets locations hold Keras' layer names without the Python lines that led there.

    The converter's messages then begin with the layer's name, and the text is half as long.
    """
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)


def _innermost_layer(error: BaseException) -> str | None:
    """Names the layer in whose `call` an error arose."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "call" and frame.f_code.co_varnames:
            owner = frame.f_locals.get(frame.f_code.co_varnames[0])
            if isinstance(owner, keras.Layer):
                found = f"layer {owner.name!r} ({type(owner).__name__})"
    return found


def _advice(model: Any, error: Exception) -> str:
    """What to do about an error of the model's own code."""
    if isinstance(error, jax.errors.JAXTypeError):
        return "Its Python code looks at a tensor's values: use keras.ops.where or keras.ops.cond."
    if not hasattr(model, "inputs"):
        return "If the model takes other inputs than these, pass signature=."
    return "Layers must compute with keras.ops to be traced."


def _shortened(error: BaseException, limit: int = 300) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{text}." if len(text) <= limit else f"{text[: limit - 3]}..."
