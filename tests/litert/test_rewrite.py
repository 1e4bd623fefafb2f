"""The rules: what they make computes the same, in the operators meant; the model stays as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from jax import lax
from keras import layers as kl
from keras import ops
from layer_case import add_weight_at_once, randomised
from test_layers import UNWELCOME, census, differences, run_file, run_keras

import sentei
from sentei.core.errors import UnsupportedModel
from sentei.core.select import sublayers
from sentei.litert.rewrite import rewritten
from sentei.litert.rewrites import loops

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="traces on JAX")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


class Does(kl.Layer):
    """A custom layer: one function of its input."""

    def __init__(self, function: Callable[[Any], Any], **options: Any):
        super().__init__(**options)
        self.function = function

    def call(self, tensor: Any) -> Any:
        return self.function(tensor)

    def compute_output_spec(self, tensor: Any) -> Any:
        spec = jax.eval_shape(
            self.function, jax.ShapeDtypeStruct((2, *tensor.shape[1:]), tensor.dtype)
        )
        return keras.KerasTensor((tensor.shape[0], *spec.shape[1:]), dtype=spec.dtype)


def chain(shape: tuple[int, ...], *layers: Any) -> Any:
    return randomised(keras.Sequential([keras.Input(shape), *layers]))


def exported(model: Any, inputs: list[np.ndarray], folder: Path) -> tuple[Counter[str], float]:
    """The operators of a model's file, and its largest relative difference from Keras."""
    path = folder / "m.tflite"
    report = sentei.export(model, path, batch_size=len(inputs[0]), verify=False)
    actual = run_file(path, model, inputs, [spec.name for spec in report.outputs])
    return census(path), max(differences(actual, run_keras(model, inputs)))


def operators(model: Any, inputs: np.ndarray, folder: Path) -> Counter[str]:
    found, difference = exported(model, [inputs], folder)
    assert difference < 1e-4
    assert [name for name in found if name.startswith(UNWELCOME)] == []
    return found


# Operators: the point of each rule, where it is used together with others.


def test_a_signal_network_fuses_as_its_image_form_does(tmp_path: Path) -> None:
    model = chain(
        (16, 3),
        kl.Conv1D(4, 3, padding="same", use_bias=False),
        kl.BatchNormalization(),
        kl.ReLU(),
        kl.MaxPooling1D(2),
        kl.SeparableConv1D(5, 3, activation="relu6"),
        kl.AveragePooling1D(2),
        kl.GlobalAveragePooling1D(),
        kl.Dense(2),
    )
    assert operators(model, normal(2, 16, 3), tmp_path) == {
        "CONV_2D": 2,
        "DEPTHWISE_CONV_2D": 1,
        "MAX_POOL_2D": 1,
        "AVERAGE_POOL_2D": 1,
        "MEAN": 1,
        "FULLY_CONNECTED": 1,
        "RESHAPE": 2,
    }


def test_batch_norm_and_activation_fuse_into_a_cut_transposed_convolution(tmp_path: Path) -> None:
    model = chain(
        (5, 5, 2),
        kl.Conv2DTranspose(3, 3, strides=2, padding="same"),
        kl.BatchNormalization(),
        kl.ReLU(),
    )
    found = operators(model, normal(2, 5, 5, 2), tmp_path)
    assert found["ADD"] == 0
    assert found["TRANSPOSE_CONV"] == 1


def test_depthwise_convolution_and_batch_norm_fold(tmp_path: Path) -> None:
    model = chain(
        (8, 8, 3),
        kl.DepthwiseConv2D(3, padding="same", use_bias=False),
        kl.BatchNormalization(),
        kl.ReLU(6),
    )
    assert operators(model, normal(2, 8, 8, 3), tmp_path) == {"DEPTHWISE_CONV_2D": 1}


SQRT_HALF = 0.7071067811865476
GELUS = {
    "keras exact": lambda x: ops.gelu(x, approximate=False),
    "keras tanh": lambda x: ops.gelu(x, approximate=True),
    "erf": lambda x: x * 0.5 * (1.0 + ops.erf(x * SQRT_HALF)),
    "erfc": lambda x: 0.5 * x * lax.erfc(-x / 1.4142135),
    "tanh": lambda x: x * (0.5 * (1 + ops.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))),
    "recomputed in training": jax.checkpoint(lambda x: ops.gelu(x)),
    "of a shifted input": lambda x: ops.gelu(x * 0.5 + 1.0),
}


