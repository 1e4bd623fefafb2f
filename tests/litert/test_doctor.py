"""The doctor's verdicts, each against what the real runtime does (see `sparse_networks`)."""

import json

import keras
import numpy as np
import pytest
from keras import layers as kl
from sparse_networks import NETWORKS, Options, build, emulator, run_without_avx

import sentei
from sentei.cli import main
from sentei.core.errors import CorruptFile, ExportError, SenteiError
from sentei.litert import sparse_file
from sentei.litert.sparsify import sparsify

QUICK = (
    "as it should be",
    "dense head that is large",
    "stem padded as TensorFlow does",
    "depthwise padded as TensorFlow does",
    "nearest resizing",
    "concatenation",
    "flattened",
    "a second output",
)
# Networks of which XNNPACK computes wrong numbers when they are stored sparse.
WRONG = (
    "depthwise padded as TensorFlow does",
    "depthwise without padding",
    "depthwise of 7x7",
    "depthwise dilated",
    "depthwise with a multiplier",
)


def stored_sparse(model, path):
    """The file with its weights sparse, whatever becomes of it."""
    sentei.export(model, path, sparse=False, verify=False)
    path.write_bytes(sparsify(path.read_bytes(), True)[0])
    return path


def judged(name, tmp_path):
    options, runs_sparse, words = NETWORKS[name]
    path = stored_sparse(build(options), tmp_path / "m.tflite")
    found = sentei.diagnose(path)
    assert found.runs_sparse == runs_sparse
    assert found.goes_wrong == (name in WRONG)
    assert words in str(found)
    return path


