"""`sentei.export`: every kind of model, against Keras itself, in the plain interpreter."""

import contextlib
import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keras import layers as kl
from keras import ops

import sentei
from sentei.core.errors import ExportError, ExportMismatch, SenteiError, UnsupportedModel
from sentei.litert import export as export_module
from sentei.litert import flatbuffer
from sentei.litert.batch import BATCH_SIZES, open_batch
from sentei.litert.refusal import layer_of

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="converts in-process")


def run_file(path, inputs):
    """The oracle: the interpreter itself, called by the names in the file's signature."""
    interpreter = Interpreter(str(path))
    return interpreter.get_signature_runner("serving_default")(**inputs)


def close(actual, expected, tolerance=1e-5):
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-6)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def image_model(**policy):
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kl.Conv2D(4, 3, **policy),
            kl.BatchNormalization(**policy),
            kl.ReLU(**policy),
            kl.GlobalAveragePooling2D(**policy),
            kl.Dense(3, **policy),
        ]
    )


def two_inputs(outputs):
    image, extra = keras.Input((6, 6, 3), name="image"), keras.Input((4,), name="extra")
    x = kl.GlobalAveragePooling2D(name="pooled")(kl.Conv2D(5, 3)(image))
    y = kl.Dense(2, name="head")(kl.Concatenate()([x, extra]))
    return image, extra, outputs(x, y)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = kl.Dense(3)
        self.dropout = kl.Dropout(0.5)

    def call(self, inputs, training=None):
        return self.dropout(self.dense(inputs), training=training)


