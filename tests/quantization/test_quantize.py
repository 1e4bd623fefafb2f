"""`sentei.quantize` as a user meets it: calibrated, trained, saved, stripped, pruned, refused."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import sentei
from sentei.core.errors import SenteiError
from sentei.quantization import Custom, calibrate, quantizers, report

pytestmark = pytest.mark.core

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 5)).astype("float32")
Y = (X @ RNG.normal(size=(5, 3))).astype("float32")


def network():
    x = keras.Input((5,), name="x")
    y = kl.Dense(8, activation="relu", name="hidden")(x)
    return keras.Model(x, kl.Dense(3, name="scores")(y), name="net")


def integers(qmodel):
    """The model computed by numpy on integers, from its grids alone."""
    grids = {name: quantizer.grid() for name, quantizer in quantizers(qmodel)}
    layers = {layer.name: layer for layer in sentei.strip(qmodel).layers}
    x = grids["x"].dequantize(grids["x"].quantize(X))
    for name in ("hidden", "scores"):
        kernel, bias = (np.asarray(keras.ops.convert_to_numpy(w)) for w in layers[name].weights)
        grid, step = grids[f"{name}/kernel"], grids["x" if name == "hidden" else "hidden"].scale
        bias = np.rint(bias / (step * grid.scale)) * (step * grid.scale)
        whole = x.astype("float64") @ grid.dequantize(grid.quantize(kernel)) + bias
        whole = np.maximum(whole, 0) if name == "hidden" else whole
        if grid.kind.bits == 4 and len(kernel) % 2:  # left to LiteRT's own kernels: rounded twice
            _, exponent = np.frexp(step * grid.scale.astype("float64") / grids[name].scale)
            finer = grids[name].scale / 2.0 ** np.maximum(-exponent, 0)
            steps = np.rint(whole / finer) * finer / grids[name].scale
            whole = np.floor(steps + 0.5) * grids[name].scale
        x = grids[name].dequantize(grids[name].quantize(whole))
    return x, float(grids["scores"].scale[0])


@pytest.mark.parametrize("scheme", ["int8", "int4", Custom(4, 6, symmetric=True, block=2)])
def test_it_computes_what_its_integers_do(scheme):
    qmodel = sentei.quantize(network(), scheme, calibration=X)
    found = qmodel.predict(X, verbose=0)
    if isinstance(scheme, Custom):  # twice rounded at ties: see the next test for its grids
        assert np.unique(found.ravel()).size < 2**6
        return
    expected, step = integers(qmodel)
    off = np.abs(found - expected) / step
    assert off.max() < 0.01


def test_it_shares_the_variables_and_is_stripped_to_the_same_model():
    model = network()
    qmodel = sentei.quantize(model, calibration=X)
    assert sentei.strip(qmodel) is model
    qmodel.compile(keras.optimizers.Adam(0.01), "mse")
    before = model.get_weights()
    losses = qmodel.fit(X, Y, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    assert not np.array_equal(before[0], model.get_weights()[0])
    assert sum(np.prod(v.shape) for v in qmodel.trainable_variables) == model.count_params()


@pytest.mark.parametrize(
    "ranges", ["fixed", "moving", pytest.param("learned", marks=pytest.mark.slow)]
)
def test_saved_and_loaded_it_goes_on_the_same(ranges, tmp_path):
    qmodel = sentei.quantize(network(), Custom(ranges=ranges), calibration=X)
    qmodel.compile("adam", "mse")
    before = [quantizer.grid().scale for _, quantizer in quantizers(qmodel)][-1]
    qmodel.fit(X, Y, batch_size=16, verbose=0, shuffle=False)
    after = [quantizer.grid().scale for _, quantizer in quantizers(qmodel)][-1]
    assert (before == after) == (ranges == "fixed")
    qmodel.save(tmp_path / "q.keras")
    loaded = keras.models.load_model(tmp_path / "q.keras")
    for each in (qmodel, loaded):
        each.fit(X, Y, batch_size=16, verbose=0, shuffle=False)
    np.testing.assert_allclose(
        loaded.predict(X, verbose=0), qmodel.predict(X, verbose=0), rtol=1e-6, atol=1e-6
    )
    assert [name for name, _ in quantizers(loaded)] == [name for name, _ in quantizers(qmodel)]
    assert sentei.strip(loaded).name == "net"


def test_without_calibration_it_is_float_until_training_shows_the_ranges():
    model = network()
    qmodel = sentei.quantize(model)
    with pytest.raises(SenteiError, match=r"'x' has no range yet\. Calibrate"):
        dict(quantizers(qmodel))["x"].grid()
    qmodel.compile(keras.optimizers.SGD(0.0), "mse")
    for batch in (X[:16], 3 * X[16:32]):
        qmodel.train_on_batch(batch, Y[:16])
    grid = dict(quantizers(qmodel))["x"].grid()
    low, high = np.mean([[X[:16].min(), X[:16].max()], [3 * X[16:32].min(), 3 * X[16:32].max()]], 0)
    assert grid.scale[0] == pytest.approx((high - low) / 255, rel=1e-5)


def test_a_moving_range_is_frozen_after_its_steps():
    qmodel = sentei.quantize(network(), Custom(ranges="moving", frozen_after=2), calibration=X)
    qmodel.compile("sgd", "mse")
    scales = []
    for _ in range(4):
        qmodel.train_on_batch(2 * X, Y)
        scales.append(float(dict(quantizers(qmodel))["x"].grid().scale[0]))
    assert scales[0] < scales[1] == scales[2] == scales[3]


def test_a_pruned_weight_stays_zero_while_it_adapts():
    from sentei.sparsity import ConstantSparsity

    qmodel = sentei.quantize(network(), calibration=X)
    qmodel.compile("adam", "mse")
    sentei.prune(qmodel, ConstantSparsity(0.5))
    qmodel.fit(X, Y, epochs=2, verbose=0)
    kernel = sentei.strip(qmodel).get_layer("hidden").kernel
    assert np.mean(keras.ops.convert_to_numpy(kernel) == 0) == pytest.approx(0.5)


def sources():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return X[index * 16 : index * 16 + 16], Y[index * 16 : index * 16 + 16]

    return {
        "array": X,
        "dict": {"x": X},
        "generator": (X[i : i + 16] for i in range(0, 48, 16)),
        "pairs": [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 48, 16)],
        "PyDataset": Batches(),
    }


@pytest.mark.parametrize("name", sources())
def test_calibration_takes(name):
    model = network()
    expected = sentei.quantize(model, Custom(observer="minmax"), calibration=X)
    found = sentei.quantize(model, Custom(observer="minmax"), calibration=sources()[name])
    for (_, a), (_, b) in zip(quantizers(expected), quantizers(found), strict=True):
        np.testing.assert_array_equal(a.grid().scale, b.grid().scale)


def test_calibration_does_not_see_masked_steps():
    model = keras.Sequential([keras.Input((4, 2)), kl.Masking(name="mask"), kl.LSTM(3, name="m")])
    x = np.zeros((2, 4, 2), "float32")
    x[:, :2] = [1.0, -2.0]
    dense = keras.Sequential(
        [*model.layers[:1], kl.TimeDistributed(kl.Dense(2), name="d"), kl.LSTM(3)]
    )
    dense.build((None, 4, 2))
    layer = dense.layers[1].layer
    layer.set_weights([np.eye(2, dtype="float32"), np.full(2, 50.0, "float32")])
    layer.bias.assign([50.0, 50.0])
    qmodel = sentei.quantize(dense, Custom(observer="minmax"), calibration=x)
    grid = dict(quantizers(qmodel))["d"].grid()
    assert grid.scale[0] * 255 == pytest.approx(51.0, rel=1e-3)  # from 0 to 1 + 50


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (X[:0], "calibration data is empty"),
        (iter(()), "calibration data is empty"),
        (X[:, :4], r"input 'x' have the shape \(32, 4\); the model takes \(None, 5\)"),
        (np.full((4, 5), np.nan, "float32"), "input 'x' are not finite"),
        ({"y": X}, r"lack the inputs \['x'\]"),
        (3, "must be an array"),
    ],
    ids=["no samples", "no batches", "shape", "nan", "other input", "number"],
)
def test_samples_that_do_not_fit_change_nothing(data, message):
    qmodel = sentei.quantize(network(), calibration=X)
    before = [quantizer.grid().scale for _, quantizer in quantizers(qmodel)]
    with pytest.raises(SenteiError, match=message):
        calibrate(qmodel, data)
    for a, (_, b) in zip(before, quantizers(qmodel), strict=True):
        np.testing.assert_array_equal(a, b.grid().scale)


def test_zero_ranges_and_zero_channels_train_without_nan():
    model = network()
    model.get_layer("hidden").kernel.assign(np.zeros((5, 8), "float32"))
    qmodel = sentei.quantize(model, calibration=np.zeros((4, 5), "float32"))
    qmodel.compile("adam", "mse")
    assert np.isfinite(qmodel.fit(X, Y, verbose=0).history["loss"]).all()
    assert np.isfinite(qmodel.predict(X, verbose=0)).all()


def test_the_report_finds_the_tensor_that_hurts():
    model = network()
    qmodel = sentei.quantize(model, layers={"scores": Custom(weight_bits=2)}, calibration=X)
    found = report(qmodel, X)
    assert found.rows[0].name == "scores/kernel" and found.rows[0].bits == 2
    assert found.rows[0].output_error > 10 * found.rows[1].output_error
    plain, rounded = model.predict(X, verbose=0), qmodel.predict(X, verbose=0)
    expected = np.sum((rounded - plain) ** 2) / np.sum(plain**2)
    assert found.output_error == pytest.approx(expected, rel=0.02)
    row = next(row for row in found.rows if row.name == "x")
    grid = dict(quantizers(qmodel))["x"].grid()
    noise = np.sum((grid.dequantize(grid.quantize(X)) - X) ** 2)
    assert row.sqnr == pytest.approx(10 * np.log10(np.sum(X**2) / noise), abs=0.1)
    assert "scores/kernel" in str(found).splitlines()[1]


def test_what_is_no_model_for_it_is_refused():
    qmodel = sentei.quantize(network(), calibration=X)
    with pytest.raises(SenteiError, match="quantized already"):
        sentei.quantize(qmodel)
    with pytest.raises(SenteiError, match="`scheme` must be one of"):
        sentei.quantize(network(), "int7")
    with pytest.raises(SenteiError, match="not built"):
        sentei.quantize(keras.Sequential([kl.Dense(2)]))
    with pytest.raises(SenteiError, match=r"made by sentei\.quantize"):
        calibrate(network(), X)
