"""With nothing rounded, the quantized model trains as the float model does, bit for bit on JAX."""

import keras
import numpy as np
import pytest
from quantized_kinds import KINDS

import sentei
from sentei.quantization import quantizers

pytestmark = pytest.mark.core


def feed(model, count=12):
    rng = np.random.default_rng(0)
    found = []
    for spec in model.inputs:
        shape = (count, *spec.shape[1:])
        if "int" in spec.dtype:
            found.append(rng.integers(0, 9, shape).astype("int32"))
        else:
            value = rng.normal(size=shape).astype("float32")
            if len(shape) == 3:
                value[:, 4:] = 0.0  # steps for a masking layer
            found.append(value)
    if isinstance(model, keras.Sequential):
        return found[0]
    return keras.tree.pack_sequence_as(model.input, found)


def trained(make, change):
    keras.utils.set_random_seed(3)
    model = make()
    x = feed(model)
    used = change(model)
    y = np.random.default_rng(1).normal(size=(12, 3)).astype("float32")
    targets = [y] * len(model.outputs) if len(model.outputs) > 1 else y
    used.compile("adam", "mse")
    history = used.fit(x, targets, batch_size=4, epochs=2, shuffle=False, verbose=0).history
    return history["loss"], model.get_weights(), used.predict(x, verbose=0)


def unrounded(model):
    qmodel = sentei.quantize(model)
    for _, quantizer in quantizers(qmodel):
        quantizer.identity = True
    assert quantizers(qmodel)
    return qmodel


# Each compiles two training steps: the fast suite takes the kinds that differ most.
FAST = {"residual", "shared tower, named inputs", "masked LSTM", "custom layer", "added loss"}


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in KINDS]
)
def test_identity_trains_as_the_float_model(name):
    plain = trained(KINDS[name], lambda model: model)
    ours = trained(KINDS[name], unrounded)
    exact = keras.backend.backend() == "jax"
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-5}
    for expected, found in zip(plain, ours, strict=True):
        for a, b in zip(keras.tree.flatten(expected), keras.tree.flatten(found), strict=True):
            np.testing.assert_allclose(b, a, **tolerance)
