"""What every test shares: a backend, a quiet terminal, small models and data."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import keras
import pytest

# JAX compiles a loop anew for every example; the other backends try many more in the same time.
many = 12 if keras.backend.backend() == "jax" else 60
hypothesis.settings.register_profile("here", max_examples=many, deadline=None)
hypothesis.settings.load_profile("here")

# Keras' filter turns a JAX tracer error into an unrelated AttributeError.
keras.config.disable_traceback_filtering()


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)