@pytest.mark.parametrize("name", QUICK)
def test_each_verdict_is_what_the_runtime_was_seen_to_do(name, tmp_path):
    judged(name, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(emulator() is None, reason="needs qemu-x86_64 (Debian: qemu-user)")
def test_each_verdict_is_what_the_runtime_does(tmp_path):
    files = []
    for number, name in enumerate(NETWORKS):
        folder = tmp_path / str(number)
        folder.mkdir()
        files.append(judged(name, folder))
    for name, ran in zip(NETWORKS, run_without_avx(files), strict=True):
        assert (ran.sparse > 0) == NETWORKS[name][1], name
        assert (ran.error > 1e-3) == (name in WRONG), name


@pytest.fixture(scope="module")
def untrained():
    """A network that qualifies, without a zero."""
    return build(Options(share=0.0, head_share=0.0))


def test_a_model_is_judged_before_it_is_pruned(untrained):
    found = sentei.diagnose(untrained)
    assert (found.qualifies, found.runs_sparse, found.stored_sparse) == (True, False, None)
    counted = [op.name for op in found.operators if op.zeros is not None]
    assert counted == ["expand", "project", "second_expand", "second_project", "last", "head"]
    kernels = [untrained.get_layer(name).kernel for name in counted]
    assert found.clusters[0].parameters == sum(int(np.prod(kernel.shape)) for kernel in kernels)
    # The head is small beside the convolutions: it may stay dense.
    assert found.layers_to_prune == tuple(counted[:-1])


def test_a_file_must_also_be_stored_sparse(tmp_path):
    path = tmp_path / "m.tflite"
    sentei.export(build(Options()), path, sparse=False, verify=False)
    found = sentei.diagnose(path)
    assert (found.runs_sparse, found.qualifies) == (False, True)
    assert "No weight is stored sparse" in str(found)


def test_what_xnnpack_would_get_wrong_is_not_stored_sparse(tmp_path):
    model = build(NETWORKS["depthwise padded as TensorFlow does"][0])
    assert sentei.export(model, tmp_path / "m.tflite", verify=False).sparse is None
    with pytest.raises(ExportError, match=r"starts at stem, but what expand writes is read outs"):
        sentei.export(model, tmp_path / "n.tflite", sparse=True, verify=False)
    assert not (tmp_path / "n.tflite").exists()


def test_integers_do_not_run_sparse():
    from sentei.litert.xnnpack.nodes import Node
    from sentei.litert.xnnpack.rules import Role, verdict

    shapes = ((1, 4, 4, 8), (8, 1, 1, 8))
    node = Node(0, "CONV_2D", "c", (0,), (1,), frozenset({"int8"}), shapes, kernel=(1, 1))
    said = verdict(node)
    assert said.role is Role.NONE
    assert said.reason.startswith("it computes in int8")


# --- the policy ----------------------------------------------------------------------------------


def test_the_policy_prunes_what_will_run_sparse_and_nothing_else(untrained):
    model = keras.models.clone_model(untrained)
    model.compile("sgd", "mse")
    schedule = sentei.sparsity.ConstantSparsity(0.8)
    sentei.prune(model, schedule, layers="xnnpack")
    (rule,) = model.optimizer.projections
    assert {pruned.weight.layer for pruned in rule.weights} == {
        "expand", "project", "second_expand", "second_project", "last"
    }  # fmt: skip


def test_a_head_that_would_tip_the_balance_is_pruned_too():
    rule = sentei.sparsity.pruning(
        build(Options(head=100)), sentei.sparsity.ConstantSparsity(0.8), layers="xnnpack"
    )
    assert "head" in {pruned.weight.layer for pruned in rule.weights}


def test_the_policy_refuses_a_model_without_such_layers_and_says_why():
    model = build(NETWORKS["stem padded as TensorFlow does"][0])
    model.compile("sgd", "mse")
    with pytest.raises(SenteiError, match=r"no part of model .* stem: it is padded by 'same'"):
        sentei.prune(model, sentei.sparsity.ConstantSparsity(0.8), layers="xnnpack")


# --- errors and the command line -----------------------------------------------------------------


def test_arguments_are_checked(tmp_path):
    with pytest.raises(SenteiError, match=r"`target` must be one of 'xnnpack'. Received: 'gpu'"):
        sentei.diagnose(tmp_path / "m.tflite", "gpu")
    with pytest.raises(SenteiError, match=r"takes a Keras model or the path.*Received: int"):
        sentei.diagnose(3)
    with pytest.raises(CorruptFile, match="no such file"):
        sentei.diagnose(tmp_path / "missing.tflite")


@pytest.mark.parametrize(
    ("options", "sparse", "status"),
    [
        (Options(), True, 0),
        (Options(), False, 3),
        (NETWORKS["flattened"][0], True, 4),
    ],
)
def test_the_command_line_tells_by_its_status(options, sparse, status, tmp_path, capsys):
    path = tmp_path / "m.tflite"
    sentei.export(build(options), path, sparse=sparse, verify=False)
    assert main(["doctor", str(path), "--json"]) == status
    told = json.loads(capsys.readouterr().out)
    assert told["runs_sparse"] == (status == 0)
    assert told["qualifies"] == (status != 4)
    assert bool(told["obstacles"]) == (status == 4)


def test_the_command_line_takes_keras_models(untrained, tmp_path, capsys):
    untrained.save(tmp_path / "m.keras")
    assert main(["doctor", str(tmp_path / "m.keras")]) == 3
    assert "most non-zeros are in" in capsys.readouterr().out


def test_the_check_of_a_sparse_file_looks_at_xnnpack_too(monkeypatch):
    assert list(sparse_file._TOLERANCES) == ["builtin", "xnnpack"]


# --- names ---------------------------------------------------------------------------------------


def test_layers_are_called_by_their_names_also_in_nested_models():
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), kl.Conv2D(4, 1, name="deep"), kl.ReLU(name="positive")],
        name="block",
    )
    inputs = keras.Input((16, 16, 3))
    x = kl.ZeroPadding2D(1)(inputs)
    x = kl.BatchNormalization(name="norm")(kl.Conv2D(4, 3, 2, name="stem")(x))
    model = keras.Model(inputs, kl.GlobalAveragePooling2D(name="mean")(inner(x)))
    assert [op.name for op in sentei.diagnose(model).operators] == ["stem", "deep", "mean"]


def test_a_layer_with_the_bias_of_another_keeps_its_name():
    # Equal biases are one constant, named after the first: `layers="xnnpack"` left the second
    # dense. Layers that are added up have equal biases however long they are trained.
    inputs = keras.Input((8, 8, 8))
    first, second = kl.Conv2D(16, 1, name="first"), kl.Conv2D(16, 1, name="second")
    model = keras.Model(inputs, kl.Add()([first(inputs), second(kl.ReLU()(inputs))]))
    first.bias.assign(np.arange(16.0))
    second.bias.assign(np.arange(16.0))
    named = [op.name for op in sentei.diagnose(model).operators if op.operator == "CONV_2D"]
    assert sorted(named) == ["first", "second"]
