"""What the package promises as a whole: a cheap import, and a wheel that holds the demo's data."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Keras itself loads jax and matplotlib where they are installed: what it loads is not counted.
HEAVY = {"jax", "jaxlib", "litert_converter", "ai_edge_litert", "tensorflow", "torch"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules that `code` loads on top of what `import keras` loads."""
    program = (
        "import json, sys, keras\n"
        "before = set(sys.modules)\n"
        f"{code}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    environment = {**os.environ, "KERAS_BACKEND": "numpy", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_import_loads_sentei_and_nothing_heavy():
    loaded = loaded_by("import sentei")
    assert "sentei.sparsity.rule" in loaded  # so that saved models find their classes
    assert not {name for name in loaded if name.startswith(("sentei.litert", "sentei.demo"))}
    assert not HEAVY & {name.split(".")[0] for name in loaded}


@pytest.mark.slow
def test_the_old_names_cost_those_who_use_them_only():
    assert not {name for name in loaded_by("import sentei") if name.startswith("sentei.tfmot")}
    loaded = loaded_by("from sentei import tfmot; import sentei.tfmot as again")
    assert "sentei.tfmot.clustering.keras.experimental" in loaded
    assert not {name for name in loaded if name.startswith("sentei.litert")}
    assert not HEAVY & {name.split(".")[0] for name in loaded}


def test_public_names_are_listed_and_unknown_ones_refused():
    import sentei

    for name in ("prune", "strip", "export", "benchmark", "Projected", "sparsity"):
        assert name in dir(sentei)
        assert getattr(sentei, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'prune_all'"):
        sentei.prune_all  # noqa: B018


@pytest.mark.slow
def test_wheel_holds_the_images_and_their_licence(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), "."]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("sentei-*.whl")
    with zipfile.ZipFile(wheel) as content:
        sizes = {item.filename: item.file_size for item in content.infolist()}
    assert 5_000_000 < sizes["sentei/demo/fashion_mnist.npz"] < 6_000_000
    assert sizes["sentei/demo/fashion_mnist.LICENSE"] > 1000
    assert not [name for name in sizes if name.startswith("tests")]