@pytest.mark.parametrize("function", GELUS.values(), ids=GELUS)
def test_gelu_is_known_however_it_is_written(
    function: Callable[[Any], Any], tmp_path: Path
) -> None:
    found = operators(chain((7,), Does(function)), normal(2, 7), tmp_path)
    assert found["GELU"] == 1
    assert set(found) <= {"GELU", "MUL", "ADD"}


NOT_GELU = {
    "clipped within": lambda x: 0.5 * ops.minimum(x, 15.0) * (1 + ops.erf(x * SQRT_HALF)),
    "clipped": lambda x: ops.minimum(ops.gelu(x), 15.0),
    "sigmoid form": lambda x: x * ops.sigmoid(1.702 * x),
    "of two tensors": lambda x: 0.5 * x * (1 + ops.erf(x[:, ::-1] * SQRT_HALF)),
}


@pytest.mark.parametrize("function", NOT_GELU.values(), ids=NOT_GELU)
def test_what_is_not_gelu_is_not_taken_for_it(
    function: Callable[[Any], Any], tmp_path: Path
) -> None:
    inputs = np.linspace(-30, 30, 14, dtype="float32").reshape(2, 7)
    _, difference = exported(chain((7,), Does(function)), [inputs], tmp_path)
    assert difference < 1e-6


def test_layer_normalization_has_nine_steps(tmp_path: Path) -> None:
    found = operators(chain((5, 8), kl.LayerNormalization()), normal(2, 5, 8), tmp_path)
    del found["RESHAPE"]
    assert found == {"MEAN": 2, "SUB": 1, "MUL": 3, "ADD": 2, "RSQRT": 1}


def test_upsampling_both_ways_is_one_operator(tmp_path: Path) -> None:
    model = chain((4, 5, 3), Does(lambda x: ops.repeat(ops.repeat(x, 2, axis=1), 3, axis=2)))
    assert operators(model, normal(2, 4, 5, 3), tmp_path) == {"RESIZE_NEAREST_NEIGHBOR": 1}


def test_a_causal_mask_is_a_constant(tmp_path: Path) -> None:
    inputs = keras.Input((6, 8))
    model = randomised(
        keras.Model(inputs, kl.MultiHeadAttention(2, 4)(inputs, inputs, use_causal_mask=True))
    )
    found = operators(model, normal(2, 6, 8), tmp_path)
    assert not set(found) & {"LESS", "GREATER_EQUAL", "RANGE", "CUMSUM", "EQUAL"}


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_mean_pooling_without_its_padding_is_the_runtimes_own(rank: int, tmp_path: Path) -> None:
    pool = getattr(kl, f"AveragePooling{rank}D")(3, strides=2, padding="same")
    shape = (7, 6, 5)[:rank]
    found = operators(chain((*shape, 2), pool), normal(2, *shape, 2), tmp_path)
    del found["RESHAPE"]
    assert found == {"AVERAGE_POOL_2D": 2 if rank == 3 else 1}


