"""Benchmarks: what is measured, on what, and errors; never how fast."""

import dataclasses
import gzip
import io
import json

import flatfiles
import numpy as np
import pytest

from sentei.core.errors import CorruptFile, SenteiError, UnsupportedModel
from sentei.litert import benchmarking, memory, profiling, tables
from sentei.litert.benchmarking import benchmark, read_inputs
from sentei.litert.profiling import OperatorTime


@pytest.fixture
def files(tmp_path):
    paths = {}
    for name, make in flatfiles.FILES.items():
        paths[name] = str(tmp_path / f"{name}.tflite")
        (tmp_path / f"{name}.tflite").write_bytes(make())
    return paths


def test_measures_each_file_against_the_first(files):
    names = ["dense_open_batch", "dense_int8", "dense"]
    results = benchmark([files[name] for name in names], runs=7)
    assert [item.file for item in results] == [files[name] for name in names]
    for name, item in zip(names, results, strict=True):
        content = flatfiles.FILES[name]()
        assert item.size == len(content)
        assert item.gzip_size == len(gzip.compress(content, 9))
        assert 0 < item.quartiles_ms[0] <= item.median_ms <= item.quartiles_ms[1]
        assert 0 < item.ratio_quartiles[0] <= item.ratio <= item.ratio_quartiles[1]
        assert item.runs == 7
        assert item.memory > 0
        assert [operator.by for operator in item.profile] == ["xnnpack"] * len(item.profile)
    assert results[0].ratio == 1
    assert results[0].ratio_quartiles == (1, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        results[0].size = 0


def test_ratios_are_paired_within_a_round(files, monkeypatch):
    """The second file takes twice the first in every round, however the rounds differ."""
    monkeypatch.setattr(memory, "measure", lambda *_: None)
    seconds = {"dense": [], "dense_int8": []}
    order = []

    def turn(self):
        name = "dense_int8" if "int8" in self.path else "dense"
        if self.repeats == 0:  # the warm-up does not count
            return 1.0
        order.append(name)
        seconds[name].append((2 if "int8" in name else 1) * 10.0 ** len(seconds[name]))
        return seconds[name][-1]

    monkeypatch.setattr(benchmarking._Contestant, "turn", turn)
    monkeypatch.setattr(benchmarking._Contestant, "repeats", 0, raising=False)
    first, second = benchmark([files["dense"], files["dense_int8"]], runs=4)
    assert (first.ratio, second.ratio) == (1, 2)
    assert second.ratio_quartiles == (2, 2)
    assert first.median_ms == pytest.approx(1e3 * np.median([1, 10, 100, 1000]))
    assert second.quartiles_ms == pytest.approx(2e3 * np.percentile([1, 10, 100, 1000], [25, 75]))
    a, b = "dense", "dense_int8"
    assert order == [a, b, b, a, a, b, b, a]
    assert first.memory is None


def test_a_turn_is_the_mean_of_enough_runs(files, monkeypatch):
    clock = iter(range(0, 10**9, 1000))
    contestant = benchmarking._Contestant(files["dense"], None, 1)
    assert contestant.repeats > 1
    monkeypatch.setattr(benchmarking.time, "perf_counter_ns", lambda: next(clock))
    invoked = []
    contestant.runner.invoke = lambda: invoked.append(1)
    contestant.repeats = 4
    assert contestant.turn() == pytest.approx(1000e-9 / 4)
    assert len(invoked) == 4


def _seen(files, name, inputs):
    """What the file was run on, decoded, for given inputs."""
    contestant = benchmarking._Contestant(files[name], inputs, 1)
    return contestant.values, benchmark(files[name], inputs, runs=1)[0].batch


@pytest.mark.parametrize(
    ("name", "inputs", "rows"),
    [
        ("dense", np.ones((5, 4)), 1),
        ("dense_open_batch", np.ones((5, 4)), 5),
        ("dense_open_batch", {"any name": np.ones((2, 4))}, 2),
        ("dense", [np.ones((1, 4))], 1),
        ("dense", None, 1),
        ("dense_open_batch", None, 1),
    ],
)
def test_inputs_are_cut_to_what_a_run_takes(files, name, inputs, rows):
    values, batch = _seen(files, name, inputs)
    assert batch == {"features": (rows, 4)}
    if inputs is not None:
        np.testing.assert_array_equal(values["features"], np.ones((rows, 4)))


def test_real_inputs_of_a_quantized_file_are_put_on_its_grid(files):
    contestant = benchmarking._Contestant(files["dense_int8"], np.full((1, 4), 0.5), 1)
    wanted = 0.5 * flatfiles.KERNEL.sum(1) + flatfiles.BIAS
    contestant.turn()
    np.testing.assert_array_equal(contestant.runner.get()["scores"], [wanted])


def test_random_inputs_fit_their_ports(files):
    values = benchmarking._Contestant(files["two_inputs"], None, 1).values
    assert set(np.unique(values["ids"])) <= {0, 1}
    assert values["first"].dtype == np.float32
    again = benchmarking._Contestant(files["two_inputs"], None, 1).values
    np.testing.assert_array_equal(values["first"], again["first"])
    port = benchmarking._Contestant(files["dense_int8"], None, 1).runner.inputs["features"]
    many = dataclasses.replace(port, shape=(4000,)).draw(np.random.default_rng(0))
    assert (many.min(), many.max()) == (-128, 127)


def test_prints_a_table_and_gives_plain_data(files):
    results = benchmark([files["dense"], files["dense_sparse"]], runs=2)
    text = str(results)
    for word in ("median ms", "gzip -9", "peak memory", "660", "776", "1.00x"):
        assert word in text
    assert files["dense_sparse"] in text
    data = json.loads(json.dumps(results.to_dict()))["measurements"]
    assert [item["size"] for item in data] == [660, 776]
    assert data[0]["batch"] == {"features": [1, 4]}
    assert str(results[0]).startswith(f"{files['dense']}: ")


def test_the_costliest_kinds_of_operators_come_first(files, monkeypatch):
    times = [("Add", 0.1, 1), ("Conv", 0.3, 3), ("Conv", 0.4, 4), ("Add", 0.2, 2)]
    operators = tuple(OperatorTime(name, "xnnpack", share, ms) for name, share, ms in times)
    answers = iter([operators, None])
    monkeypatch.setattr(profiling, "profile", lambda *_: next(answers))
    shown = tables.plain(*benchmark([files["dense"], files["dense_int8"]], runs=1).profiles())
    lines = [line.split() for line in shown.splitlines()]
    assert ["Conv", "xnnpack", "2", "7.000", "70.0%"] in lines
    conv, add = (
        next(i for i, line in enumerate(lines) if line[:1] == [n]) for n in ("Conv", "Add")
    )
    assert conv < add
    assert lines[add] == ["Add", "xnnpack", "2", "3.000", "30.0%"]
    assert shown.endswith(f"{files['dense_int8']}: the runtime gives no profile")


def test_nothing_is_drawn_where_there_is_no_terminal(files, capfd):
    benchmark(files["dense"], runs=2)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"files": []}, "`files` is empty"),
        ({"runs": 0}, "`runs` and `threads` must be at least 1; received 0, 1"),
        ({"threads": 0}, "`runs` and `threads` must be at least 1; received 50, 0"),
        ({"inputs": np.ones((1, 3))}, r"'features' .* does not fit an array of shape \[1, 3\]"),
        ({"inputs": {"a": [[0] * 4], "b": [[0] * 4]}}, r"expects the inputs \['features'\]"),
    ],
)
def test_wrong_arguments_are_named(files, arguments, message):
    with pytest.raises(SenteiError, match=message):
        benchmark(**{"files": [files["dense"]], **arguments})


