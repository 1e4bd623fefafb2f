"""The command line as a user meets it: exit status, one-line errors, pure JSON, no litter."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import types
import warnings

import flatfiles
import keras
import numpy as np
import pytest

import sentei
from sentei import cli
from sentei.litert import inspect as inspect_room
from sentei.litert.runtime import Runner


@pytest.fixture(autouse=True)
def _keep_the_process():
    """`main` sets up a process of its own; the tests' process gets its handler back."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder of each test, with a good file and every kind of bad one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    good = flatfiles.dense()
    files = {
        "good.tflite": good,
        "int8.tflite": flatfiles.dense_int8(),
        "truncated.tflite": good[:300],
        "flipped.tflite": good[:20] + b"\xff\xff" + good[22:],
        "empty": b"",
        "text.keras": b"this is not a model\n",
        "truncated.keras": b"PK\x03\x04" + b"\0" * 60,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "directory").mkdir()
    return tmp_path


@pytest.fixture
def model(folder):
    model = keras.Sequential(
        [keras.Input((4,), name="features"), keras.layers.Dense(3, name="scores")]
    )
    model.save(folder / "model.keras")
    return model


def run(capfd, *arguments):
    """Exit status, output and error output of a command."""
    status = cli.main([str(argument) for argument in arguments])
    captured = capfd.readouterr()
    return status, captured.out, captured.err


BAD = [
    "truncated.tflite",
    "flipped.tflite",
    "empty",
    "text.keras",
    "truncated.keras",
    "directory",
    "missing.tflite",
]


@pytest.mark.parametrize("json_too", [False, True])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    "command",
    [
        "bench {bad}",
        "bench good.tflite {bad}",
        "bench good.tflite --inputs {bad}",
        "inspect {bad}",
        "export {bad} out.tflite",
    ],
)
def test_bad_files_are_one_line_and_leave_nothing(folder, capfd, command, bad, json_too):
    before = sorted(os.listdir(folder))
    words = command.format(bad=bad).split() + ["--json"] * json_too
    status, out, err = run(capfd, *words)
    assert status == 1
    assert out == ""
    assert err.startswith("sentei: error: ")
    assert bad in err
    assert err.count("\n") == 1
    assert sorted(os.listdir(folder)) == before


def test_bench_prints_a_table(folder, capfd):
    status, out, err = run(capfd, "bench", "good.tflite", "int8.tflite", "--runs", 2)
    assert status == 0
    assert err == ""
    assert re.search(r"^ *good\.tflite +660 .* 1\.00x", out, re.MULTILINE)
    assert re.search(r"^ *int8\.tflite +864 ", out, re.MULTILINE)


def test_bench_gives_json(folder, capfd):
    np.savez(folder / "x.npz", features=np.ones((1, 4), np.float32))
    command = [
        "bench",
        "good.tflite",
        "--runs",
        "3",
        "--threads",
        "2",
        "--inputs",
        "x.npz",
        "--json",
    ]
    status, out, err = run(capfd, *command)
    assert (status, err) == (0, "")
    (item,) = json.loads(out)["measurements"]
    assert (item["file"], item["runs"], item["threads"]) == ("good.tflite", 3, 2)


def test_bench_shows_the_profile_when_asked(folder, capfd):
    command = ["bench", "good.tflite", "--runs", 1]
    assert "Fully Connected" not in run(capfd, *command)[1]
    status, out, err = run(capfd, *command, "--profile")
    assert (status, err) == (0, "")
    assert re.search(r"^ Fully Connected .* xnnpack +1 ", out, re.MULTILINE)
    (item,) = json.loads(run(capfd, *command, "--profile", "--json")[1])["measurements"]
    assert any(operator["name"].startswith("Fully Connected") for operator in item["profile"])


def test_inspect_prints_tables(folder, capfd):
    status, out, err = run(capfd, "inspect", "int8.tflite")
    assert (status, err) == (0, "")
    assert out.startswith("int8.tflite: tflite, 864 bytes\n1 operators: 1 FULLY_CONNECTED\n")
    assert re.search(r"^ kernel +constant +3x4 +int8 +12 +66\.7% +12 ", out, re.MULTILINE)


