"""Running files: names, grids, batches, kernels, and errors that say what to do."""

import subprocess
import sys

import flatfiles
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from sentei.core.errors import CorruptFile, SenteiError, UnsupportedModel
from sentei.litert.port import Port
from sentei.litert.runtime import Runner, quiet

KERNELS = ["xnnpack", "builtin", "reference"]
# Small multiples of 1/4: exact on the grids of the int8 file as well.
X = np.array([[1, 2, 3, 4], [0.5, 0, -1, -0.25], [2, -2, 0.5, 1]], np.float32)
WANTED = X @ flatfiles.KERNEL.T + flatfiles.BIAS


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["dense", "dense_open_batch", "dense_sparse", "dense_int8"])
def test_computes_the_layer_on_any_batch(name, rows, kernels):
    runner = Runner(flatfiles.FILES[name](), kernels=kernels)
    (result,) = runner(X[:rows]).values()
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, WANTED[:rows])


@pytest.mark.parametrize("kernels", KERNELS)
def test_only_the_default_kernels_are_xnnpacks(kernels):
    runner = Runner(flatfiles.dense(), kernels=kernels)
    names = {detail["op_name"] for detail in runner._interpreter._get_ops_details()}
    assert ("DELEGATE" in names) == (kernels == "xnnpack")


def test_a_fixed_batch_of_two_runs_three_samples_in_two_rounds():
    runner = Runner(flatfiles.dense(batch=2))
    np.testing.assert_array_equal(runner(X)["scores"], WANTED)
    np.testing.assert_array_equal(runner(X[:1])["scores"], WANTED[:1])


def test_an_open_batch_may_change_from_call_to_call():
    runner = Runner(flatfiles.dense(open_batch=True))
    for rows in (3, 1, 2, 2):
        np.testing.assert_array_equal(runner(X[:rows])["scores"], WANTED[:rows])