def test_too_few_rows_for_a_fixed_batch_are_named(tmp_path):
    path = tmp_path / "pairs.tflite"
    path.write_bytes(flatfiles.dense(batch=2))
    with pytest.raises(SenteiError, match=r"'features' .* needs 2 rows; received 1"):
        benchmark(path, np.ones((1, 4)), runs=1)


def test_a_file_that_crashes_the_runtime_takes_only_the_child_down(files, monkeypatch):
    """An interpreter that kills its process stands in for the runtime."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr(memory, "_COMMAND", ("-c", code))
    with pytest.raises(CorruptFile, match=r"dense\.tflite makes the runtime crash \(signal 11\)"):
        benchmark(files["dense"], runs=1)


def test_memory_grows_with_the_activations(files):
    few = memory.measure(files["dense_open_batch"], {0: (1, 4)})
    many = memory.measure(files["dense_open_batch"], {0: (4_000_000, 4)})
    # Inputs and outputs of 4 and 3 floats per row.
    assert many - few > 4_000_000 * 4 * 7 * 0.9


def test_memory_passes_the_runtimes_refusal_on(files):
    with pytest.raises(UnsupportedModel, match=r"The runtime refuses .*: ."):
        memory.measure(files["dense_open_batch"], {0: (1, 5)})


def test_read_inputs(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.arange(3), b=np.ones(2))
    found = read_inputs(tmp_path / "x.npz")
    assert {name: value.tolist() for name, value in found.items()} == {"a": [0, 1, 2], "b": [1, 1]}
    np.save(tmp_path / "x.npy", np.arange(4))
    np.testing.assert_array_equal(read_inputs(tmp_path / "x.npy"), [0, 1, 2, 3])


def _pickled():
    stream = io.BytesIO()
    np.save(stream, np.array([{}], object))
    return stream.getvalue()


def _archive():
    stream = io.BytesIO()
    np.savez(stream, a=np.arange(100))
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"text", _pickled(), _archive()[:-30], _archive().replace(b"NUMPY", b"DUMPY")],
    ids=["text", "pickle", "truncated", "damaged"],
)
def test_read_inputs_refuses_what_holds_no_arrays(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"x\.npz holds no arrays that NumPy can read"):
        read_inputs(tmp_path / "x.npz")