def test_inspect_gives_json(folder, model, capfd):
    status, out, err = run(capfd, "inspect", "model.keras", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["parameters"] == 15
    assert found["operators"]["Dense"] == 1


def test_export_writes_a_file_that_computes_the_model(folder, model, capfd):
    status, out, err = run(capfd, "export", "model.keras", "out.tflite")
    assert (status, err) == (0, "")
    assert "out.tflite" in out
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    np.testing.assert_allclose(
        Runner("out.tflite")(x)["scores"], model.predict(x, verbose=0), atol=1e-5
    )


@pytest.mark.parametrize(("batch", "shape"), [("3", (3, 4)), ("open", (-1, 4)), (None, (1, 4))])
def test_export_sets_the_batch(folder, model, capfd, batch, shape):
    words = [] if batch is None else ["--batch", batch]
    status, out, _ = run(capfd, "export", "model.keras", "out.tflite", *words, "--json")
    assert status == 0
    assert json.loads(out)["path"] == "out.tflite"
    assert Runner("out.tflite").inputs["features"].shape == shape


@pytest.mark.parametrize(("words", "verified"), [([], True), (["--no-verify"], False)])
def test_export_verifies_unless_told_not_to(folder, model, capfd, words, verified):
    _, out, _ = run(capfd, "export", "model.keras", "out.tflite", *words, "--json")
    assert (json.loads(out)["verification"] is not None) == verified


def test_export_replaces_a_file_only_by_force(folder, model, capfd):
    (folder / "out.tflite").write_bytes(b"mine")
    status, out, err = run(capfd, "export", "model.keras", "out.tflite")
    assert (status, out) == (1, "")
    assert err == (
        "sentei: error: out.tflite exists. Give another path, or --force to replace it.\n"
    )
    assert (folder / "out.tflite").read_bytes() == b"mine"
    assert run(capfd, "export", "model.keras", "out.tflite", "--force")[0] == 0
    assert (folder / "out.tflite").read_bytes()[4:8] == b"TFL3"


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("absent/out.tflite", "the folder absent does not exist. Create it first."),
        ("directory", "directory is a directory. Give the path of the file to write."),
        ("empty/out.tflite", "the folder empty does not exist"),
    ],
)
def test_export_refuses_a_bad_target_before_it_works(folder, capfd, out, message):
    """The model is missing too: the target is looked at first."""
    status, _, err = run(capfd, "export", "missing.keras", out)
    assert status == 1
    assert message in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: COMMAND. See `sentei --help`."),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["bench"], "the following arguments are required: FILE. See `sentei bench --help`."),
        (["bench", "a", "--runs", "0"], "expected a number from 1, received '0'"),
        (["bench", "a", "--threads", "x"], "expected a number from 1, received 'x'"),
        (["export", "a"], "the following arguments are required: OUT.tflite"),
        (["export", "a", "b", "--batch", "-1"], "expected"),
        (["inspect", "a", "--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_arguments_are_one_line(capfd, words, message):
    status, out, err = run(capfd, *words)
    assert (status, out) == (2, "")
    assert err.startswith("sentei: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_version(capfd):
    assert run(capfd, "--version") == (0, f"sentei {sentei.__version__}\n", "")


def test_each_command_has_help_with_an_example(capfd):
    _, out, _ = run(capfd, "--help")
    listed = re.findall(r"^    (\w+)  ", out, re.MULTILINE)
    assert {"demo", "export", "bench", "inspect"} <= set(listed)
    for command in listed:
        status, out, err = run(capfd, command, "--help")
        assert (status, err) == (0, ""), command
        assert f"example:\n  sentei {command} " in out
        assert "--json" in out, command


def _demo_module(monkeypatch, run_demo):
    module = types.ModuleType("sentei.demo")
    module.run = run_demo
    monkeypatch.setitem(sys.modules, "sentei.demo", module)
    monkeypatch.setattr(sentei, "demo", module, raising=False)


@pytest.mark.parametrize("status", [0, 5])
def test_demo_passes_its_arguments_and_status_on(monkeypatch, capfd, status):
    seen = []
    _demo_module(monkeypatch, lambda out, **options: seen.append((str(out), options)) or status)
    words = ["demo", "--out", "here", "--quick", "--seed", "7", "--json"]
    assert run(capfd, *words)[0] == status
    assert run(capfd, "demo")[0] == status
    assert seen == [
        ("here", {"quick": True, "json": True, "seed": 7}),
        ("sentei-demo", {"quick": False, "json": False, "seed": 0}),
    ]


def _raise(error):
    def run_demo(out, **options):
        raise error

    return run_demo


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            ModuleNotFoundError("No module named 'x'"),
            1,
            "a package is missing: No module named 'x'",
        ),
        (OSError(28, "No space left on device", "f"), 1, "f: No space left on device"),
        (PermissionError(13, "Permission denied"), 1, "Permission denied"),
        (RuntimeError("two\nlines"), 1, "unexpected RuntimeError: two lines. This is a fault of"),
        (MemoryError(), 1, "unexpected MemoryError"),
    ],
)
def test_no_error_is_a_traceback(monkeypatch, capfd, error, status, message):
    _demo_module(monkeypatch, _raise(error))
    got, out, err = run(capfd, "demo")
    assert (got, out) == (status, "")
    assert err.startswith(f"sentei: error: {message}")
    assert err.count("\n") == 1


