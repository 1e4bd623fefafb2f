"""Prices on bits: the estimate, its slope, and what training and the file make of them."""

import keras
import numpy as np
import pytest
from keras import ops

import sentei
from sentei.core.errors import SenteiError
from sentei.quantization import Custom, RateLog, RateTarget, quantizers, rate_report
from sentei.quantization.rate import estimate
from sentei.quantization.rate.quantizer import BITS_IN_KILOBYTE

pytestmark = pytest.mark.core


def uneven(seed=0, shape=(60, 50)):
    """Integers whose rows and columns are of different density."""
    random = np.random.default_rng(seed)
    dense = np.outer(random.random(shape[0]) ** 2, random.random(shape[1]))
    size = random.geometric(0.6, shape) * random.choice([-1, 1], shape)
    return np.where(random.random(shape) < dense, size, 0).astype("float32")


def numpy_bits(q):
    """The code length by a plain reading of its definition."""
    occupied = q != 0
    mean, n = occupied.mean(), q.size
    chance = mean
    for axis in range(q.ndim):
        density = occupied.mean(tuple(a for a in range(q.ndim) if a != axis), keepdims=True)
        half = 0.5 * q.shape[axis] / n
        chance = chance * (density + half) / (mean + half)
    chance = np.clip(chance, 1e-4, 0.98)
    size = np.abs(q)[occupied].astype(int)
    shares = np.append(np.bincount(size, minlength=5)[1:5], (size > 4).sum()) / len(size)
    shares = shares * 0.98 + 0.02 / 5
    excess = max((size[size > 4] - 4).mean(), 1.0) if (size > 4).any() else 1.0
    last = 1 / (excess + 1)
    bits = -np.log2(1 - chance)
    bits[occupied] = -np.log2(chance[occupied]) + 1 - np.log2(shares[np.minimum(size, 5) - 1])
    bits[np.abs(q) > 4] -= np.log2(last) + (np.abs(q)[np.abs(q) > 4] - 5) * np.log2(1 - last)
    return bits


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("shape", [(3, 3, 8, 20), (400,)])
def test_the_code_length_is_what_it_says(shape):
    q = uneven(shape=(*shape, 1) if len(shape) < 2 else (np.prod(shape[:-1]), shape[-1]))
    q = q.reshape(shape)
    for library in (np, ops):
        table = estimate.fit(ops.convert_to_tensor(q) if library is ops else q, library)
        table = estimate.Table(*[keras.tree.map_structure(ops.convert_to_tensor, part) for part in
                              (list(table.densities), table.shares, table.excess)])  # fmt: skip
        found = numbers(estimate.code_length(ops.convert_to_tensor(q), table, 127))
        np.testing.assert_allclose(found, numpy_bits(q), rtol=1e-4, atol=1e-4)


def rated(price, model=None, **changes):
    if model is None:
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5)])
    return sentei.quantize(model, Custom(activation_bits=None, rate=price, **changes))


def test_one_step_goes_down_the_slope():
    """With no other loss, plain descent moves each weight by rate x price x slope."""
    qmodel = rated(100.0)
    quantizer = quantizers(qmodel)[0][1]
    kernel = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    kernel = np.sign(kernel) * (np.floor(np.abs(kernel) * 2) + 0.3)  # far from every integer
    quantizer.variable.assign(kernel)
    quantizer.set_step(1.0)
    low = np.floor(np.abs(kernel))
    table = quantizer.table()
    costs = [
        numbers(estimate.code_length(ops.convert_to_tensor(low + k), table, 127)) for k in (0, 1)
    ]
    slope = np.maximum(costs[1] - costs[0], 1.0) * np.sign(kernel)
    qmodel.compile(keras.optimizers.SGD(0.1), lambda y, out: 0.0 * ops.sum(out))
    qmodel.fit(np.zeros((4, 6), "float32"), np.zeros(4), batch_size=4, verbose=0)
    moved = kernel - numbers(quantizer.variable)
    np.testing.assert_allclose(moved, 0.1 * 100 / BITS_IN_KILOBYTE * slope, rtol=1e-2, atol=1e-6)


def task():
    random = np.random.default_rng(0)
    x = random.normal(size=(512, 12)).astype("float32")
    y = (x[:, 0] * x[:, 1] > 0).astype("int64")
    model = keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(24, activation="relu"), keras.layers.Dense(2)]
    )
    return model, x, y


