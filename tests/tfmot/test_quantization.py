"""Programs written for the old toolkit's quantization-aware training, on its public names."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sentei
from sentei import tfmot
from sentei.litert.runtime import Runner
from sentei.quantization import quantized
from sentei.tfmot.quantization import keras as quantization

pytestmark = pytest.mark.slow  # on every backend those marked "core"

X = np.random.default_rng(0).normal(size=(64, 12)).astype("float32")
Y = np.random.default_rng(1).integers(0, 4, 64)
IMAGES = np.random.default_rng(2).uniform(0, 255, (64, 8, 8, 3)).astype("float32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
Last = quantization.quantizers.LastValueQuantizer
Moving = quantization.quantizers.MovingAverageQuantizer
All = quantization.quantizers.AllValuesQuantizer
Fixed = quantization.quantizers.FixedQuantizer
annotate = quantization.quantize_annotate_layer


def dense():
    return keras.Sequential(
        [
            keras.Input((12,)),
            kl.Dense(16, activation="relu", name="hidden"),
            kl.Dense(4, name="scores"),
            kl.Flatten(),
        ]
    )


class DenseConfig(quantization.QuantizeConfig):
    """The config of the comprehensive guide."""

    def get_weights_and_quantizers(self, layer):
        return [(layer.kernel, Last(num_bits=8, symmetric=True, narrow_range=True, per_axis=False))]

    def get_activations_and_quantizers(self, layer):
        moving = Moving(num_bits=8, symmetric=False, narrow_range=False, per_axis=False)
        return [(layer.activation, moving)]

    def set_quantize_weights(self, layer, quantize_weights):
        layer.kernel = quantize_weights[0]

    def set_quantize_activations(self, layer, quantize_activations):
        layer.activation = quantize_activations[0]

    def get_output_quantizers(self, layer):
        return []

    def get_config(self):
        return {}


class FourBits(DenseConfig):
    def get_weights_and_quantizers(self, layer):
        return [(layer.kernel, Last(num_bits=4, symmetric=True, narrow_range=True, per_axis=False))]


class NoActivation(DenseConfig):
    def get_activations_and_quantizers(self, layer):
        return []

    def set_quantize_activations(self, layer, quantize_activations):
        return


class Clipping(quantization.quantizers.Quantizer):
    """An algorithm of the user's own, with a variable made as in Keras 2."""

    def build(self, tensor_shape, name, layer):
        end = layer.add_weight(
            name + "_end", initializer=keras.initializers.Constant(0.1), trainable=False
        )
        return {"end": end}

    def __call__(self, inputs, training, weights, **kwargs):
        return ops.minimum(ops.maximum(inputs, -weights["end"]), weights["end"])

    def get_config(self):
        return {}


class Clipped(DenseConfig):
    def __init__(self, quantizer=None):
        self.quantizer = quantizer or Clipping()

    def get_weights_and_quantizers(self, layer):
        return [(layer.kernel, self.quantizer)]


@keras.saving.register_keras_serializable(__name__)
class Custom(kl.Dense):
    pass


