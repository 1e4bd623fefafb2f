"""Every layer of Keras: exported, run in the LiteRT interpreter, and held against Keras itself."""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils
from keras import layers as kl
from layer_case import REFUSED, REWRITE, WORKS, Case, Row
from layer_table import TABLE, markdown

import sentei
from sentei.core.errors import SenteiError, UnsupportedModel
from sentei.litert import trace as tracing

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="traces on JAX")

BATCH = 2
# Operators that the runtime runs badly or not everywhere; no file may hold one.
UNWELCOME = ("STABLEHLO", "WHILE", "IF", "CALL", "CUSTOM")


def each_case(*verdicts: str) -> list[Any]:
    """A parameter for each case; a layer's first is for every day."""
    return [
        pytest.param(
            row,
            case,
            id=f"{row.layer}-{number}-{case}",
            marks=[pytest.mark.slow] if number else [],
        )
        for row in TABLE
        if row.verdict in verdicts
        for number, case in enumerate(row.cases)
    ]


def each_row(*verdicts: str) -> list[Any]:
    return [pytest.param(row, id=row.layer) for row in TABLE if row.verdict in verdicts]


def export(model: Any, case: Case, path: Path) -> list[str]:
    """Writes the file; gives the names of its outputs in Keras' order."""
    size = None if case.batch else BATCH
    report = sentei.export(model, path, batch_size=size or case.batch, verify=False)
    return [spec.name for spec in report.outputs]


def census(path: Path) -> Counter[str]:
    """The operators of a file, read by the runtime's own tools."""
    model = flatbuffer_utils.read_model(str(path))
    codes = [
        flatbuffer_utils.opcode_to_name(model, index) for index in range(len(model.operatorCodes))
    ]
    return Counter(
        codes[operator.opcodeIndex] for graph in model.subgraphs for operator in graph.operators
    )


def run_keras(model: Any, inputs: list[np.ndarray], compiled: bool = True) -> list[np.ndarray]:
    def forward(given: list[Any]) -> list[Any]:
        # Augmentation draws numbers at inference, too: they must not leave the trace.
        with keras.StatelessScope():
            outputs = model(given if len(given) > 1 else given[0], training=False)
        return keras.tree.flatten(outputs)

    if not compiled:
        return [np.asarray(output) for output in forward(inputs)]
    # Run once: compiling takes longer than optimizing could save.
    quick = {"xla_backend_optimization_level": 0}
    with warnings.catch_warnings():
        # Keras' MixUp asks JAX for 64 bits.
        warnings.filterwarnings("ignore", message="Explicitly requested dtype int64")
        program = jax.jit(forward).lower(inputs).compile(compiler_options=quick)
    return [np.asarray(output) for output in program(inputs)]


def run_file(path: Path, model: Any, inputs: list[np.ndarray], names: list[str]) -> list[Any]:
    interpreter = Interpreter(str(path))
    runner = interpreter.get_signature_runner("serving_default")
    ports = list(interpreter.get_signature_list()["serving_default"]["inputs"])
    shapes = {port: runner.get_input_details()[port] for port in ports}
    own = [tensor.name for tensor in model.inputs] if hasattr(model, "inputs") else ports
    given = dict(zip(own if set(own) == set(ports) else ports, inputs, strict=True))
    cast = {port: value.astype(shapes[port]["dtype"]) for port, value in given.items()}
    outputs = runner(**cast)
    return [outputs[name] for name in names]


def differences(actual: list[np.ndarray], expected: list[np.ndarray]) -> list[float]:
    """The largest difference of each output, over its largest magnitude."""
    assert [a.shape for a in actual] == [e.shape for e in expected]
    return [
        float(np.max(np.abs(a.astype("f8") - e.astype("f8")))) / max(float(np.max(np.abs(e))), 1e-6)
        for a, e in zip(actual, expected, strict=True)
    ]


def test_every_class_of_keras_layers_has_a_row() -> None:
    found = [getattr(kl, name) for name in dir(kl)]
    classes = {value for value in found if isinstance(value, type)}
    rows = [getattr(kl, row.layer) for row in TABLE]
    assert {cls.__name__ for cls in classes - set(rows)} == set()
    assert [row.layer for row, cls in zip(TABLE, rows, strict=True) if rows.count(cls) > 1] == []


def test_every_layer_said_to_work_has_a_case() -> None:
    assert [row.layer for row in TABLE if row.verdict in (WORKS, REWRITE) and not row.cases] == []


def test_the_documented_table_is_this_one() -> None:
    written = Path(__file__).parents[2] / "docs" / "layers.md"
    assert written.read_text() == markdown()


@pytest.mark.parametrize(("row", "case"), each_case(WORKS, REWRITE))
def test_layer(row: Row, case: Case, tmp_path: Path) -> None:
    if case.needs:
        pytest.importorskip(case.needs)
    model = case.model(row.layer)
    inputs = case.samples(case.batch or BATCH)
    # What runs on TensorFlow within Keras cannot be compiled by JAX.
    expected = run_keras(model, inputs, compiled=not case.needs)
    path = tmp_path / "layer.tflite"
    names = export(model, case, path)
    operators = census(path)
    assert [name for name in operators if name.startswith(UNWELCOME)] == []
    assert [name for name in case.has if name not in operators] == [], dict(operators)
    assert max(differences(run_file(path, model, inputs, names), expected)) < 1e-4


@pytest.mark.parametrize(("row", "case"), each_case(REFUSED))
def test_refused_layer(row: Row, case: Case, tmp_path: Path) -> None:
    if case.needs:
        pytest.importorskip(case.needs)
    path = tmp_path / "layer.tflite"
    model = case.model(row.layer)
    with pytest.raises(UnsupportedModel, match=f"Layer '.*' \\({row.layer}\\).*{case.reason}"):
        sentei.export(model, path)
    assert not path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("row", each_row(WORKS, REWRITE))
def test_the_verdict_tells_whether_rules_are_at_work(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [case for case in row.cases if not case.needs]
    if not cases:
        pytest.skip("needs a package")
    models = [case.model(row.layer) for case in cases]
    found = []
    for rules in (True, False):
        if not rules:
            monkeypatch.setattr(tracing, "rewritten", lambda model: nullcontext())
        found.append(
            [attempted(model, case, tmp_path) for model, case in zip(models, cases, strict=True)]
        )
    assert (found[0] != found[1]) == (row.verdict == REWRITE), found


def attempted(model: Any, case: Case, folder: Path) -> Counter[str] | None:
    """The census of a file, or None where there is none."""
    path = folder / "layer.tflite"
    try:
        export(model, case, path)
    except SenteiError:
        return None
    return census(path)