def test_pooling_with_padding_of_its_own(tmp_path: Path) -> None:
    def pool(x: Any) -> Any:
        window = ((1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
        return lax.reduce_window(x, -jnp.inf, lax.max, *window)

    found = operators(chain((8, 8, 2), Does(pool)), -1 - normal(2, 8, 8, 2) ** 2, tmp_path)
    assert found == {"PADV2": 1, "MAX_POOL_2D": 1}


@pytest.mark.parametrize("padding", [(1, 1), (2, 1), (1, 2), (0, 0), (2, 3)])
def test_transposed_convolution_with_padding_of_its_own(
    padding: tuple[int, int], tmp_path: Path
) -> None:
    weights = normal(3, 3, 2, 3, seed=1)
    numbers = ("NHWC", "HWIO", "NHWC")

    def convolve(x: Any) -> Any:
        return lax.conv_general_dilated(
            x, weights, (1, 1), (padding, padding), (2, 2), dimension_numbers=numbers
        )

    found = operators(chain((5, 5, 2), Does(convolve)), normal(2, 5, 5, 2), tmp_path)
    assert found["TRANSPOSE_CONV"] == 1


@pytest.mark.parametrize("method", ["bicubic", "lanczos3", "lanczos5"])
def test_resizing_by_other_methods_is_two_products(method: str, tmp_path: Path) -> None:
    model = chain((6, 5, 3), kl.Resizing(9, 4, interpolation=method))
    found = operators(model, normal(2, 6, 5, 3), tmp_path)
    assert set(found) == {"TRANSPOSE", "RESHAPE", "BATCH_MATMUL", "FULLY_CONNECTED"}


GATHERS = {
    "outside": lambda x: jnp.nan_to_num(jnp.take(x, jnp.argmax(x[0], 0) * 9, axis=1), nan=5.0),
    "held inside": lambda x: jnp.take(x, jnp.argmax(x[0], 0) * 9, axis=1, mode="clip"),
    "from the end": lambda x: x[0][-jnp.argmax(x[1], 0)] + 0 * x[:, :1, :1],
}


@pytest.mark.parametrize("function", GATHERS.values(), ids=GATHERS)
def test_places_outside_do_not_stop_the_runtime(
    function: Callable[[Any], Any], tmp_path: Path
) -> None:
    operators(chain((5, 4), Does(function)), normal(2, 5, 4), tmp_path)


# Loops.


def test_a_long_lstm_holds_its_kernels_once(tmp_path: Path) -> None:
    model = chain((150, 8), kl.LSTM(32))
    found = operators(model, normal(1, 150, 8), tmp_path)
    # The input products of all steps are one product; the first state is zero.
    assert found["FULLY_CONNECTED"] == 150
    kernels = 4 * sum(weight.size for weight in map(np.asarray, model.get_weights()))
    graph = 500 * sum(found.values())
    assert (tmp_path / "m.tflite").stat().st_size < 1.2 * kernels + graph


LOOPS = {
    "fori_loop": lambda x: ops.fori_loop(0, 3, lambda i, y: y * 1.5 + ops.cast(i, "float32"), x),
    "while_loop": lambda x: ops.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 2), (0, x))[
        1
    ],
    "scan": lambda x: ops.transpose(
        ops.scan(lambda c, v: (c + v, c * v), x[:, 0], ops.transpose(x, (1, 0, 2)))[1], (1, 0, 2)
    ),
    "reversed scan": lambda x: jnp.moveaxis(
        lax.scan(lambda c, v: (c + v, c * v), x[:, 0], jnp.moveaxis(x, 1, 0), reverse=True)[1],
        0,
        1,
    ),
    "scan with constants": lambda x: ops.scan(
        lambda c, v: (c * v + np.float32(2) * ops.sum(x), None), x[:, 0], np.arange(3, dtype="f")
    )[0],
    "nested": lambda x: ops.fori_loop(
        0, 2, lambda i, y: ops.fori_loop(0, 2, lambda j, z: z + 1.0, y) * 2.0, x
    ),
    "cond on data": lambda x: ops.cond(ops.sum(x) > 0, lambda: x * 2.0, lambda: x - 1.0),
    "switch": lambda x: ops.switch(1, [lambda y: y, lambda y: -y], x),
    "map": lambda x: ops.map(lambda y: y * 2, x),
    "associative_scan": lambda x: ops.associative_scan(lambda a, b: a + b, x, axis=1),
}


@pytest.mark.parametrize("function", LOOPS.values(), ids=LOOPS)
def test_loops_are_written_out(function: Callable[[Any], Any], tmp_path: Path) -> None:
    _, difference = exported(chain((4, 3), Does(function)), [normal(2, 4, 3)], tmp_path)
    assert difference < 1e-6


# Refusals.


REFUSALS = {
    "sorts": lambda x: ops.sort(x),
    "draws random numbers": lambda x: x + jax.random.normal(jax.random.key(0), x.shape) * x,
    "factorizes a matrix": lambda x: ops.cholesky(ops.einsum("ab,cb->ac", x, x)) @ x,
    "calls back into Python": lambda x: jax.pure_callback(
        np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x
    ),
    "runs a loop that takes as many rounds as its data say": lambda x: ops.while_loop(
        lambda y: ops.sum(y) < 9, lambda y: (y + 1,), (x,)
    )[0],
    "runs a loop that does not end": lambda x: ops.while_loop(
        lambda i, y: i < 200, lambda i, y: (i + 1, y + 1), (0, x)
    )[1],
    "runs a loop that takes 200 steps": lambda x: lax.fori_loop(0, 200, lambda i, y: y + 1, x),
    "inverse, complex or multi-dimensional Fourier": lambda x: ops.fft((x, x))[0],
    "wants a power of two, its length is 1500": lambda x: ops.rfft(ops.tile(x, (1, 250)))[0],
}


