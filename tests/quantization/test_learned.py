"""Training with learned steps: LSQ's gradients, frozen batch norm, resuming in the middle."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sentei
from sentei.quantization import Custom, Int4, quantizers
from sentei.quantization.grid import Kind
from sentei.quantization.learned import learned, slowed
from sentei.quantization.steps import nearest_step

pytestmark = pytest.mark.core

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6, 6, 2)).astype("float32")
Y = RNG.integers(0, 3, 64)


def values(variable):
    return np.asarray(ops.convert_to_numpy(variable), np.float32)


def network():
    x = keras.Input((6, 6, 2), name="x")
    y = kl.BatchNormalization(name="bn", momentum=0.5)(kl.Conv2D(4, 3, name="conv")(x))
    y = kl.GlobalAveragePooling2D(name="mean")(kl.ReLU(name="relu")(y))
    return keras.Model(x, kl.Dense(3, name="scores")(y), name="net")


class Step(keras.layers.Layer):
    """A tensor on a grid whose step is trained, to ask any backend for its gradient."""

    def __init__(self, kind, start):
        super().__init__()
        self.kind, self.start = kind, start
        self.step = self.add_weight(shape=(1,), initializer=keras.initializers.Constant(start))

    def call(self, x):
        scale = slowed(self.step.value, 9, self.kind)
        return learned(x, scale, ops.zeros((1,)), self.kind)


def test_a_step_gets_the_gradient_of_equation_3():
    kind = Kind(4, symmetric=True, narrow=True)
    x = np.array([[-9.0, -3.6, -1.3, -0.4, 0.0, 0.2, 1.6, 2.4, 8.0]], "float32")
    layer = Step(kind, 0.5)
    model = keras.Sequential([keras.Input((9,)), layer])
    model.compile(keras.optimizers.SGD(1.0), lambda y_true, y_pred: ops.sum(y_pred))
    rounded = model.predict(x, verbose=0)
    np.testing.assert_array_equal(rounded, 0.5 * np.clip(np.round(x / 0.5), -7, 7))
    model.train_on_batch(x, x)
    v = x / 0.5
    slope = np.where(v <= -7, -7, np.where(v >= 7, 7, np.round(v) - v)).sum()
    assert 0.5 - values(layer.step)[0] == pytest.approx(slope / np.sqrt(9 * 7), rel=1e-5)


def test_the_nearest_step_beats_all_others():
    weight = RNG.normal(size=(1000, 4)).astype("float32")
    kind = Kind(4, symmetric=True, narrow=True, axis=1)
    found = nearest_step(weight, kind)
    largest = np.abs(weight).max(0) / 7

    def error(step):
        return ((np.clip(np.round(weight / step), -7, 7) * step - weight) ** 2).sum(0)

    others = [error(largest * share) for share in np.linspace(0.3, 1.0, 71)]
    assert (error(found) <= np.min(others, axis=0) * (1 + 1e-5)).all()
    assert (error(found) < 0.9 * error(largest)).any()


def test_learned_steps_and_ranges_move_and_lower_the_loss():
    qmodel = sentei.quantize(
        network(), Int4(weight_steps="learned", ranges="learned"), calibration=X
    )
    steps = {n: values(q.step) for n, q in quantizers(qmodel) if hasattr(q, "step")}
    assert set(steps) == {"conv/kernel", "scores/kernel"} and all(v.all() for v in steps.values())
    qmodel.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(True))
    losses = qmodel.fit(X, Y, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for name, quantizer in quantizers(qmodel):
        if name in steps:
            assert (values(quantizer.ratio) != 1).all()
            learned_steps = values(quantizer.step) * values(quantizer.ratio)
            np.testing.assert_array_equal(quantizer.grid().scale, learned_steps)


def test_under_gradient_descent_a_weights_step_moves_as_in_equation_3():
    model = keras.Sequential([keras.Input((1,)), kl.Dense(9, use_bias=False, name="d")])
    weight = np.array([[-9.0, -3.6, -1.3, -0.4, 0.0, 0.2, 1.6, 2.4, 8.0]], "float32")
    kernel = model.get_layer("d").kernel
    kernel.assign(weight)
    # Seen once on TensorFlow: the gradient of the step was that of the weights after their update.
    kernel.trainable = False
    scheme = Custom(4, None, per_channel=False, weight_steps="learned")
    qmodel = sentei.quantize(model, scheme)
    ((_, quantizer),) = quantizers(qmodel)
    quantizer.set_steps(np.full(1, 0.5))
    qmodel.compile(keras.optimizers.SGD(0.01), lambda y_true, y_pred: ops.sum(y_pred))
    qmodel.train_on_batch(np.ones((1, 1)), np.zeros((1, 9)))
    v = weight / 0.5
    slope = np.where(v <= -7, -7, np.where(v >= 7, 7, np.round(v) - v)).sum() / np.sqrt(9 * 7)
    assert quantizer.grid().scale[0] == pytest.approx(0.5 - 0.01 * slope, rel=1e-5)


def test_batch_norm_stands_still_after_its_steps():
    scheme = Custom(batch_norm_frozen_after=2)
    model = network()
    qmodel = sentei.quantize(model, scheme, calibration=X)
    qmodel.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(True))
    means = [values(model.get_layer("bn").moving_mean)]
    for _ in range(4):
        loss = qmodel.train_on_batch(X, Y)
        means.append(values(model.get_layer("bn").moving_mean))
    assert (means[0] != means[1]).all() and (means[1] != means[2]).all()
    np.testing.assert_array_equal(means[2], means[4])
    assert loss == pytest.approx(qmodel.evaluate(X, Y, verbose=0), rel=1e-2)  # biases aside


def test_resumed_in_the_middle_it_is_the_same_bit_for_bit(tmp_path):
    scheme = Int4(weight_steps="learned", ranges="learned", batch_norm_frozen_after=6)
    qmodel = sentei.quantize(network(), scheme, calibration=X)
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))

    def train(model):
        model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)  # 4 steps

    train(qmodel)
    qmodel.save(tmp_path / "q.keras")
    train(qmodel)
    loaded = keras.models.load_model(tmp_path / "q.keras")
    train(loaded)
    for have, want in zip(loaded.variables, qmodel.variables, strict=True):
        np.testing.assert_array_equal(values(have), values(want), err_msg=have.path)
