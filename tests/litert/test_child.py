"""Converting in a second process: what it finds, what it does not run, and how it fails."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers as kl
from keras import ops

import sentei
from sentei.core.errors import ExportError, ExportMismatch, UnsupportedModel
from sentei.litert.child import lower_elsewhere
from sentei.litert.definitions import definitions
from sentei.litert.signature import signature_of

# Every test here starts Python, Keras and JAX once more.
slow = pytest.mark.slow


def doubled(x):
    return ops.tanh(x) * 2


class Plain(kl.Layer):
    """Not registered: Keras finds it by nothing but its import path."""

    def __init__(self, units=3, **arguments):
        super().__init__(**arguments)
        self.units = units
        self.inner = kl.Dense(units, activation=doubled)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Registered(keras.Model):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.first, self.second = Plain(4), kl.Dense(2)

    def call(self, inputs):
        return {"y": self.second(self.first(inputs["a"])), "z": -inputs["b"]}


class UsesNumpy(kl.Layer):
    """Runs eagerly on any backend, but cannot be traced."""

    def call(self, x):
        return x if float(ops.convert_to_numpy(x).sum()) > 0 else -x

    def compute_output_shape(self, shape):
        return shape


class NoConfig(kl.Layer):
    def __init__(self, units):
        super().__init__()
        self.units = units

    def call(self, x):
        return x * self.units


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def run_file(path, inputs):
    return Interpreter(str(path)).get_signature_runner()(**inputs)


def close(actual, expected):
    expected = keras.ops.convert_to_numpy(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


@slow
@pytest.mark.core
def test_export_on_this_backend(tmp_path):
    inputs = {"a": numbers(1, 5), "b": numbers(1, 2)}
    model = Registered()
    model(inputs)
    report = sentei.export(model, tmp_path / "m.tflite")
    assert report.verification.relative_error < 1e-5
    assert "second process" in report.seconds or keras.backend.backend() == "jax"
    got = run_file(tmp_path / "m.tflite", inputs)
    for name, expected in model(inputs).items():
        close(got[name], expected)


@slow
@pytest.mark.core
def test_custom_layers_functions_lambdas_and_dropped_layers(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            Plain(),
            kl.Dropout(0.5),
            kl.Dense(3, kernel_initializer="orthogonal", dtype="mixed_bfloat16"),
            kl.Lambda(lambda x: x + 1),
        ]
    )

    class OutOfReach(keras.losses.Loss):
        def call(self, wanted, found):
            return ops.mean(wanted - found)

    # The optimizer and its loss are no business of the file, nor is where they are defined.
    model.compile("adam", loss=OutOfReach())
    lowered = lower_elsewhere(model, signature_of(model), tmp_path / "m.tflite")
    x = numbers(1, 6)
    full = keras.Sequential([keras.Input((6,)), Plain(), kl.Dense(3), kl.Lambda(lambda x: x + 1)])
    full.set_weights([keras.ops.convert_to_numpy(w) for w in model.trainable_variables])
    close(run_file(tmp_path / "m.tflite", {"input_0": x})[model.layers[-1].name], full(x))
    assert [spec.shape for spec in lowered.outputs] == [(1, 3)]


@slow
def test_the_childs_words_are_one_error_of_ours(tmp_path):
    model = keras.Sequential([keras.Input((3,)), UsesNumpy(name="looks")])
    with pytest.raises(
        ExportError, match=r"layer 'looks' \(UsesNumpy\) failed.*keras.ops.where"
    ) as e:
        lower_elsewhere(model, signature_of(model), tmp_path / "m.tflite")
    assert "Traceback" not in str(e.value)
    assert e.value.__cause__ is None


@slow
def test_a_model_that_the_child_cannot_load(tmp_path):
    model = keras.Sequential([keras.Input((3,)), NoConfig(2)])
    with pytest.raises(
        UnsupportedModel, match=r"cannot (be saved|load it).*`get_config`.*JAX backend"
    ):
        lower_elsewhere(model, signature_of(model), tmp_path / "m.tflite")


def test_a_class_inside_a_function_is_out_of_reach(tmp_path):
    class Local(kl.Layer):
        def call(self, x):
            return x

    model = keras.Sequential([keras.Input((3,)), Local()])
    with pytest.raises(
        UnsupportedModel, match=r"'Local' is defined inside the function 'test_a_class"
    ):
        lower_elsewhere(model, signature_of(model), tmp_path / "m.tflite")


@slow
def test_a_child_that_dies_is_reported(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nsys.stderr.write('gone')\nos._exit(7)"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = keras.Sequential([keras.Input((3,)), kl.Dense(2)])
    with pytest.raises(ExportError, match=r"second process .* ended with status 7: gone"):
        lower_elsewhere(model, signature_of(model), tmp_path / "m.tflite")


@slow
@pytest.mark.core
def test_the_file_is_held_against_the_model_that_was_passed(tmp_path, monkeypatch):
    from sentei.litert import export

    model = keras.Sequential([keras.Input((3,)), kl.Dense(2)])
    honest = export.predictions
    monkeypatch.setattr(
        export,
        "predictions",
        lambda *a: [{k: v + 1 for k, v in one.items()} for one in honest(*a)],
    )
    with pytest.raises(ExportMismatch):
        sentei.export(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


SCRIPT = """
    import sys
    import keras
    from keras import ops
    try:
        import tomllib
    except ImportError:
        tomllib = None

    WIDTH = 3
    SCALE = [WIDTH, 2]
    with open("ran.txt", "a") as log:
        log.write(__name__ + "\\n")

    def scaled(x):
        return x * SCALE[1]

    class Base(keras.layers.Layer):
        def scale(self, x):
            return scaled(x)

    class Mine(Base):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], WIDTH))

        def call(self, x):
            return self.scale(ops.matmul(x, self.kernel))

    model = keras.Sequential([keras.Input((4,)), Mine()])

    from sentei.litert.child import lower_elsewhere
    from sentei.litert.signature import signature_of

    from pathlib import Path

    lower_elsewhere(model, signature_of(model), Path("m.tflite"))
    import numpy as np
    np.save("x.npy", x := np.ones((1, 4), "float32"))
    np.save("y.npy", ops.convert_to_numpy(model(x)))
