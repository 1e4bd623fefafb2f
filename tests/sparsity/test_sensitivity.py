"""The scan of sensitivities: against a model in numpy and uses counted by hand."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import sentei
from sentei.core.errors import SenteiError
from sentei.sparsity import ConstantSparsity, Sensitivity, sensitivity

pytestmark = pytest.mark.core


def weights_of(model):
    return [w.copy() for w in model.get_weights()]


def same(before, after):
    return all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def dense():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6,))
    x = kl.Dense(8, activation="relu", name="first")(inputs)
    return keras.Model(inputs, kl.Dense(3, name="last")(x))


X = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")


def test_harm_is_the_divergence_that_numpy_finds():
    model = dense()
    before = weights_of(model)
    scan = sensitivity(model, X, levels=(0.5, 0.75), batch_size=16)

    def logits(w):
        z = np.maximum(X @ w[0] + w[1], 0) @ w[2] + w[3]
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    assert [tried.path for tried in scan.weights] == ["first/kernel", "last/kernel"]
    for tried, place in zip(scan.weights, (0, 2), strict=True):
        for level, harm in zip(scan.levels, tried.harm, strict=True):
            pruned = weights_of(model)
            kernel = pruned[place]
            kernel[np.abs(kernel) <= np.quantile(np.abs(kernel), level)] = 0
            p, q = logits(before), logits(pruned)
            assert harm == pytest.approx((np.exp(p) * (p - q)).sum(1).mean(), rel=1e-3)
    assert same(before, weights_of(model))


def test_uses_are_counted_a_call_at_a_time():
    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 4))
    shared = kl.Conv2D(4, 1, name="shared")
    x = shared(shared(image))
    x = kl.Conv2D(6, 3, 2, padding="same", name="strided")(x)
    x = kl.Conv2DTranspose(2, 2, 2, name="transposed")(x)
    x = kl.SeparableConv2D(3, 3, name="separable")(x)
    x = kl.Reshape((36, 3))(x)
    x = kl.Dense(5, name="positions")(x)
    x = kl.EinsumDense("abc,cd->abd", (36, 7), name="einsum")(x)
    x = kl.Dense(2, name="last")(kl.GlobalAveragePooling1D()(x))
    model = keras.Model(image, x)
    scan = sensitivity(model, np.ones((2, 8, 8, 4), "float32"), levels=(0.5,))
    assert {tried.path: tried.uses for tried in scan.weights} == {
        "shared/kernel": 128, "strided/kernel": 16, "transposed/kernel": 16,
        "separable/pointwise_kernel": 36, "positions/kernel": 36, "einsum/kernel": 36,
        "last/kernel": 1,
    }  # fmt: skip
    assert "separable/depthwise_kernel" in scan.others


def test_shares_go_to_prune_and_come_out_of_it():
    model = dense()
    scan = sensitivity(model, X, layers=["first"])
    shares = scan.allocate(0.75, multiplications=0.5)
    assert shares == {"first/kernel": pytest.approx(0.75, abs=1e-6), "last/kernel": None}
    model.compile("sgd", "mse")
    sentei.prune(model, ConstantSparsity(0.75), layers=shares)
    model.train_on_batch(X, np.zeros((40, 3), "float32"))
    zeros = [int((w == 0).sum()) for w in weights_of(model)]
    assert zeros[0] == 36
    assert zeros[2] == 0


def test_a_recurrent_layer_is_scanned_but_how_often_it_is_used_is_not_known():
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((5, 4)), kl.LSTM(6, name="memory"), kl.Dense(2)])
    scan = sensitivity(model, np.ones((3, 5, 4), "float32"), levels=(0.5, 0.9))
    assert sum(v or 0 for v in scan.allocate(0.5).values()) > 0
    with pytest.raises(SenteiError, match=r"memory.*is not known"):
        scan.allocate(0.5, multiplications=0.5)


class Breaks(Exception):
    pass


def test_the_weights_are_put_back_when_the_scan_fails():
    model = dense()
    before = weights_of(model)

    def distance(expected, found):
        raise Breaks

    with pytest.raises(Breaks):
        sensitivity(model, X, distance=distance)
    assert same(before, weights_of(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (0.9, 0.5)}, "`levels` must be shares of zeros above 0, ascending"),
        ({"levels": ()}, "`levels` must be"),
        ({"layers": {"first": 0.5}}, "gives 'first' the sparsity 0.5"),
        ({"layers": lambda layer: None}, "Nothing in model .* is selected"),
        ({"samples": X[:, :3]}, "have the shape"),
        ({"samples": []}, "samples"),
    ],
)
def test_bad_requests_are_refused(options, message):
    samples = options.pop("samples", X)
    with pytest.raises(SenteiError, match=message):
        sensitivity(dense(), samples, **options)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"sparsity": 0.99}, "No weight is made sparser than 98%"),
        ({"sparsity": 70}, "Did you mean 0.7"),
        ({"sparsity": 0.5, "least": 0.6}, "`least` must not be more than all have together"),
        ({"sparsity": 0.5, "multiplications": 1.5}, "`multiplications` must be"),
    ],
)
def test_shares_that_cannot_be_are_refused(asked, message):
    scan = sensitivity(dense(), X, levels=(0.5,))
    with pytest.raises(SenteiError, match=message):
        scan.allocate(**asked)


def test_a_scan_is_shown_as_a_table():
    scan = sensitivity(dense(), X, levels=(0.5, 0.9))
    lines = str(scan).splitlines()
    assert isinstance(scan, Sensitivity)
    assert lines[0].split() == ["50%", "90%"]
    assert [line.split()[0] for line in lines[1:]] == ["first/kernel", "last/kernel"]