def test_a_fault_of_ours_can_be_traced(monkeypatch, capfd):
    monkeypatch.setenv("SENTEI_TRACEBACK", "1")
    _demo_module(monkeypatch, _raise(RuntimeError("boom")))
    with pytest.raises(RuntimeError, match="boom"):
        cli.main(["demo"])


def _spawn(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "sentei", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_help_imports_nothing_heavy():
    child = subprocess.run(
        [sys.executable, "-m", "sentei", "--help"],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in child.stderr.splitlines()}
    assert "sentei.core.errors" in imported
    assert not imported & {"keras", "jax", "numpy", "rich", "ai_edge_litert", "tensorflow"}


@pytest.mark.parametrize(("given", "used"), [(None, "jax"), ("torch", "torch")])
def test_keras_runs_on_jax_unless_the_user_says_otherwise(monkeypatch, capfd, given, used):
    seen = []
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if given:
        monkeypatch.setenv("KERAS_BACKEND", given)
    _demo_module(monkeypatch, lambda out, **options: seen.append(os.environ["KERAS_BACKEND"]) or 0)
    run(capfd, "demo")
    assert seen == [used]


def test_what_libraries_say_does_not_get_into_the_json(folder, capfd, monkeypatch):
    original = inspect_room.inspect

    def chatty(file):
        print("loading...")
        warnings.warn("something is old", stacklevel=1)
        return original(file)

    monkeypatch.setattr(inspect_room, "inspect", chatty)
    status, out, err = run(capfd, "inspect", "good.tflite", "--json")
    assert (status, err) == (0, "loading...\n")
    assert json.loads(out)["parameters"] == 15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [(signal.SIGINT, 130, "sentei: error: interrupted\n"), (signal.SIGTERM, 143, "")],
)
def test_signals_end_it_quietly(folder, sent, status, message):
    # What a shell starts in the background ignores interrupts, and its children do.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        child = _spawn("bench", "good.tflite", "--runs", "1000000", cwd=folder)
    finally:
        signal.signal(signal.SIGINT, before)
    with child:
        time.sleep(3)
        child.send_signal(sent)
        try:
            out, err = child.communicate(timeout=30)
        finally:
            child.kill()
    assert (child.returncode, out, err) == (status, "", message)


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error(folder):
    child = _spawn("inspect", "good.tflite", cwd=folder)
    child.stdout.close()
    err = child.stderr.read()
    assert (child.wait(30), err) == (141, "")
    child.stderr.close()


@pytest.mark.slow
def test_a_half_pruned_model_is_exported_as_it_stands(folder, model):
    """The file holds a loss that only the user has, and an optimizer of ours."""

    def own_loss(wanted, given):
        return keras.ops.mean(keras.ops.square(wanted - given))

    model.compile("adam", loss=own_loss)
    sentei.prune(model, sentei.sparsity.ConstantSparsity(0.5, begin_step=0, frequency=1))
    model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
    model.save("pruned.keras")
    child = _spawn("export", "pruned.keras", "pruned.tflite", "--json", cwd=folder)
    _, err = child.communicate(timeout=120)
    assert (child.returncode, err) == (0, "")
    (kernel,) = [t for t in inspect_room.inspect("pruned.tflite").tensors if t.shape == (3, 4)]
    assert kernel.zeros == 0.5


@pytest.mark.slow
def test_as_a_process_the_terminal_stays_clean(folder, model):
    child = _spawn("export", "model.keras", "out.tflite", "--json", cwd=folder)
    out, err = child.communicate(timeout=120)
    assert (child.returncode, err) == (0, "")
    assert json.loads(out)["operators"] == {"FULLY_CONNECTED": 1}