class TwoArguments(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = kl.Dense(3)

    def call(self, first, second, training=None):
        return {"sum": self.dense(first) + ops.cast(second, "float32"), "twice": 2 * first}


class DictArgument(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = kl.Dense(3)

    def call(self, inputs):
        return [self.dense(inputs["a"]), inputs["b"] + 1.0]


def called(model, *args):
    model(*args)
    return model


# --- what comes out ------------------------------------------------------------------------------


def test_sequential(tmp_path):
    model = image_model()
    x = normal(1, 8, 8, 3)
    report = sentei.export(model, tmp_path / "m.tflite")
    close(run_file(tmp_path / "m.tflite", {"input_0": x})[model.layers[-1].name], model(x))
    assert report.verification.samples == 2
    assert report.verification.relative_error < 1e-5


def test_inputs_and_outputs_in_lists_keep_their_names(tmp_path):
    image, extra, outputs = two_inputs(lambda x, y: [y, x])
    model = keras.Model([image, extra], outputs)
    report = sentei.export(model, tmp_path / "m.tflite")
    inputs = {"image": normal(1, 6, 6, 3), "extra": normal(1, 4)}
    got = run_file(tmp_path / "m.tflite", inputs)
    head, pooled = model([inputs["image"], inputs["extra"]])
    close(got["head"], head)
    close(got["pooled"], pooled)
    assert [spec.name for spec in report.inputs] == ["image", "extra"]
    assert [(spec.name, spec.shape) for spec in report.outputs] == [
        ("head", (1, 2)),
        ("pooled", (1, 5)),
    ]


def test_inputs_and_outputs_in_dicts_take_the_keys(tmp_path):
    image, extra, outputs = two_inputs(lambda x, y: {"b": x, "a": y})
    model = keras.Model({"image": image, "extra": extra}, outputs)
    sentei.export(model, tmp_path / "m.tflite")
    inputs = {"image": normal(1, 6, 6, 3), "extra": normal(1, 4)}
    got, expected = run_file(tmp_path / "m.tflite", inputs), model(inputs)
    assert set(got) == {"a", "b"}
    for name in got:
        close(got[name], expected[name])


def test_nested_models_and_shared_layers(tmp_path):
    inner = image_model()
    shared = kl.Dense(3)
    x = keras.Input((8, 8, 3))
    y = inner(x)
    outer = keras.Model(x, [shared(y), shared(shared(y)), x])
    sentei.export(outer, tmp_path / "m.tflite")
    value = normal(1, 8, 8, 3)
    got = run_file(tmp_path / "m.tflite", {"input_0": value})
    once, twice, same = outer(value)
    close(got[shared.name], once)
    close(got[f"{shared.name}_1"], twice)
    # An input handed through has no layer of its own to be named after.
    np.testing.assert_array_equal(got["output_2"], same)


def test_a_model_that_computes_nothing(tmp_path):
    x = keras.Input((3,), name="x")
    sentei.export(keras.Model(x, x), tmp_path / "m.tflite")
    value = normal(1, 3)
    np.testing.assert_array_equal(run_file(tmp_path / "m.tflite", {"x": value})["x"], value)


def test_an_input_that_is_not_used_stays_in_the_signature(tmp_path):
    used, unused = keras.Input((3,), name="used"), keras.Input((4,), name="unused")
    layer = kl.Dense(2, name="out")
    model = keras.Model([used, unused], layer(used))
    sentei.export(model, tmp_path / "m.tflite")
    x = normal(1, 3)
    got = run_file(tmp_path / "m.tflite", {"used": x, "unused": normal(1, 4)})
    close(got["out"], layer(x))


def test_subclassed_model_by_the_shapes_it_was_built_with(tmp_path):
    model = called(Subclassed(), normal(7, 5))
    report = sentei.export(model, tmp_path / "m.tflite")
    assert report.inputs[0].shape == (1, 5)
    x = normal(1, 5)
    close(run_file(tmp_path / "m.tflite", {"input_0": x})["output_0"], model(x, training=False))


def test_subclassed_model_with_a_dict(tmp_path):
    inputs = {"a": normal(1, 4), "b": normal(1, 2)}
    model = called(DictArgument(), inputs)
    sentei.export(model, tmp_path / "m.tflite")
    got = run_file(tmp_path / "m.tflite", inputs)
    for name, expected in zip(("output_0", "output_1"), model(inputs), strict=True):
        close(got[name], expected)


def test_subclassed_model_with_two_arguments(tmp_path):
    first, second = normal(1, 4), np.array([[1, 2, 3]], "int32")
    model = called(TwoArguments(), first, second)
    signature = {"first": (None, 4), "second": ((None, 3), "int32")}
    sentei.export(model, tmp_path / "m.tflite", signature=signature)
    got = run_file(tmp_path / "m.tflite", {"first": first, "second": second})
    for name, expected in model(first, second).items():
        close(got[name], expected)


# --- signatures ----------------------------------------------------------------------------------

FORMS = {
    "shape": (None, 5),
    "fixed shape": (1, 5),
    "typed shape": ((None, 5), "float32"),
    "typed shape with a numpy dtype": ([None, 5], np.float32),
    "InputSpec": keras.InputSpec(shape=(None, 5), dtype="float32"),
    "KerasTensor": keras.KerasTensor((None, 5), "float32"),
    "array": np.zeros((9, 5), "float32"),
    "half precision is widened": ((None, 5), "float16"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_a_signature(tmp_path, form):
    model = called(Subclassed(), normal(2, 5))
    report = sentei.export(model, tmp_path / "m.tflite", signature=form, verify=False)
    assert [(s.shape, s.dtype) for s in report.inputs] == [((1, 5), "float32")]


def test_a_signature_closes_an_open_axis(tmp_path):
    model = keras.Sequential([keras.Input((None, 3), name="x"), kl.Conv1D(2, 3, name="y")])
    report = sentei.export(model, tmp_path / "m.tflite", signature={"x": (None, 7, 3)})
    assert report.outputs[0].shape == (1, 5, 2)


OPEN = keras.Sequential([keras.Input((None, 3), name="x"), kl.Conv1D(2, 3)])
FIXED = keras.Sequential([keras.Input(batch_shape=(4, 3), name="x"), kl.Dense(2)])
SIGNATURE_ERRORS = {
    "an axis stays open": (OPEN, {}, "leaves axis 1 open.*pass signature"),
    "another name": (
        OPEN,
        {"signature": {"y": (None, 7, 3)}},
        r"inputs \['x'\].*Received: \['y'\]",
    ),
    "too many": (OPEN, {"signature": [(None, 7, 3)] * 2}, r"inputs \['x'\].*Received: 2"),
    "another size": (
        OPEN,
        {"signature": (None, 7, 4)},
        r"\[None, 7, 4\], but .* \[None, None, 3\]",
    ),
    "another rank": (OPEN, {"signature": (None, 3)}, r"\[None, 3\], but"),
    "no shape": (OPEN, {"signature": "image"}, "'image' of type str, which is no shape"),
    "no dtype": (OPEN, {"signature": ((None, 7, 3), "float33")}, "dtype 'float33', which is none"),
    "a batch of its own": (FIXED, {}, "fixed batch size 4, but batch_size=1. Pass batch_size=4"),
    "a batch of its own, open": (FIXED, {"batch_size": None}, "Pass batch_size=4"),
    "no batch": (OPEN, {"batch_size": 0}, "positive integer.*Received: 0"),
    "half a batch": (OPEN, {"batch_size": 1.5}, "positive integer.*Received: 1.5"),
}


@pytest.mark.parametrize(
    ("model", "arguments", "message"), SIGNATURE_ERRORS.values(), ids=SIGNATURE_ERRORS
)
def test_signature_errors(tmp_path, model, arguments, message):
    with pytest.raises(SenteiError, match=message):
        sentei.export(model, tmp_path / "m.tflite", **arguments)
    assert not list(tmp_path.iterdir())


def test_strings_and_sparse_tensors_are_refused(tmp_path):
    text = keras.Input((1,), dtype="string")
    with pytest.raises(UnsupportedModel, match=r"takes strings"):
        sentei.export(keras.Model(text, text), tmp_path / "m.tflite")
    sparse = keras.Input((4,), sparse=True, name="s")
    with pytest.raises(UnsupportedModel, match=r"'s' is sparse or ragged"):
        sentei.export(keras.Model(sparse, kl.Dense(2)(sparse)), tmp_path / "m.tflite")


def test_a_model_called_with_too_little_says_so(tmp_path):
    model = called(TwoArguments(), normal(1, 4), normal(1, 3))
    with pytest.raises(ExportError, match=r"called with input_0.*missing.*second.*pass signature="):
        sentei.export(model, tmp_path / "m.tflite")


# --- batches -------------------------------------------------------------------------------------


def test_fixed_batch(tmp_path):
    model = image_model()
    report = sentei.export(model, tmp_path / "m.tflite", batch_size=3)
    assert report.inputs[0].shape == (3, 8, 8, 3)
    assert report.verification.samples == 6
    x = normal(3, 8, 8, 3)
    close(run_file(tmp_path / "m.tflite", {"input_0": x})[model.layers[-1].name], model(x))


class Constants(kl.Layer):
    """Joins what depends on the batch in each of the ways that a constant can."""

    def call(self, x):
        row = ops.broadcast_to(ops.arange(4, dtype="float32"), (ops.shape(x)[0], 4))
        return ops.concatenate([x, ops.ones_like(x), row, x * (row + 1.0)], axis=-1)


def rows(*layers):
    return lambda: keras.Sequential([keras.Input((6, 4), name="x"), *layers])


OPEN_BATCH = {
    "convolution": lambda: image_model(),
    "flatten": rows(kl.Flatten(), kl.Dense(6), kl.Reshape((3, 2)), kl.Permute((2, 1))),
    "lstm": rows(kl.LSTM(3)),
    "attention": lambda: (
        lambda x: keras.Model(x, kl.LayerNormalization()(kl.MultiHeadAttention(2, 3)(x, x)))
    )(keras.Input((6, 4))),
    "slice": rows(kl.Cropping1D(1)),
    "transposed convolution": rows(kl.Conv1DTranspose(3, 3, strides=2)),
    "embedding": lambda: keras.Sequential(
        [keras.Input((6,), dtype="int32"), kl.Embedding(9, 4), kl.GlobalAveragePooling1D()]
    ),
    "constants": lambda: keras.Sequential([keras.Input((4,)), Constants()]),
}


@pytest.mark.parametrize("build", OPEN_BATCH.values(), ids=OPEN_BATCH)
def test_open_batch_runs_at_any_size(tmp_path, build):
    model = build()
    path = tmp_path / "m.tflite"
    report = sentei.export(model, path, batch_size=None)
    assert report.inputs[0].shape[0] is None
    assert report.outputs[0].shape[0] is None
    interpreter = Interpreter(str(path))
    detail = interpreter.get_input_details()[0]
    assert detail["shape_signature"][0] == -1
    for size in (1, 2, 11):
        shape = (size, *model.inputs[0].shape[1:])
        x = np.random.default_rng(size).integers(0, 9, shape).astype(detail["dtype"])
        interpreter.resize_tensor_input(detail["index"], shape, strict=True)
        interpreter.allocate_tensors()
        interpreter.set_tensor(detail["index"], x)
        interpreter.invoke()
        got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        close(got, model(x))


def test_an_open_batch_costs_no_operator(tmp_path):
    model = image_model()
    fixed = sentei.export(model, tmp_path / "fixed.tflite")
    opened = sentei.export(model, tmp_path / "open.tflite", batch_size=None)
    assert opened.operators == fixed.operators == {"CONV_2D": 1, "MEAN": 1, "FULLY_CONNECTED": 1}


def test_a_constant_row_is_broadcast_by_the_operator_that_reads_it(tmp_path):
    class Scales(kl.Layer):
        def call(self, x):
            return x * ops.broadcast_to(ops.arange(4, dtype="float32"), ops.shape(x))

    model = keras.Sequential([keras.Input((4,)), Scales()])
    report = sentei.export(model, tmp_path / "m.tflite", batch_size=None)
    assert report.operators == {"MUL": 1}


class DividesByTheBatch(kl.Layer):
    def call(self, x):
        return x / ops.cast(ops.shape(x)[0], "float32")


class AddsThePlaceInTheBatch(kl.Layer):
    def call(self, x):
        return x + ops.arange(ops.shape(x)[0], dtype="float32")[:, None]


class TakesTheBatchForTime(kl.Layer):
    def build(self, shape):
        self.inner = kl.SimpleRNN(shape[-1], return_sequences=True)
        self.inner.build((None, *shape))

    def call(self, x):
        return self.inner(x[None])[0]

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (DividesByTheBatch, "is given the batch size as a number.*'guilty'"),
        (AddsThePlaceInTheBatch, "is given the batch size as a number.*'guilty'"),
        (TakesTheBatchForTime, "other operators for another batch size"),
    ],
)
def test_a_batch_that_cannot_be_left_open_is_refused(tmp_path, layer, reason):
    model = keras.Sequential([keras.Input((4,)), layer(name="guilty")])
    with pytest.raises(ExportError, match=f"cannot be left open.*{reason}.*Pass a number"):
        sentei.export(model, tmp_path / "m.tflite", batch_size=None)
    assert not list(tmp_path.iterdir())
    sentei.export(model, tmp_path / "m.tflite", batch_size=2)


def test_an_operator_set_up_for_one_batch_size_is_refused():
    from litert_converter import converter_api_ext
    from litert_converter.mlir import ir

    text = """func.func @main(%x: tensor<{0}x4xf32>) -> tensor<{0}x4xf32> {{
        %y = "tfl.leaky_relu"(%x) {{alpha = {0}.0 : f32}} : (tensor<{0}x4xf32>) -> tensor<{0}x4xf32>
        func.return %y : tensor<{0}x4xf32>
    }}"""
    context = ir.Context()
    converter_api_ext.prepare_mlir_context(context)
    with context, ir.Location.unknown():
        modules = [ir.Module.parse(text.format(size)) for size in BATCH_SIZES]
        with pytest.raises(ExportError, match=r"tfl.leaky_relu is set up for one .*'the layer'"):
            open_batch(*modules, lambda operation: "the layer")


def test_wide_integers_are_narrowed_without_a_word(tmp_path):
    x = keras.Input((6,), dtype="int64")
    model = keras.Model(x, kl.Embedding(9, 4, mask_zero=True)(x))
    report = sentei.export(model, tmp_path / "m.tflite")
    assert report.inputs[0].dtype == "int32"


# --- precision, training-only layers, the model itself -------------------------------------------


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float16"])
def test_half_precision_is_exported_in_float32(tmp_path, policy):
    model = image_model(dtype=policy)
    full = image_model(dtype="float32")
    full.set_weights([w.astype("float32") for w in model.get_weights()])
    report = sentei.export(model, tmp_path / "m.tflite")
    assert set(report.dtypes) == {"float32", "int32"}
    assert report.operators == {"CONV_2D": 1, "MEAN": 1, "FULLY_CONNECTED": 1}
    x = normal(1, 8, 8, 3)
    close(run_file(tmp_path / "m.tflite", {"input_0": x})[model.layers[-1].name], full(x))
    assert all(layer.dtype_policy.name == policy for layer in model.layers)


def test_what_acts_in_training_only_vanishes(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kl.RandomFlip(),
            kl.RandomRotation(0.2),
            kl.GaussianNoise(0.3),
            kl.Conv2D(2, 3),
            kl.Dropout(0.5),
            kl.SpatialDropout2D(0.5),
        ]
    )
    report = sentei.export(model, tmp_path / "m.tflite")
    assert report.operators == {"CONV_2D": 1}


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(tmp_path, monkeypatch, fails):
    def trained(interrupt):
        keras.utils.set_random_seed(1)
        model = image_model(dtype="mixed_float16")
        model.compile("adam", "mse")
        model.fit(normal(8, 8, 8, 3), normal(8, 3), verbose=0, batch_size=4, shuffle=False)
        if interrupt:
            interrupt(model)
        model.fit(normal(8, 8, 8, 3), normal(8, 3), verbose=0, batch_size=4, shuffle=False)
        return model

    def interrupt(model):
        before = {key: value for key, value in vars(model).items() if key != "_losses_override"}
        if fails:
            monkeypatch.setattr(export_module, "predictions", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                sentei.export(model, tmp_path / "m.tflite")
        else:
            sentei.export(model, tmp_path / "m.tflite")
        assert vars(model).keys() - before.keys() <= {"_losses_override"}
        assert all(layer.dtype_policy.name == "mixed_float16" for layer in model.layers)

    plain, exported = trained(None), trained(interrupt)
    for one, two in zip(plain.get_weights(), exported.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_settings_of_keras_and_jax_are_restored(tmp_path):
    keras.config.enable_traceback_filtering()
    try:
        limit = jax.config.jax_traceback_in_locations_limit
        sentei.export(image_model(), tmp_path / "m.tflite")
        with pytest.raises(ExportError):
            sentei.export(called(TwoArguments(), normal(1, 4), normal(1, 3)), tmp_path / "n.tflite")
        assert keras.config.is_traceback_filtering_enabled()
        assert jax.config.jax_traceback_in_locations_limit == limit
    finally:
        keras.config.disable_traceback_filtering()


# --- weights in the file -------------------------------------------------------------------------


def test_batch_norm_is_folded_and_relu_fused(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            kl.Conv2D(8, 3, strides=2, use_bias=False),
            kl.BatchNormalization(),
            kl.ReLU(6.0),
            kl.DepthwiseConv2D(3, use_bias=False),
            kl.BatchNormalization(),
            kl.ReLU(6.0),
            kl.Conv2D(4, 1, use_bias=False),
            kl.BatchNormalization(),
        ]
    )
    report = sentei.export(model, tmp_path / "m.tflite")
    assert report.operators == {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 1}


def test_pruned_weights_are_exactly_zero_in_the_file(tmp_path):
    generator = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kl.Conv2D(16, 3, use_bias=False),
            kl.BatchNormalization(),
            kl.DepthwiseConv2D(3, use_bias=False),
            kl.BatchNormalization(),
            kl.Flatten(),
            kl.Dense(10),
        ]
    )
    kept = {}
    for layer in model.layers:
        if isinstance(layer, kl.BatchNormalization):
            # Negative factors turn a zero into -0.0, which compresses badly.
            layer.gamma.assign(generator.uniform(-2, 2, layer.gamma.shape))
            layer.moving_variance.assign(generator.uniform(0.5, 2, layer.gamma.shape))
        elif layer.weights:
            kernel = generator.normal(size=layer.kernel.shape)
            kernel[generator.random(kernel.shape) < 0.7] = 0.0
            layer.kernel.assign(kernel)
            kept[kernel.size] = np.count_nonzero(kernel)
    sentei.export(model, tmp_path / "m.tflite")
    tensors = [t for t in flatbuffer.load(tmp_path / "m.tflite").tensors() if t.buffer is not None]
    found = {t.size: t for t in tensors if t.dtype == "float32" and t.size in kept}
    assert set(found) == set(kept)
    for size, tensor in found.items():
        assert np.count_nonzero(tensor.data()) == kept[size]
        zeros = tensor.data()[tensor.data() == 0]
        assert not np.signbit(zeros).any()


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (kl.LSTM(3, name="guilty"), r"refuses the model because of tfl.while \(layer 'guilty'\)"),
        (
            kl.Lambda(lambda x: ops.svd(x)[0], name="guilty"),
            r"stablehlo.custom_call \(layer 'guilty'\). It says: failed to legalize",
        ),
        (
            kl.Lambda(lambda x: ops.fft((x, x))[0], name="guilty"),
            r"stablehlo.fft \(layer 'guilty'\)",
        ),
        (
            kl.Lambda(lambda x: ops.sort(x), name="guilty"),
            r"runtime refuses the file: .*STABLEHLO_SORT.* holds .*stablehlo.sort \(layer 'guilty",
        ),
    ],
)
def test_converter_and_runtime_are_quoted_with_the_layer(tmp_path, monkeypatch, layer, words):
    # The rewriting would name these first; what it does not know must be named, too.
    monkeypatch.setattr("sentei.litert.trace.rewritten", contextlib.nullcontext)
    model = keras.Sequential([keras.Input((4, 4)), kl.Dense(4), layer])
    with pytest.raises(ExportError, match=words) as error:
        sentei.export(model, tmp_path / "m.tflite")
    assert "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("location", "layer"),
    [
        ('loc("jit(forward)/model/block/conv/dot_general")', "conv"),
        ('loc("jit(forward)/model/block/other/dot_general")', "block"),
        ('loc(fused["jit(forward)/nothing/add", "jit(forward)/conv/add"])', "conv"),
        ('loc("conv")', None),
        ("loc(unknown)", None),
    ],
)
def test_the_layer_of_a_location(location, layer):
    assert layer_of(location, frozenset({"block", "conv", "model"})) == layer