"""


@slow
@pytest.mark.core
def test_classes_of_a_script_are_found_without_running_it_again(tmp_path):
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT))
    subprocess.run(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(sentei.__file__).parent.parent)},
        check=True,
    )
    assert (tmp_path / "ran.txt").read_text() == "__main__\n"
    got = run_file(tmp_path / "m.tflite", {"input_0": np.load(tmp_path / "x.npy")})
    close(next(iter(got.values())), np.load(tmp_path / "y.npy"))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["Child"], {"Child", "Parent", "helper", "decorate"}),
        (["helper"], {"helper"}),
        (["other"], {"other", "made"}),
        ([], set()),
    ],
)
def test_definitions(tmp_path, wanted, expected):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import math
            raised = []
            N = int(math.sqrt(9))
            print(1 / 0)
            M = N = 4
            def decorate(cls):
                cls.decorated = N
                return cls
            class Parent:
                size = M
            def helper():
                return later
            @decorate
            class Child(Parent):
                def use(self):
                    return helper()
            later = 5
            def made():
                return lambda: 7
            other = made()
            if __name__ == "__main__":
                raise SystemExit("ran")
            """
        )
    )
    found = definitions(script, wanted, "script_under_test")
    del sys.modules["script_under_test"]
    assert set(found) == expected
    if "Child" in expected:
        assert found["Child"]().use() == 5
        assert (found["Child"].size, found["Child"].decorated) == (4, 4)
    if "other" in expected:
        assert found["other"]() == 7