@pytest.mark.parametrize(("reason", "function"), REFUSALS.items(), ids=REFUSALS)
def test_what_a_layer_cannot_do_is_refused_by_its_name(
    reason: str, function: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "_LONGEST", 50)
    inner = chain((6,), Does(function, name="culprit"))
    model = chain((6,), kl.Dense(6), inner)
    path = tmp_path / "m.tflite"
    with pytest.raises(UnsupportedModel, match=f"^Layer 'culprit' .*{reason}"):
        sentei.export(model, path)
    assert not path.exists()


def test_a_refusal_is_not_wrapped_in_the_arguments_of_every_call() -> None:
    model = chain((6,), Does(ops.sort, name="culprit"))
    keras.config.enable_traceback_filtering()
    try:
        with pytest.raises(UnsupportedModel, match=r"^Layer 'culprit'"), rewritten(model):
            jax.jit(lambda x: model(x, training=False))(normal(2, 6))
    finally:
        keras.config.disable_traceback_filtering()


class Nested(keras.Model):
    """A subclassed model with layers in lists, dicts and other layers."""

    def __init__(self, *, stateful: bool = False) -> None:
        super().__init__()
        self.blocks = [{"wide": kl.Conv1D(4, 3, padding="same", activation="gelu")}]
        self.around = kl.Bidirectional(kl.LSTM(3, return_sequences=True, stateful=stateful))
        self.frames = [kl.TimeDistributed(kl.Dense(2, activation="softplus"))]
        self.drop = kl.Dropout(0.5)

    def call(self, tensor: Any, training: bool | None = None) -> dict[str, Any]:
        for block in self.blocks:
            tensor = block["wide"](tensor)
        states = self.around(self.drop(tensor, training=training))
        return {"states": states, "frames": self.frames[0](states)}


def nested(**options: Any) -> Nested:
    model = Nested(**options)
    model(np.zeros((2, 5, 3), "float32"))
    return randomised(model)


def test_a_nested_subclassed_model(tmp_path: Path) -> None:
    found, difference = exported(nested(), [normal(2, 5, 3)], tmp_path)
    assert difference < 1e-4
    assert found["GELU"] == 1
    assert [name for name in found if name.startswith(UNWELCOME)] == []


def test_a_stateful_layer_is_found_wherever_it_is() -> None:
    with (
        pytest.raises(UnsupportedModel, match=r"'bidirectional.*keeps its state.*stateful=False"),
        rewritten(nested(stateful=True)),
    ):
        raise AssertionError("entered")