def priced_task(price):
    keras.utils.set_random_seed(0)
    model, x, y = task()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel = rated(price, model)
    qmodel.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    return qmodel, x, y


def test_a_price_buys_bits_and_training_resumes(tmp_path):
    qmodel, x, y = priced_task(4.0)
    before = rate_report(qmodel).bits
    log = RateLog()
    history = qmodel.fit(x, y, batch_size=64, epochs=12, verbose=0, callbacks=[log]).history
    assert rate_report(qmodel).bits < 0.6 * before
    assert history["accuracy"][-1] > 0.8
    assert history["bits_per_weight"][-1] == pytest.approx(rate_report(qmodel).bits_per_weight)
    assert "all: " in str(rate_report(qmodel))
    qmodel.save(tmp_path / "half.keras")
    again = keras.models.load_model(tmp_path / "half.keras")
    assert rate_report(again).rows == rate_report(qmodel).rows
    for model in (qmodel, again):
        model.fit(x, y, batch_size=64, epochs=1, verbose=0, shuffle=False)
    assert rate_report(again).rows == rate_report(qmodel).rows


@pytest.mark.parametrize("size", [45.0, 75.0])
def test_the_price_moves_until_the_size_is_right(size):
    qmodel, x, y = priced_task(1.0)
    log, target = RateLog(), RateTarget(size)
    history = qmodel.fit(x, y, batch_size=32, epochs=24, verbose=0, callbacks=[target, log]).history
    assert rate_report(qmodel).bits / 8 == pytest.approx(size, rel=0.15)
    sizes = np.array(history["bits_per_weight"]) * sum(r.size for r in rate_report(qmodel).rows) / 8
    way = np.minimum((np.arange(24) + 1) / (0.8 * 24), 1.0)
    goals = target.start + (size - target.start) * way
    factors = np.cumprod(np.clip((sizes / goals) ** 2, 0.75, 4 / 3))
    np.testing.assert_allclose(history["price_factor"], factors, rtol=1e-4)


def test_a_price_that_moved_moves_on_after_saving(tmp_path):
    qmodel, x, y = priced_task(1.0)
    qmodel.fit(x, y, epochs=3, verbose=0, callbacks=[RateTarget(60.0, start=84.0)])
    qmodel.save(tmp_path / "half.keras")
    again = keras.models.load_model(tmp_path / "half.keras")
    moved = float(quantizers(qmodel)[0][1].factor)
    assert moved != 1.0
    assert [float(q.factor) for _, q in quantizers(again)] == pytest.approx([moved] * 4)


def test_a_target_that_cannot_be_is_refused():
    for arguments in ({"size": 0}, {"size": 9, "start": -1}, {"size": float("nan")}):
        with pytest.raises(SenteiError, match="must be a number of bytes above 0"):
            RateTarget(**arguments)
    with pytest.raises(SenteiError, match="share of the epochs"):
        RateTarget(9, by=0)
    x, y = np.zeros((4, 6), "float32"), np.zeros((4, 5), "float32")
    qmodel = rated(0.0)
    qmodel.compile("sgd", "mse")
    with pytest.raises(SenteiError, match="All prices are 0"):
        qmodel.fit(x, y, verbose=0, callbacks=[RateTarget(9)])
    plain = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5)])
    plain.compile("sgd", "mse")
    with pytest.raises(SenteiError, match="has a price"):
        plain.fit(x, y, verbose=0, callbacks=[RateTarget(9)])


def test_pruned_weights_stay_zero():
    keras.utils.set_random_seed(0)
    model, x, y = task()
    kernel = model.layers[0].kernel
    mask = np.random.default_rng(0).random(kernel.shape) < 0.3
    kernel.assign(numbers(kernel) * mask)
    qmodel = rated(0.1, model)
    qmodel.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    sentei.preserve(qmodel)
    qmodel.fit(x, y, batch_size=256, verbose=0)
    assert (numbers(kernel)[~mask] == 0).all()
    assert quantizers(qmodel)[0][1].integers()[mask].any()


def test_a_price_without_bits_is_refused():
    for changes in ({"rate": -1.0}, {"rate": 1.0, "weight_bits": None}):
        with pytest.raises(SenteiError, match="the price of a kilobyte, must be at least 0"):
            Custom(**changes)
    with pytest.raises(SenteiError, match="`rate` is for float activations as yet"):
        Custom(rate=1.0)
    with pytest.raises(SenteiError, match="has a price"):
        rate_report(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]))
