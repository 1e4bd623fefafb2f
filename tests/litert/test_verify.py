"""Sample inputs and the comparison of a file with Keras."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import layers as kl

from sentei.core.errors import ExportError, ExportMismatch, SenteiError
from sentei.litert.samples import given_samples, random_samples
from sentei.litert.signature import Signature, TensorSpec, signature_of
from sentei.litert.verify import compare, predictions

SPEC = TensorSpec("x", (2, 3), "float32")


def drawn(model, batch_size=4, count=6, **signature):
    pinned = signature_of(model, signature or None, batch_size)
    samples = random_samples(model, pinned, count)
    assert [[(a.shape, a.dtype.name) for a in sample] for sample in samples] == [
        [(spec.shape, spec.dtype) for spec in pinned.inputs]
    ] * count
    return [np.concatenate(column) for column in zip(*samples, strict=True)]


def sequential(*layers, **of_input):
    return keras.Sequential([keras.Input((50,), **of_input), *layers])


# --- random inputs -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64", "uint8"])
def test_indices_stay_inside_the_table_and_reach_all_of_it(dtype):
    (x,) = drawn(sequential(kl.Embedding(11, 4), dtype=dtype))
    assert set(np.unique(x)) == set(range(11))


def test_indices_of_a_table_behind_other_layers_and_in_nested_models():
    token = keras.Input((50,))
    inner = keras.Model(token, kl.Embedding(7, 4)(kl.Reshape((50,))(token)))
    number, word = keras.Input((50,)), keras.Input((50,))
    model = keras.Model([number, word], [kl.Dense(2)(number), inner(kl.Flatten()(word))])
    numbers, words = drawn(model)
    assert len(np.unique(numbers)) > 100
    assert words.dtype == np.float32
    assert set(np.unique(words)) == set(range(7))


def test_indices_of_a_subclassed_model():
    class Text(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = kl.Embedding(5, 4)

        def call(self, x):
            return self.table(x)

    model = Text()
    model(np.zeros((1, 50), "int32"))
    (x,) = drawn(model)
    assert set(np.unique(x)) == set(range(5))


def test_numbers_come_out_of_preprocessing_around_zero():
    (x,) = drawn(sequential(kl.Rescaling(1 / 127.5, offset=-1.0)))
    scaled = x / 127.5 - 1
    assert 0.3 < scaled.std() < 3
    assert abs(scaled.mean()) < 1
    normalization = kl.Normalization(mean=100.0, variance=900.0)
    (x,) = drawn(sequential(normalization))
    assert 0.3 < ((x - 100) / 30).std() < 3


def test_whole_pixels():
    (x,) = drawn(sequential(kl.Rescaling(1 / 255), dtype="uint8"))
    assert x.max() > 200
    assert len(np.unique(x)) > 50


def test_plain_numbers_and_truth_values():
    (x,) = drawn(sequential(kl.Dense(2)))
    assert x.min() < -1 < 1 < x.max()
    (x,) = drawn(sequential(kl.Lambda(lambda x: keras.ops.cast(x, "float32")), dtype="bool"))
    assert {True, False} == set(np.unique(x))


def test_samples_are_the_same_every_time_and_differ_among_themselves():
    model = sequential(kl.Dense(2))
    pinned = signature_of(model)
    one, two = random_samples(model, pinned), random_samples(model, pinned)
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first[0], second[0])
    assert np.abs(one[0][0] - one[1][0]).max() > 0.1


# --- given inputs --------------------------------------------------------------------------------


@given(rows=st.integers(1, 9), batch=st.integers(1, 4))
def test_given_samples_are_cut_into_batches(rows, batch):
    signature = Signature(
        [TensorSpec("a", (batch, 3), "float32"), TensorSpec("b", (batch,), "int32")]
    )
    a, b = np.arange(rows * 3).reshape(rows, 3), np.arange(rows)
    for form in ([a, b], {"a": a, "b": b}, (a, b)):
        samples = given_samples(form, signature)
        assert len(samples) == -(-rows // batch)
        assert all(x.shape == (batch, 3) and y.shape == (batch,) for x, y in samples)
        assert samples[0][0].dtype == np.float32
        np.testing.assert_array_equal(np.concatenate([x for x, _ in samples])[:rows], a)
        np.testing.assert_array_equal(np.concatenate([y for _, y in samples])[:rows], b)
        # The last batch is filled up with a row that is fit for the model, not with zeros.
        np.testing.assert_array_equal(samples[-1][1][-1], b[-1])


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"y": np.zeros((1, 3))}, r"inputs \['x'\]. Received: \['y'\]"),
        (np.zeros((1, 4)), r"\[1, 4\] for input x: float32\[2, 3\]; it must be \(samples, 3\)"),
        (np.zeros((0, 3)), r"\[0, 3\] for input x"),
        (np.zeros(3), r"\[3\] for input x"),
    ],
)
def test_given_samples_that_do_not_fit(form, message):
    with pytest.raises(SenteiError, match=message):
        given_samples(form, Signature(SPEC))


def test_given_samples_of_several_inputs_that_do_not_fit():
    signature = Signature([SPEC, TensorSpec("y", (2,), "float32")])
    with pytest.raises(SenteiError, match=r"2 inputs.*Received: 1"):
        given_samples(np.zeros((1, 3)), signature)
    with pytest.raises(SenteiError, match=r"different numbers of samples.*\[1, 2\]"):
        given_samples([np.zeros((1, 3)), np.zeros(2)], signature)


# --- Keras' own outputs --------------------------------------------------------------------------


@pytest.mark.core
def test_predictions_are_those_of_the_model_and_leave_it_alone():
    model = sequential(
        kl.Dense(4, name="out"), kl.BatchNormalization(), kl.Dropout(0.5, name="last")
    )
    model.compile("sgd", "mse")
    pinned = signature_of(model)
    before = model.get_weights()
    x = np.random.default_rng(0).normal(size=(1, 50)).astype("float32")
    outputs = predictions(model, pinned, [(x,), (2 * x,)])
    assert [list(one) for one in outputs] == [["last"]] * 2
    for one, value in zip(outputs, (x, 2 * x), strict=True):
        np.testing.assert_allclose(
            one["last"], model.predict(value, verbose=0), rtol=1e-5, atol=1e-6
        )
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.core
def test_predictions_of_a_half_precision_model_are_full():
    half, full = (
        sequential(kl.Dense(4, dtype=p), kl.Dense(4, dtype=p))
        for p in ("mixed_bfloat16", "float32")
    )
    full.set_weights(half.get_weights())
    x = np.random.default_rng(0).normal(size=(1, 50)).astype("float32")
    (got,) = predictions(half, signature_of(half), [(x,)])
    expected = full.predict(x, verbose=0)
    assert np.abs(next(iter(got.values())) - expected).max() < 1e-5
    assert [layer.compute_dtype for layer in half.layers] == ["bfloat16"] * 2


# --- the comparison ------------------------------------------------------------------------------


def compared(actual, expected, tolerance=1e-4):
    sample = (np.zeros((2, 3), "float32"),)
    outputs = iter(actual)
    return compare(
        lambda inputs: {"y": next(outputs)},
        [SPEC],
        [sample] * len(expected),
        [{"y": value} for value in expected],
        tolerance,
    )


values = hnp.arrays(np.float32, (4,), elements=st.floats(-100, 100, width=32))


@given(want=st.lists(values, min_size=1, max_size=3), noise=values, size=st.floats(0, 1e-3))
def test_the_error_is_relative_to_the_largest_value_over_all_samples(want, noise, size):
    have = [value + np.float32(size) * noise for value in want]
    absolute = max(
        np.abs(a.astype(float) - b.astype(float)).max() for a, b in zip(want, have, strict=True)
    )
    relative = absolute / max(1e-6, max(np.abs(a).max() for a in want))
    if relative <= 1e-4:
        result = compared(have, want)
        assert result.absolute_error == pytest.approx(absolute)
        assert result.relative_error == pytest.approx(relative)
        assert result.samples == 2 * len(want)
    else:
        with pytest.raises(ExportMismatch, match="Output 'y' of the file differs from Keras"):
            compared(have, want)


@pytest.mark.parametrize("turn", [1, -1])
def test_the_largest_value_of_any_sample_counts(turn):
    want = [floats(100), floats(1)][::turn]
    have = [floats(100), floats(1.001)][::turn]
    assert compared(have, want).relative_error == pytest.approx(1e-5, rel=1e-3)


def floats(*numbers):
    return np.array(numbers, "float32")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_must_be_the_same(bad):
    compared([floats(1, bad)], [floats(1, bad)])
    for have, want in (((1, 2), (1, bad)), ((1, bad), (1, 2)), ((bad, 1), (1, bad))):
        with pytest.raises(ExportMismatch, match="not finite where Keras is"):
            compared([floats(*have)], [floats(*want)])


def test_a_sample_without_finite_numbers_does_not_count_as_compared():
    with pytest.raises(ExportError, match=r"no finite number for output 'y'.*NaN"):
        compared([floats(np.nan, np.nan)], [floats(np.nan, np.nan)])
    compared([floats(np.nan), floats(1)], [floats(np.nan), floats(1)])


def test_another_shape_is_a_mismatch():
    with pytest.raises(ExportMismatch, match=r"shape \[2\], Keras gives \[1\]"):
        compared([floats(1, 1)], [floats(1)])


def test_integers_and_truth_values_are_compared_as_numbers():
    compared([np.array([3, 4])], [np.array([3, 4])])
    with pytest.raises(ExportMismatch):
        compared([np.array([3, 5])], [np.array([3, 4])])
    with pytest.raises(ExportMismatch):
        compared([np.array([True])], [np.array([False])])


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="compiles with JAX")
def test_options_that_xla_does_not_know_are_dropped():
    import jax

    from sentei.litert import trace

    class Picky:
        def compile(self, compiler_options=None):
            if compiler_options:
                raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")
            return "compiled"

    assert trace._quickly_compiled(Picky()) == "compiled"