@pytest.mark.parametrize("layer", ["TFSMLayer", "TorchModuleWrapper", "TextVectorization"])
def test_layers_that_need_another_framework_are_refused(
    layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Their constructors want TensorFlow or PyTorch; a bare subclass is enough to be refused.
    bare = type(layer, (getattr(kl, layer),), {"__init__": kl.Layer.__init__})
    reason = {"TFSMLayer": "SavedModel", "TorchModuleWrapper": "PyTorch"}.get(layer, "strings")
    with (
        pytest.raises(UnsupportedModel, match=f"'held' \\({layer}\\).*{reason}"),
        rewritten(keras.Sequential([bare(name="held")])),
    ):
        raise AssertionError("entered")


# The model afterwards.


def attributes(model: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(layer.name, dict(vars(layer))) for layer, _ in sublayers(model)]


def same(before: list[Any], after: list[Any]) -> None:
    assert [name for name, _ in before] == [name for name, _ in after]
    for (_, old), (_, new) in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        assert all(new[key] is old[key] for key in old)


def test_the_model_is_as_before(tmp_path: Path) -> None:
    model, inputs = nested(), normal(2, 5, 3)
    expected = model(inputs)
    before = attributes(model)
    with rewritten(model):
        traced = jax.jit(lambda x: model(x, training=False))(inputs)
        assert "call" in vars(model)
    same(before, attributes(model))
    for key, value in model(inputs).items():
        assert np.array_equal(value, expected[key])
        np.testing.assert_allclose(traced[key], expected[key], atol=1e-5)


def test_the_model_is_as_before_an_error() -> None:
    model = chain((6,), Does(ops.sort), kl.Dense(2))
    model.call = own = model.call  # a `call` of the instance's own comes back, too
    model(normal(2, 6))
    before = attributes(model)
    with pytest.raises(UnsupportedModel, match="sorts"), rewritten(model):
        jax.jit(lambda x: model(x, training=False))(normal(2, 6))
    same(before, attributes(model))
    assert vars(model)["call"] is own


def test_an_error_of_the_caller_passes_through() -> None:
    model = chain((6,), kl.Dense(2))
    with pytest.raises(ZeroDivisionError), rewritten(model):
        1 / 0  # noqa: B018
    assert "call" not in vars(model)


def test_draws_that_are_thrown_away_leave_the_seed_alone(tmp_path: Path) -> None:
    model = chain((6, 6, 3), kl.RandomHue(0.5, seed=3))
    (seed,) = (v for v in model.variables if v.name == "seed_generator_state")
    before = np.asarray(seed.value)
    sentei.export(model, tmp_path / "m.tflite", verify=False)
    assert np.array_equal(np.asarray(seed.value), before)


def test_operations_keep_the_names_of_their_layers() -> None:
    model = chain((8, 3), kl.Conv1D(4, 3, name="first"), kl.LSTM(3, name="second"))
    with rewritten(model):
        lowered = jax.jit(lambda x: model(x, training=False)).lower(normal(2, 8, 3))
    text = lowered.as_text(debug_info=True)
    assert "first/conv_general_dilated" in text
    assert "second/" in text


# Small functional graphs of many layers, drawn at random.

IMAGE_STEPS: dict[str, Callable[[Any], Any]] = {
    "conv": lambda t: kl.Conv2D(4, 3, padding="same")(t),
    "gelu conv": lambda t: kl.Conv2D(3, 1, activation="gelu")(t),
    "depthwise": lambda t: kl.DepthwiseConv2D(3, padding="same", activation="relu6")(t),
    "norm": lambda t: kl.BatchNormalization()(t),
    "layer norm": lambda t: kl.LayerNormalization()(t),
    "relu": lambda t: kl.ReLU()(t),
    "swish": lambda t: kl.Activation("swish")(t),
    "max pool": lambda t: kl.MaxPooling2D(2, padding="same")(t),
    "mean pool": lambda t: kl.AveragePooling2D(2, strides=1, padding="same")(t),
    "up": lambda t: kl.UpSampling2D(2)(t),
    "bilinear": lambda t: kl.UpSampling2D((1, 2), interpolation="bilinear")(t),
    "transposed": lambda t: kl.Conv2DTranspose(3, 3, strides=2, padding="same")(t),
    "residual": lambda t: kl.Add()([t, kl.Conv2D(t.shape[-1], 3, padding="same")(t)]),
    "gate": lambda t: kl.Multiply()(
        [t, kl.Dense(t.shape[-1], "sigmoid")(kl.GlobalAveragePooling2D(keepdims=True)(t))]
    ),
    "join": lambda t: kl.Concatenate()([t, kl.Conv2D(2, 3, padding="same")(t)]),
    "softmax": lambda t: kl.Softmax(axis=1)(t),
}
SIGNAL_STEPS: dict[str, Callable[[Any], Any]] = {
    "conv": lambda t: kl.Conv1D(4, 3, padding="causal", activation="relu")(t),
    "norm": lambda t: kl.BatchNormalization()(t),
    "pool": lambda t: kl.MaxPooling1D(2, padding="same")(t),
    "up": lambda t: kl.UpSampling1D(2)(t),
    "lstm": lambda t: kl.LSTM(3, return_sequences=True)(t),
    "gru": lambda t: kl.Bidirectional(kl.GRU(2, return_sequences=True))(t),
    "attention": lambda t: kl.Add()([t, kl.MultiHeadAttention(2, 2)(t, t)]),
    "group norm": lambda t: kl.GroupNormalization(1)(t),
    "frames": lambda t: kl.TimeDistributed(kl.Dense(3, "softplus"))(t),
    "transposed": lambda t: kl.Conv1DTranspose(3, 3, strides=2, padding="same")(t),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_random_graphs(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.layers.Layer, "add_weight", add_weight_at_once)
    rng = np.random.default_rng(seed)
    shape, steps = [((6, 5, 3), IMAGE_STEPS), ((6, 3), SIGNAL_STEPS)][seed % 2]
    tensor = inputs = keras.Input(shape)
    for name in rng.choice(list(steps), 5):
        tensor = steps[name](tensor)
    model = randomised(keras.Model(inputs, [tensor, kl.Dense(2)(kl.Flatten()(tensor))]))
    found, difference = exported(model, [normal(2, *shape)], tmp_path)
    assert difference < 1e-4
    assert [name for name in found if name.startswith(UNWELCOME)] == []