def test_state_and_random_numbers_at_inference_are_refused(tmp_path):
    model = keras.Sequential([keras.Input(batch_shape=(1, 4, 3)), kl.LSTM(3, stateful=True)])
    with pytest.raises(UnsupportedModel, match=r"state"):
        sentei.export(model, tmp_path / "m.tflite")

    class Counts(kl.Layer):
        def build(self, shape):
            self.count = self.add_weight(shape=(), name="count", trainable=False)

        def call(self, x):
            self.count.assign(self.count + 1.0)
            return x + self.count

    model = keras.Sequential([keras.Input((3,)), Counts(name="counts")])
    with pytest.raises(UnsupportedModel, match=r"changes .*count.* keeps state"):
        sentei.export(model, tmp_path / "m.tflite")


@pytest.mark.filterwarnings("ignore:Layer InputLayer")
def test_what_keras_quantized_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((8,)), kl.Dense(4, name="small")])
    model.quantize("int8")
    with pytest.raises(UnsupportedModel, match=r"'small' was quantized by Keras .*'int8'"):
        sentei.export(model, tmp_path / "m.tflite")


def test_an_error_in_a_layer_names_the_layer(tmp_path):
    class Looks(kl.Layer):
        def call(self, x):
            return x if ops.convert_to_numpy(ops.sum(x)) > 0 else -x

        def compute_output_shape(self, shape):
            return shape

    model = keras.Sequential([keras.Input((3,)), Looks(name="looks")])
    with pytest.raises(ExportError, match=r"layer 'looks' \(Looks\) failed.*use keras.ops.where"):
        sentei.export(model, tmp_path / "m.tflite")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "Expected a Keras model.*int"),
        (kl.Dense(3), "Expected a Keras model.*Dense"),
        (keras.Sequential([kl.Dense(3)]), "is not built"),
    ],
)
def test_what_is_no_model(tmp_path, model, message):
    with pytest.raises(SenteiError, match=message):
        sentei.export(model, tmp_path / "m.tflite")


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("folder", "is a directory.*model.tflite"),
        ("nowhere/m.tflite", "folder .*nowhere.* does not exist"),
        ("m.bin", r"must end in .tflite.*m.bin.*Use 'm.tflite'"),
        ("m", r"must end in .tflite.*Use 'm.tflite'"),
        (3, "file name ending in .tflite. Received: 3 of type int"),
    ],
)
def test_paths(tmp_path, path, message):
    (tmp_path / "folder").mkdir()
    target = path if isinstance(path, int) else str(tmp_path / path)
    with pytest.raises(SenteiError, match=message):
        sentei.export(image_model(), target)
    assert [item.name for item in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("existing", [None, b"an earlier file"])
def test_a_mismatch_leaves_what_was_there(tmp_path, monkeypatch, existing):
    path = tmp_path / "m.tflite"
    if existing is not None:
        path.write_bytes(existing)
    honest = export_module.predictions

    def lying(*arguments):
        return [{k: v + 0.01 * np.abs(v).max() for k, v in o.items()} for o in honest(*arguments)]

    monkeypatch.setattr(export_module, "predictions", lying)
    with pytest.raises(ExportMismatch, match=r"differs from Keras by.*No file was written"):
        sentei.export(image_model(), path)
    assert [item.name for item in tmp_path.iterdir()] == ([] if existing is None else ["m.tflite"])
    assert existing is None or path.read_bytes() == existing


def test_a_file_is_replaced_and_readable_by_others(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"an earlier file")
    sentei.export(image_model(), path)
    assert flatbuffer.load(path)
    os.umask(mask := os.umask(0))
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


# --- verification and report ---------------------------------------------------------------------


def test_given_samples_are_run_beside_random_ones(tmp_path):
    model = image_model()
    report = sentei.export(model, tmp_path / "m.tflite", verify=normal(5, 8, 8, 3))
    assert report.verification.samples == 7
    report = sentei.export(model, tmp_path / "m.tflite", verify={"input_0": normal(1, 8, 8, 3)})
    assert report.verification.samples == 3
    with pytest.raises(
        SenteiError, match=r"\[5, 8, 8, 4\] for input input_0.*\(samples, 8, 8, 3\)"
    ):
        sentei.export(model, tmp_path / "m.tflite", verify=normal(5, 8, 8, 4))


def test_without_verification_the_report_says_so(tmp_path):
    report = sentei.export(image_model(), tmp_path / "m.tflite", verify=False)
    assert report.verification is None
    assert "not verified" in str(report)


def test_the_report_tells_the_file(tmp_path):
    path = tmp_path / "m.tflite"
    report = sentei.export(image_model(), path)
    content = path.read_bytes()
    interpreter = Interpreter(
        str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    operators = Counter(detail["op_name"] for detail in interpreter._get_ops_details())
    assert (report.path, report.bytes) == (str(path), len(content))
    assert report.gzip_bytes == len(gzip.compress(content, 9, mtime=0))
    assert report.operators == operators
    assert sum(report.dtypes.values()) == len(interpreter.get_tensor_details())
    assert set(report.seconds) == {"trace", "convert", "verify"}
    again = json.loads(json.dumps(report.to_dict()))
    assert again["inputs"] == [{"name": "input_0", "shape": [1, 8, 8, 3], "dtype": "float32"}]
    text = str(report)
    for piece in (str(path), f"{len(content):,} bytes", "1 CONV_2D", "float32[1, 8, 8, 3]"):
        assert piece in text
    with pytest.raises(AttributeError):
        report.bytes = 3


@pytest.mark.slow
def test_nothing_is_written_to_the_terminal(tmp_path):
    program = (
        "import keras, sentei\n"
        "model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])\n"
        "sentei.export(model, 'm.tflite')\n"
        "sentei.export(model, 'm.tflite', batch_size=None)\n"
        "try:\n"
        "    sentei.export(keras.Sequential([keras.Input((8,)), keras.layers.Lambda(\n"
        "        lambda x: keras.ops.fft((x, x))[0])]), 'n.tflite')\n"
        "except sentei.core.errors.SenteiError:\n"
        "    pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(sentei.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert [item.name for item in tmp_path.iterdir()] == ["m.tflite"]
