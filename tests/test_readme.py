"""The documentation is true: code that runs, a measured table, links that lead somewhere."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")

# What the pages take for granted: a compiled model, data, and a file to compare with.
GIVEN = """
import keras, numpy as np, sentei
x = np.random.default_rng(0).random((400, 8, 8, 1)).astype("float32")
y = np.random.default_rng(1).integers(0, 10, 400)
model = keras.Sequential([
    keras.Input((8, 8, 1), name="image"),
    keras.layers.Flatten(),
    keras.layers.Dense(16, activation="relu", name="hidden"),
    keras.layers.Dense(10, activation="softmax", name="scores"),
])
model.compile("adam", "sparse_categorical_crossentropy")
sentei.export(model, "dense.tflite")
"""


def blocks(page: Path) -> list[str]:
    return CODE.findall(page.read_text())


def with_code() -> list[Path]:
    return [page for page in PAGES if blocks(page)]


def test_the_pages_hold_code():
    assert {page.name for page in with_code()} >= {"README.md", "pruning.md", "export.md"}


@pytest.mark.slow
@pytest.mark.parametrize("page", with_code(), ids=lambda page: page.name)
def test_code_runs(page, tmp_path):
    program = "\n".join([GIVEN, *blocks(page)])
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    environment.pop("PYTHONWARNINGS", None)  # what a user sees is the default
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_the_first_example_has_five_lines():
    first = list(filter(None, blocks(ROOT / "README.md")[0].splitlines()))
    assert len(first) == 5
    assert all(len(line) <= 100 for line in first)


def test_table_is_the_measured_one():
    path = ROOT / "tools" / "update_readme.py"
    specification = importlib.util.spec_from_file_location("update_readme", path)
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    readme = tool.README.read_text()
    results = json.loads(tool.RESULTS.read_text())
    assert tool.with_figures(readme, results) == readme
    dense, pruned, *_ = results["rows"]
    # What the text around the table says of it.
    assert 0.2 < pruned["bytes"] / dense["bytes"] < 0.35


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_in_the_text_exist():
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", page.read_text(), re.MULTILINE))
        assert {first or second for first, second in named} <= rules