def test_reads_a_path_and_uses_threads(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(flatfiles.dense())
    np.testing.assert_array_equal(Runner(path, threads=2)(X)["scores"], WANTED)


def test_ports_have_the_signatures_names_and_the_files_grids():
    runner = Runner(flatfiles.dense_int8())
    assert list(runner.inputs) == ["features"]
    port = runner.inputs["features"]
    assert (port.shape, port.dtype, port.scale, port.zero_point) == ((1, 4), np.int8, 0.25, 3)
    assert str(port) == "'features' (int8 [1, 4], scale 0.25, zero point 3)"
    assert runner.outputs["scores"].scale == flatfiles.OUTPUT_SCALE
    assert Runner(flatfiles.dense(open_batch=True)).inputs["features"].shape == (-1, 4)


def test_ports_have_the_tensors_names_where_there_is_no_signature():
    runner = Runner(flatfiles.dense_sparse())
    assert list(runner.inputs) == ["x"]
    assert list(runner.outputs) == ["y"]


def test_equal_tensor_names_are_told_apart():
    writer = flatfiles.Writer()
    a, b, y = (writer.tensor(name, (2,)) for name in ("x", "x", "y"))
    writer.operator("SUB", [a, b], [y], schema.SubOptionsT())
    runner = Runner(writer.finish([a, b], [y]))
    assert list(runner.inputs) == ["x", "x_1"]
    ran = runner({"x": np.float32([5, 7]), "x_1": np.float32([1, 2])})
    np.testing.assert_array_equal(ran["y"], [4, 5])


def test_inputs_by_name_and_by_position():
    first, second, ids = np.full((2, 3), 9.0), np.arange(6.0).reshape(2, 3), [4, 1]
    by_name = Runner(flatfiles.two_inputs())({"ids": ids, "first": first, "second": second})
    by_place = Runner(flatfiles.two_inputs())([second, first, ids])
    for result in (by_name, by_place):
        np.testing.assert_array_equal(result["difference"], first - second)
        np.testing.assert_array_equal(result["rows"], [[8, 9], [2, 3]])


def test_raw_integers_come_and_go():
    runner = Runner(flatfiles.dense_int8())
    integers = np.int8(X / 0.25 + 3)
    raw = runner(integers, raw=True)["scores"]
    assert raw.dtype == np.int8
    np.testing.assert_array_equal((raw.astype(float) + 7) * 0.5, WANTED)


def test_variables_do_not_outlive_a_run():
    runner = Runner(flatfiles.running_sum())
    for _ in range(2):
        np.testing.assert_array_equal(runner(np.ones((1, 2)))["y"], [[1, 1]])
    np.testing.assert_array_equal(runner(np.ones((3, 2)))["y"], np.ones((3, 2)))


INT8 = Port("x", (3,), np.dtype(np.int8), 0, scale=0.25, zero_point=3)
FLOAT = Port("x", (3,), np.dtype(np.float32), 0)
IDS = Port("x", (3,), np.dtype(np.int32), 0)


@pytest.mark.parametrize(
    ("port", "values", "wanted"),
    [
        (INT8, np.float32([0.0, 0.26, -0.4]), [3, 4, 1]),
        (INT8, np.float32([1e9, -1e9, np.inf]), [127, -128, 127]),
        (INT8, np.uint8([0, 1, 2]), [3, 7, 11]),
        (INT8, np.int8([0, 1, 2]), [0, 1, 2]),
        (FLOAT, np.float64([0.5, 1, 2]), [0.5, 1, 2]),
        (FLOAT, np.uint8([0, 255, 2]), [0, 255, 2]),
        (IDS, np.int64([0, 7, -1]), [0, 7, -1]),
        (IDS, np.bool_([0, 1, 1]), [0, 1, 1]),
    ],
)
def test_encode_puts_real_numbers_on_the_grid(port, values, wanted):
    encoded = port.encode(values)
    assert encoded.dtype == port.dtype
    np.testing.assert_array_equal(encoded, wanted)


@pytest.mark.parametrize(
    ("port", "values", "message"),
    [
        (INT8, np.float32([0, np.nan, 1]), "cannot take NaN"),
        (IDS, np.float32([0, 1.5, 1]), "expects integers from -2147483648 to 2147483647"),
        (IDS, np.int64([2**31, 0, 0]), "expects integers from -2147483648 to 2147483647"),
        (FLOAT, np.array(["a", "b", "c"]), "expects real numbers; received <U1"),
        (FLOAT, np.complex64([0, 1, 2]), "expects real numbers; received complex64"),
    ],
)
def test_encode_refuses_what_does_not_fit(port, values, message):
    with pytest.raises(SenteiError, match=message):
        port.encode(values)


@given(st.floats(-31, 31, width=32))
def test_encode_then_decode_is_half_a_step_off_at_most(value):
    back = INT8.decode(INT8.encode(np.float32([value])))
    assert abs(back[0] - value) <= 0.25 / 2


@pytest.mark.parametrize(
    ("make", "inputs", "message"),
    [
        (flatfiles.dense, X[:, :3], r"'features' \(float32 \[1, 4\]\) does not fit.*\[3, 3\]"),
        (flatfiles.dense, X[0], r"does not fit an array of shape \[4\]"),
        (flatfiles.dense, X[:0], r"got an empty array of shape \[0, 4\]"),
        (flatfiles.dense, [X, X], r"expects 1 inputs \['features'\]; received 2"),
        (flatfiles.dense, {"x": X}, r"expects the inputs \['features'\]; received \['x'\]"),
        (flatfiles.two_inputs, [X[:2, :3], X[:1, :3], [1, 2]], "expects the shapes.*received"),
        (flatfiles.two_inputs, [X[:, :3], X[:, :3], [1, 2]], "expects the shapes.*received"),
        (lambda: flatfiles.dense(batch=0), X, r"expects the shapes .*\[0, 4\]"),
    ],
)
def test_wrong_inputs_are_named(make, inputs, message):
    with pytest.raises(SenteiError, match=message):
        Runner(make())(inputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": 0}, "`threads` must be at least 1; received 0"),
        ({"kernels": "gpu"}, "`kernels` must be one of.*'gpu'"),
        ({"signature": "train"}, r"no signature 'train' of its main graph: \['serving_default'\]"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(SenteiError, match=message):
        Runner(flatfiles.dense(), **arguments)


def test_signature_may_be_chosen():
    runner = Runner(flatfiles.dense(), signature="serving_default")
    np.testing.assert_array_equal(runner(X)["scores"], WANTED)


def test_outputs_without_a_row_per_sample_need_the_exact_batch():
    writer = flatfiles.Writer()
    x, y = writer.tensor("x", (2, 3)), writer.tensor("y", (3,))
    axis = writer.tensor("axis", (1,), "int32", np.int32([0]))
    writer.operator("SUM", [x, axis], [y], schema.ReducerOptionsT())
    runner = Runner(writer.finish([x], [y]))
    np.testing.assert_array_equal(runner(np.ones((2, 3)))["y"], [2, 2, 2])
    with pytest.raises(SenteiError, match=r"'y' .* not one row per sample: give exactly 2 samples"):
        runner(np.ones((4, 3)))


def _unknown_operator():
    writer = flatfiles.Writer()
    x, y = writer.tensor("x", (1,)), writer.tensor("y", (1,))
    writer.operator("CUSTOM", [x], [y])
    writer.codes[0].customCode = b"MyOperator"
    return writer.finish([x], [y])


def test_the_runtimes_refusal_is_passed_on_in_one_line(tmp_path):
    path = tmp_path / "custom.tflite"
    path.write_bytes(_unknown_operator())
    with pytest.raises(UnsupportedModel, match=r"refuses .*custom\.tflite: .*MyOperator") as caught:
        Runner(path)
    assert "\n" not in str(caught.value)


def test_a_failing_run_is_passed_on():
    runner = Runner(flatfiles.two_inputs())
    with pytest.raises(UnsupportedModel, match=r"fails to run the model: .*gather"):
        runner([X[:2, :3], X[:2, :3], [1, 77]])


def test_damage_is_found_before_the_runtime_sees_it():
    with pytest.raises(CorruptFile, match="damaged or truncated"):
        Runner(flatfiles.dense()[:-40])


@pytest.mark.slow
@pytest.mark.parametrize("name", flatfiles.FILES)
def test_every_single_byte_may_lie(name):
    """Runs what the reader lets through: a wrong answer or our error, never another exception."""
    content = flatfiles.FILES[name]()
    for place in range(8, len(content)):
        damaged = content[:place] + bytes([content[place] ^ 0x01]) + content[place + 1 :]
        try:
            runner = Runner(damaged)
            ports = runner.inputs.values()
            if all(np.prod(np.abs(port.shape), dtype=float) < 1e6 for port in ports):
                runner({p.name: np.zeros(np.abs(p.shape), p.dtype) for p in ports})
        except SenteiError as error:
            assert "\n" not in str(error)


SILENT = """
import numpy as np
from sentei.litert.runtime import Runner
import sys
Runner(sys.argv[1])(np.ones((2, 4)))
"""


def test_the_runtimes_chatter_does_not_reach_the_terminal(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(flatfiles.dense())
    child = subprocess.run(
        [sys.executable, "-c", SILENT, str(path)], capture_output=True, text=True, check=True
    )
    assert child.stderr == ""
    assert child.stdout == ""


def test_quiet_holds_back_information_only(capfd):
    with quiet():
        print("INFO: Created a delegate.", file=sys.__stderr__, flush=True)
        print("WARNING: too slow", file=sys.__stderr__, flush=True)
    assert capfd.readouterr().err == "WARNING: too slow\n"
    print("after", file=sys.__stderr__, flush=True)
    assert capfd.readouterr().err == "after\n"


def test_quiet_restores_the_terminal_after_an_error(capfd):
    with pytest.raises(RuntimeError, match="boom"), quiet():
        raise RuntimeError("boom")
    print("after", file=sys.__stderr__, flush=True)
    assert capfd.readouterr().err == "after\n"