@keras.saving.register_keras_serializable(__name__)
class Scaled(kl.Layer):
    """A layer that sentei knows nothing of."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")

    def call(self, x):
        return x * self.factor


class ScaledConfig(quantization.QuantizeConfig):
    def __init__(self, bits=3):
        self.bits = bits

    def get_weights_and_quantizers(self, layer):
        return [(layer.factor, Last(self.bits, False, True, True))]

    def set_quantize_weights(self, layer, quantize_weights):
        layer.factor = quantize_weights[0]

    def get_activations_and_quantizers(self, layer):
        return []

    def set_quantize_activations(self, layer, quantize_activations):
        pass

    def get_output_quantizers(self, layer):
        return [All(8, False, False, False)]

    def get_config(self):
        return {"bits": self.bits}


def fake(x, low, high, bits=8, symmetric=False):
    """Jacob et al. 2018, in numpy; symmetric grids are narrow."""
    x, low, high = (np.asarray(a, "float64") for a in (x, low, high))
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    if symmetric:
        most = 2 ** (bits - 1) - 1
        step = np.maximum(-low, high) / most
        return np.clip(np.rint(x / step), -most, most) * step
    step = (high - low) / (2**bits - 1)
    zero = np.rint(-low / step)
    return (np.clip(np.rint(x / step) + zero, 0, 2**bits - 1) - zero) * step


def fake_kernel(kernel, bits=8, per_channel=False):
    axis = tuple(range(kernel.ndim - 1)) if per_channel else None
    return fake(kernel, kernel.min(axis), kernel.max(axis), bits, symmetric=True)


def own(x, bits=8):
    """On the grid of its own extremes."""
    return fake(x, x.min(), x.max(), bits)


def compiled(model, rate=0.01):
    model.compile(keras.optimizers.SGD(rate), LOSS)
    return model


def fit(model, x=X, size=64, **kwargs):
    return model.fit(x, Y, batch_size=size, verbose=0, shuffle=False, **kwargs)


def predict(model, x=X):
    return np.asarray(model.predict(x, verbose=0))


def grids(model):
    return sorted(quantized(model).quantizers)


def assert_near(found, expected, step):
    """Equal, but for rounding at ties, which are rare."""
    off = np.abs(found - expected) / step
    assert off.max() < 1.02
    assert np.mean(off > 0.02) < 0.02


# -- the guide ------------------------------------------------------------------------------------


@pytest.mark.core
def test_whole_model(tmp_path):
    model = dense()
    before = model.get_weights()
    qmodel = quantization.quantize_model(model)
    assert not qmodel.compiled
    fit(compiled(qmodel, rate=0.0))  # one batch: its extremes are the ranges
    w1, b1, w2, b2 = (np.asarray(w, "float64") for w in before)
    x = np.maximum(own(X) @ fake_kernel(w1, per_channel=True) + b1, 0)
    x = own(x) @ fake_kernel(w2, per_channel=True) + b2
    assert_near(predict(qmodel), own(x), (x.max() - x.min()) / 255)
    fit(compiled(qmodel), size=16)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)  # a copy was trained
    qmodel.save(tmp_path / "m.keras")
    with quantization.quantize_scope():
        loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(predict(loaded), predict(qmodel))
    fit(loaded)
    assert sentei.strip(qmodel).get_config()["layers"] == model.get_config()["layers"]


def test_hdf5(tmp_path):
    qmodel = quantization.quantize_model(dense())
    fit(compiled(qmodel))
    keras.saving.save_model(qmodel, str(tmp_path / "m.h5"))
    with quantization.quantize_scope():
        loaded = keras.models.load_model(str(tmp_path / "m.h5"))
    np.testing.assert_array_equal(predict(loaded), predict(qmodel))


@pytest.mark.core
def test_some_layers():
    def function(layer):
        return annotate(layer) if layer.name == "scores" else layer

    model = dense()
    annotated = keras.models.clone_model(model, clone_function=function)
    annotated.set_weights(model.get_weights())
    assert annotated.layers[1].name == "quantize_annotate_scores"
    np.testing.assert_array_equal(predict(annotated), predict(model))
    qmodel = quantization.quantize_apply(annotated)
    # What the layer reads is rounded too; what it gives stays on its grid when it is flattened.
    assert grids(qmodel) == ["hidden", "scores", "scores/kernel"]
    fit(compiled(qmodel, rate=0.0))
    w1, b1, w2, b2 = (np.asarray(w, "float64") for w in model.get_weights())
    x = own(np.maximum(X.astype("float64") @ w1 + b1, 0)) @ fake_kernel(w2, per_channel=True) + b2
    assert_near(predict(qmodel), own(x), (x.max() - x.min()) / 255)


def test_functional_with_first_layer_annotated():
    x = keras.Input((12,), name="x")
    y = kl.Dense(4, name="other")(annotate(kl.Dense(10, name="one"))(x))
    qmodel = quantization.quantize_apply(keras.Model(x, keras.ops.relu(y)))
    assert grids(qmodel) == ["one", "one/kernel", "x"]


@pytest.mark.core
@pytest.mark.parametrize("config, bits", [(DenseConfig, 8), (FourBits, 4)])
def test_config_that_a_scheme_can_say(config, bits, tmp_path):
    model = quantization.quantize_annotate_model(
        keras.Sequential([keras.Input((12,)), annotate(Custom(4), config()), kl.Flatten()])
    )
    with quantization.quantize_scope({config.__name__: config}):
        qmodel = quantization.quantize_apply(model)
    kernel, bias = model.get_weights()
    # Without data there are no ranges yet: only weights are rounded.
    expected = X @ fake_kernel(kernel, bits) + bias
    np.testing.assert_allclose(predict(qmodel), expected, atol=1e-5)
    assert quantized(qmodel).stand_ins == {}
    fit(compiled(qmodel))
    if bits == 8:
        sentei.export(qmodel, tmp_path / "m.tflite")  # checks the file against the model


class NoOutput(FourBits):
    def get_output_quantizers(self, layer):
        pass


class ClippedNoOutput(NoOutput):
    def get_weights_and_quantizers(self, layer):
        return [(layer.kernel, Clipping())]


@pytest.mark.parametrize("config", [NoOutput, ClippedNoOutput])
def test_config_may_return_nothing_for_outputs(config):
    net = keras.Sequential(
        [keras.Input((12,)), quantization.quantize_annotate_layer(kl.Dense(4), config())]
    )
    fit(compiled(quantization.quantize_apply(net)))


def test_parts_of_a_layer():
    model = keras.Sequential([keras.Input((12,), name="x"), annotate(kl.Dense(4), NoActivation())])
    qmodel = quantization.quantize_apply(model)
    fit(compiled(qmodel, rate=0.0))
    kernel, bias = model.get_weights()
    assert len(grids(qmodel)) == 2
    np.testing.assert_allclose(predict(qmodel), own(X) @ fake_kernel(kernel) + bias, atol=1e-4)


@pytest.mark.core
def test_quantizer_of_ones_own(tmp_path):
    model = keras.Sequential(
        [keras.Input((12,)), annotate(kl.Dense(4, activation="relu"), Clipped()), kl.Dense(4)]
    )
    qmodel = quantization.quantize_apply(quantization.quantize_annotate_model(model))
    (name,) = quantized(qmodel).stand_ins
    inner = keras.Model(sentei.strip(qmodel).inputs, sentei.strip(qmodel).layers[0].output)
    fit(compiled(qmodel, rate=0.0))
    kernel, bias = model.layers[0].get_weights()
    x = own(X) @ np.clip(kernel, -0.1, 0.1) + bias
    wrapper = quantized(qmodel).stand_ins[name]
    expected = own(np.maximum(x, 0))
    found = ops.convert_to_numpy(wrapper(ops.convert_to_tensor(own(X).astype("float32"))))
    assert_near(found, expected, expected.max() / 255)
    np.testing.assert_allclose(predict(inner), np.maximum(X @ kernel + bias, 0), atol=1e-5)
    fit(compiled(qmodel), size=16)
    assert not np.array_equal(sentei.strip(qmodel).get_weights()[0], kernel)  # it trains
    qmodel.save(tmp_path / "m.keras")
    with quantization.quantize_scope({"Clipped": Clipped, "Clipping": Clipping}):
        loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(predict(loaded), predict(qmodel))


def test_layer_that_is_not_known():
    model = keras.Sequential([keras.Input((12,)), annotate(Scaled(), ScaledConfig())])
    qmodel = quantization.quantize_apply(model)
    factor = np.linspace(0.3, 2, 12)
    sentei.strip(qmodel).set_weights([factor])
    fit(compiled(qmodel, rate=0.0))
    x = own(X) * fake_kernel(factor, 3)
    assert_near(predict(qmodel), own(x), (x.max() - x.min()) / 255)
    free = quantization.remove_input_range(qmodel)  # keeps the range that the quantizer has seen
    expected = fake(X * fake_kernel(factor, 3), x.min(), x.max())
    assert_near(predict(free), expected, (x.max() - x.min()) / 255)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", [Last, Moving, All])
def test_quantizers(kind, bits, symmetric):
    quantizer = kind(bits, False, symmetric, symmetric)
    wrapper = quantization.QuantizeWrapper(kl.Dense(1), DenseConfig())
    weights = quantizer.build((12,), "x", wrapper)
    batches = [X[:8] * 2, X[8:16]]
    for batch in batches:
        quantizer(ops.convert_to_tensor(batch), True, weights)
    ends = [[batch.min() for batch in batches], [batch.max() for batch in batches]]
    low, high = {
        Last: (ends[0][-1], ends[1][-1]),
        Moving: (np.mean(ends[0]), np.mean(ends[1])),
        All: (min(ends[0]), max(ends[1])),
    }[kind]
    found = ops.convert_to_numpy(quantizer(ops.convert_to_tensor(X), False, weights))
    expected = fake(X, low, high, bits, symmetric)
    step = max(-low, high) / (2 ** (bits - 1) - 1) if symmetric else (high - low) / (2**bits - 1)
    assert_near(found, expected, step)
    assert kind.from_config(quantizer.get_config()) == quantizer


@pytest.mark.parametrize("bits, narrow", [(8, False), (4, False), (3, True)])
def test_fixed_quantizer_honours_bits(bits, narrow):
    found = ops.convert_to_numpy(Fixed(bits, -1.0, 3.0, narrow)(ops.convert_to_tensor(X), True, {}))
    step = 4.0 / (2**bits - 1 - narrow)
    steps = found / step
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
    inside = (X > -1) & (X < 3)
    assert np.abs(found - X)[inside].max() <= step / 2 + 1e-5
    assert len(np.unique(np.rint(steps))) == len(np.unique(np.rint(np.clip(X, -1.0, 3.0) / step)))


@pytest.mark.core
@pytest.mark.parametrize("per_axis", [True, False])
def test_four_bits(per_axis):
    scheme = quantization.experimental.default_n_bit.DefaultNBitQuantizeScheme(
        disable_per_axis=not per_axis, num_bits_weight=4, num_bits_activation=5
    )
    model = keras.Sequential([keras.Input((12,)), kl.Dense(4)])
    qmodel = quantization.quantize_apply(quantization.quantize_annotate_model(model), scheme)
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(
        predict(qmodel), X @ fake_kernel(kernel, 4, per_axis) + bias, atol=1e-5
    )
    fit(compiled(qmodel, rate=0.0))
    x = own(X, 5) @ fake_kernel(kernel, 4, per_axis) + bias
    assert_near(predict(qmodel), own(x, 5), (x.max() - x.min()) / 31)


# -- ranges of inputs and outputs -----------------------------------------------------------------


@pytest.mark.core
@pytest.mark.parametrize(
    "bits, ends, narrow, step, zero",
    [(8, (0, 1), False, 1 / 255, 0), (8, (-127, 127), True, 1, 128), (4, (-2, 1), False, 0.2, 10)],
)
def test_fixed_ranges(bits, ends, narrow, step, zero):
    model = dense()
    qmodel = quantization.quantize_model(model)
    fixed = quantization.fix_input_output_range(qmodel, bits, *ends, *ends, narrow)
    fit(compiled(fixed))
    layer = quantized(fixed)
    labels = sorted(layer.plan.activations)
    assert labels[1:] == ["input_layer", "scores"] or labels[0] == "hidden"
    for label in set(labels) - {"hidden"}:
        grid = layer.quantizers[label].grid()
        assert grid.scale[0] == pytest.approx(step, rel=1e-6)
        assert grid.zero_point[0] == zero - 2 ** (bits - 1)
    assert layer.quantizers["hidden"].kind.bits == 8
    np.testing.assert_array_equal(
        layer.float_model.get_weights()[0], quantized(qmodel).float_model.get_weights()[0]
    )
    with pytest.raises(ValueError, match="already quantized"):
        quantization.fix_input_output_range(model)


def test_input_range_removed():
    qmodel = quantization.quantize_model(keras.Sequential([keras.Input((12,)), kl.Dense(4)]))
    fit(compiled(qmodel, rate=0.0))
    free = quantization.remove_input_range(qmodel)
    kernel, bias = sentei.strip(qmodel).get_weights()
    x = own(X) @ fake_kernel(kernel, per_channel=True) + bias  # the range it was trained to
    expected = fake(X @ fake_kernel(kernel, per_channel=True) + bias, x.min(), x.max())
    assert_near(predict(free), expected, (x.max() - x.min()) / 255)


# -- where the original was wrong -----------------------------------------------------------------


def test_convolutions_keep_their_weight_quantizers(tmp_path):
    # Of the original, ReLU behind a convolution took its weight quantizer away, depthwise kernels
    # had one scale, and Rescaling was refused.
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kl.Rescaling(1 / 255),
            kl.Conv2D(8, 3, use_bias=False, name="conv"),
            kl.BatchNormalization(),
            kl.ReLU(),
            kl.DepthwiseConv2D(3, name="depthwise"),
            kl.ReLU(),
            kl.GlobalAveragePooling2D(),
            kl.Dense(4, name="scores"),
        ]
    )
    qmodel = quantization.quantize_model(model)
    fit(compiled(qmodel), x=IMAGES, size=16)
    kinds = {name: found.kind.axis for name, found in quantized(qmodel).quantizers.items()}
    assert kinds["conv/kernel"] == 3 and kinds["depthwise/kernel"] == 2
    assert quantized(qmodel).plan.floats == []
    report = sentei.export(qmodel, tmp_path / "m.tflite")
    assert report.integers.agreement == 1
    found = next(iter(Runner(tmp_path / "m.tflite")(IMAGES).values()))
    step = quantized(qmodel).quantizers["scores"].grid().scale[0]
    assert np.abs(found - predict(qmodel, IMAGES)).max() < 1.01 * step


def test_unsupported_layers_are_told():
    def model(wrap):
        return keras.Sequential([keras.Input((6, 2)), wrap(kl.LSTM(3, name="memory")), kl.Dense(4)])

    with pytest.warns(UserWarning, match="'memory' stays float"):
        qmodel = quantization.quantize_model(model(lambda layer: layer))
    assert quantized(qmodel).plan.floats[0].name == "memory"
    with pytest.raises(RuntimeError, match=r"Layer memory:LSTM is not supported.*QuantizeConfig"):
        quantization.quantize_apply(model(annotate))
    alone = keras.Sequential([keras.Input((12,)), annotate(Custom(4))])
    with pytest.raises(RuntimeError, match="not supported"):
        quantization.quantize_apply(alone)


def test_only_annotated_layers_within_others_are_rounded():
    model = keras.Sequential(
        [keras.Input((6, 2)), annotate(kl.Dense(4, name="first")), kl.LSTM(3), kl.Dense(4)]
    )
    qmodel = quantization.quantize_apply(model)
    assert [name for name in grids(qmodel) if "kernel" in name] == ["first/kernel"]


# -- parts ----------------------------------------------------------------------------------------


def test_configs_of_the_registry():
    eight = quantization.default_8bit
    layers = [kl.Dense(4, name="one"), kl.Add(), kl.BatchNormalization(name="norm")]
    x = keras.Input((12,), name="x")
    nothing = eight.default_8bit_quantize_configs.NoOpQuantizeConfig()
    output = eight.default_8bit_quantize_configs.Default8BitOutputQuantizeConfig()
    y = annotate(layers[0], eight.Default8BitQuantizeRegistry().get_quantize_config(layers[0]))(x)
    y = annotate(layers[1], output)([y, y])
    model = keras.Model(x, annotate(layers[2], nothing)(y))
    qmodel = quantization.quantize_apply(model)
    assert quantized(qmodel).stand_ins == {}
    assert grids(qmodel) == [layers[1].name, "one", "one/kernel", "x"]
    assert quantized(qmodel).quantizers["one/kernel"].kind.axis is None  # as it always was


class Registry(quantization.QuantizeRegistry):
    def get_quantize_config(self, layer):
        return FourBits() if isinstance(layer, kl.Dense) else None


class Scheme(quantization.QuantizeScheme):
    def get_quantize_registry(self):
        return Registry()

    def get_layout_transformer(self):
        return quantization.default_8bit.Default8BitQuantizeLayoutTransform()


class Extended(quantization.default_8bit.Default8BitQuantizeScheme):
    def get_quantize_registry(self):
        return Registry()


@pytest.mark.parametrize("scheme", [Scheme, Extended])
def test_scheme_of_ones_own(scheme):
    model = quantization.quantize_annotate_model(dense())
    qmodel = quantization.quantize_apply(model, scheme())
    kernel, bias, second, other = model.get_weights()
    hidden = np.maximum(X @ fake_kernel(kernel, 4) + bias, 0)
    np.testing.assert_allclose(predict(qmodel), hidden @ fake_kernel(second, 4) + other, atol=1e-5)


def test_wrapper_by_itself(tmp_path):
    layer = quantization.QuantizeWrapperV2(kl.Dense(4), FourBits())
    model = keras.Sequential([layer])
    fit(compiled(model, rate=0.0))
    assert layer.name.startswith("quant_dense")
    kernel, bias = layer.layer.get_weights()
    expected = own(X @ fake_kernel(kernel, 4) + bias)
    assert_near(predict(model), expected, (expected.max() - expected.min()) / 255)
    model.save(tmp_path / "m.keras")
    with quantization.quantize_scope({"FourBits": FourBits}):
        loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(predict(loaded), predict(model))


def test_annotated_model_saved_and_nested(tmp_path):
    x = keras.Input((12,))
    inner = keras.Sequential([kl.Dense(8, name="deep")], name="inner")
    model = keras.Model(x, kl.Dense(4, name="end")(inner(x)))
    annotated = quantization.quantize_annotate_model(model)
    annotated.save(tmp_path / "m.keras")
    with quantization.quantize_scope():
        loaded = keras.models.load_model(tmp_path / "m.keras")
    qmodel = quantization.quantize_apply(loaded)
    assert {"inner/deep/kernel", "end/kernel"} < set(grids(qmodel))


class Subclassed(keras.Model):
    pass


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: quantization.quantize_model(None), "`to_quantize` cannot be None"),
        (lambda: quantization.quantize_model(Subclassed()), "Sequential or Functional"),
        (lambda: quantization.quantize_annotate_model(kl.Dense(2)), r"keras\.Model.*Dense"),
        (lambda: annotate(dense()), r"keras\.layers\.Layer.*Sequential"),
        (lambda: annotate(kl.Dense(2), "config"), "QuantizeConfig.*str"),
        (lambda: quantization.quantize_apply(dense()), "at least one layer"),
        (
            lambda: quantization.quantize_model(quantization.quantize_model(dense())),
            r"quantized already.*sentei\.strip",
        ),
        (
            lambda: quantization.quantize_apply(keras.Sequential([annotate(kl.Dense(2))])),
            "must be a built model",
        ),
        (lambda: quantization.QuantizeWrapper(kl.Dense(2), None), "cannot be None"),
        (lambda: Fixed(8, 1.0, 0.0, False), "goes from a number to a higher one"),
        (lambda: Last(1, False, True, True), "between 2 and 32 bits"),
        (lambda: Moving(8.5, False, True, True), "must be an integer"),
    ],
)
def test_wrong_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_names():
    assert tfmot.quantization.keras is quantization
    for module in (quantization, quantization.default_8bit, quantization.quantizers):
        assert all(getattr(module, name).__doc__ for name in module.__all__)
