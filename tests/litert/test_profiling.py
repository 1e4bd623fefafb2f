"""The runtime's own profile: which operators ran, by whose kernels, in what order."""

import itertools

import flatfiles
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from sentei.litert import profiling
from sentei.litert.profiling import OperatorTime, parse, profile


@pytest.fixture
def path(tmp_path):
    def write(content):
        (tmp_path / "model.tflite").write_bytes(content)
        return tmp_path / "model.tflite"

    return write


def test_names_what_ran_and_by_whom(path):
    found = profile(path(flatfiles.two_inputs()))
    assert [(item.name, item.by) for item in found] == [
        ("Subtract (ND)", "xnnpack"),
        ("GATHER", "builtin"),
    ]
    assert all(0 <= item.share <= 1 and item.mean_ms >= 0 for item in found)


def test_shares_are_of_the_whole_run(path):
    """A matrix of a million weights takes many ticks of the profile's clock."""
    writer = flatfiles.Writer()
    sizes = [1000, 1000, 1]
    x = previous = writer.tensor("x", (1, sizes[0]))
    for i, (taken, given) in enumerate(itertools.pairwise(sizes)):
        data = np.ones((given, taken), "float32")
        kernel = writer.tensor(f"w{i}", data.shape, data=data)
        y = writer.tensor(f"y{i}", (1, given))
        options = schema.FullyConnectedOptionsT()
        writer.operator("FULLY_CONNECTED", [previous, kernel, -1], [y], options)
        previous = y
    found = profile(path(writer.finish([x], [previous])))
    layers = [item for item in found if item.name.startswith("Fully Connected")]
    assert len(layers) == 2
    assert layers[0].mean_ms > 0
    assert sum(item.share for item in found) == pytest.approx(1, abs=1e-3)


def test_an_int8_file_runs_int8_kernels(path):
    found = profile(path(flatfiles.dense_int8()), threads=2)
    assert any("QS8" in item.name for item in found)


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.abort()",
        "raise SystemExit('LiteRtCreateCompiledModel gives the status 3')",
        "import time; time.sleep(60)",
        "print('\"a report without a table\"')",
    ],
    ids=["crash", "refusal", "endless", "nothing in it"],
)
def test_no_profile_is_no_error(path, monkeypatch, code):
    monkeypatch.setattr(profiling, "_COMMAND", ("-c", code))
    monkeypatch.setattr(profiling, "_PATIENCE", 1)
    assert profile(path(flatfiles.dense())) is None


REPORT = """
==================== Run Order ====================
       [node type]  [start]  [first]  [avg ms]     [%]   [cdf%]  [mem KB] [times called] [Name]
 Delegate/Convolution (NHWC, F32) SPMM 0.000 0.029 0.125 62.500% 62.500% 0.000 20 [Delegate]:1
   RESIZE_BILINEAR  0.000  0.001  0.075  37.500%  100.000%  -4.000  20  [a;b c]:7
==================== Top by Computation Time ====================
       [node type]  [start]  [first]  [avg ms]     [%]   [cdf%]  [mem KB] [times called] [Name]
 Delegate/Convolution (NHWC, F32) SPMM 0.000 0.029 0.125 62.500% 62.500% 0.000 20 [Delegate]:1
Number of nodes executed: 2
"""


def test_reads_the_librarys_report():
    assert parse(REPORT) == (
        OperatorTime("Convolution (NHWC, F32) SPMM", "xnnpack", 0.625, 0.125),
        OperatorTime("RESIZE_BILINEAR", "builtin", 0.375, 0.075),
    )
