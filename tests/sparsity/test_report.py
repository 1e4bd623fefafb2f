import csv
import json

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sentei
from sentei.core.errors import SenteiError
from sentei.sparsity import Block, ConstantSparsity, Log, PolynomialDecay, report


def model(final=0.75):
    stack = [kl.Conv2D(4, 3, name="conv"), kl.DepthwiseConv2D(3, name="deep"), kl.Flatten()]
    built = keras.Sequential([keras.Input((8, 8, 2)), *stack, kl.Dense(3, name="head")])
    built.compile("adam", "mse")
    sentei.prune(built, PolynomialDecay(0.0, final, 0, 4, frequency=2), layers={"head": 0.5})
    return built


def train(built, epochs=1, **options):
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 2)).astype("float32")
    built.fit(x, np.ones((8, 3)), batch_size=4, epochs=epochs, verbose=0, **options)


@pytest.mark.core
def test_the_report_says_what_is_in_the_variables():
    built = model()
    train(built, epochs=2)
    rows = {row.path.split("/")[-2]: row for row in report(built)}
    assert list(rows) == ["conv", "deep", "head"]
    for layer in built.layers:
        if layer.name in rows:
            kernel = ops.convert_to_numpy(layer.kernel)
            assert rows[layer.name].nonzeros == np.count_nonzero(kernel)
            assert rows[layer.name].sparsity == pytest.approx(np.mean(kernel == 0))
            assert rows[layer.name].shape == kernel.shape
    assert (rows["conv"].scheduled, rows["conv"].target) == (0.75, 0.75)
    assert (rows["head"].scheduled, rows["head"].target) == (0.5, 0.5)
    assert rows["deep"].pattern is None and "name it in `layers`" in rows["deep"].note
    pruned = [rows["conv"], rows["head"]]
    zeros = sum(row.size - row.nonzeros for row in pruned)
    assert report(built).sparsity == pytest.approx(zeros / sum(row.size for row in pruned))


@pytest.mark.core
def test_half_way_the_scheduled_sparsity_is_that_of_the_schedule_now():
    built = model()
    train(built, epochs=1)
    now = PolynomialDecay(0.0, 0.75, 0, 4, frequency=2)(2)
    rows = {row.path.split("/")[-2]: row for row in report(built)}
    assert rows["conv"].scheduled == pytest.approx(now)
    assert rows["head"].scheduled == pytest.approx(now * 0.5 / 0.75)


def test_it_prints_as_a_table_and_goes_to_json():
    built = model()
    train(built, epochs=2)
    text = str(report(built))
    assert "Element()" in text and "75.00%" in text and "3x3x2x4" in text
    again = json.loads(json.dumps([row.to_dict() for row in report(built)]))
    assert again[0]["nonzeros"] == report(built)[0].nonzeros


def test_a_model_without_rules_is_reported_too():
    plain = keras.Sequential([keras.Input((4,)), kl.Dense(4)])
    kernel = np.eye(4, dtype="float32")
    plain.layers[0].kernel.assign(kernel)
    (row,) = report(plain)
    assert (row.nonzeros, row.sparsity, row.pattern) == (4, 0.75, None)
    assert report(plain).sparsity == 0.75
    with pytest.raises(SenteiError, match="is not built"):
        report(keras.Sequential([kl.Dense(3)]))


def test_the_log_writes_csv_and_joins_the_history(tmp_path):
    built = model()
    file = tmp_path / "log.csv"
    history_of = lambda: built.fit(  # noqa: E731
        np.ones((8, 8, 8, 2)),
        np.ones((8, 3)),
        batch_size=4,
        epochs=2,
        verbose=0,
        callbacks=[Log(file, append=True)],
    )
    history = history_of()
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert len(rows) == 2 * 3
    assert {row["step"] for row in rows} == {"2", "4"}
    last = {row["weight"]: row for row in rows if row["step"] == "4"}
    for row in report(built):
        assert float(last[row.path]["sparsity"]) == row.sparsity
        assert int(last[row.path]["nonzeros"]) == row.nonzeros
    assert history.history["sparsity"][-1] == report(built).sparsity
    history_of()
    assert len(list(csv.DictReader(file.read_text().splitlines()))) == 4 * 3
    built.fit(np.ones((8, 8, 8, 2)), np.ones((8, 3)), verbose=0, callbacks=[Log(file)])
    assert len(list(csv.DictReader(file.read_text().splitlines()))) == 3


def test_the_log_writes_a_tensorboard_file_or_says_how_to(tmp_path):
    tensorboard = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    built = model()
    train(built, epochs=2, callbacks=[Log(tensorboard_dir=tmp_path)])
    read = tensorboard.EventAccumulator(str(tmp_path)).Reload()
    events = read.Scalars("sparsity/all")
    assert [event.step for event in events] == [2, 4]
    assert events[-1].value == pytest.approx(report(built).sparsity)


def test_the_log_refuses_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(SenteiError, match="its folder does not exist"):
        Log(tmp_path / "nowhere" / "log.csv")


def test_block_reports_the_share_of_blocks_it_was_asked_for():
    built = keras.Sequential([keras.Input((7,)), kl.Dense(5)])
    built.compile("sgd", "mse")
    sentei.prune(built, ConstantSparsity(0.5), pattern=Block((2, 2)))
    built.train_on_batch(np.ones((1, 7)), np.ones((1, 5)))
    (row,) = report(built)
    kernel = ops.convert_to_numpy(built.layers[0].kernel)
    blocks = [kernel[r : r + 2, c : c + 2] for r in range(0, 7, 2) for c in range(0, 5, 2)]
    assert sum(bool(np.any(block)) for block in blocks) == 6
    assert (row.pattern, row.scheduled) == ("Block(shape=(2, 2), pooling='mean')", 0.5)
