"""Converting a model in a second Python process that runs Keras on JAX.

The parent, on TensorFlow or PyTorch, saves the model and a note of where its custom classes are
defined; the child (`python -m sentei.litert.child FOLDER`) loads it, writes the file and leaves a
note of how that went in the same folder.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pickle
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import keras

from sentei.core import errors
from sentei.core.errors import ExportError, SenteiError, UnsupportedModel
from sentei.core.select import sublayers
from sentei.litert.definitions import definitions
from sentei.litert.lower import Lowered, lower_here
from sentei.litert.signature import Signature

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_JOB, _RESULT = "job.pickle", "result.pickle"
_MAIN = "__main__"
# What the user's script is called in the child, so that its `if __name__ == "__main__":` rests.
_SCRIPT_MODULE = "__sentei_script__"
_RANDOM_INITIALIZERS = {
    name
    for name, item in vars(keras.initializers).items()
    if isinstance(item, type) and "seed" in inspect.signature(item).parameters
}
# Packages whose classes Keras finds by itself.
_KNOWN = {"builtins", "keras"}


@dataclass(frozen=True)
class Job:
    """What the child needs beside the saved model.

    Attributes:
        signature: What the model is called with.
        target: Where to write the file.
        modules: The modules that define or register custom objects.
        script: The file run as `__main__`, when it defines some of them.
        package: The package of that file, when it is run as a part of one.
        names: The classes and functions that are needed, as `(module, name)`.
        floatx: Keras' default float dtype in the parent.
        image_data_format: Keras' default in the parent.
    """

    signature: Signature
    target: Path
    modules: tuple[str, ...]
    script: str | None
    package: str | None
    names: tuple[tuple[str, str], ...]
    floatx: str = field(default_factory=keras.config.floatx)
    image_data_format: str = field(default_factory=keras.config.image_data_format)


def lower_elsewhere(model: Any, signature: Signature, path: Path) -> Lowered:
    """Converts a model in a second process on JAX.

    Args:
        model: A built Keras model, on any backend.
        signature: What it is called with.
        path: Where to write the file.

    Returns:
        What is known of the file.

    Raises:
        UnsupportedModel: The model cannot be saved and loaded, or a layer cannot be exported.
        ExportError: The converter refuses the model, or the child fails.
    """
    start = perf_counter()
    with tempfile.TemporaryDirectory(prefix="sentei-") as name:
        folder = Path(name)
        try:
            # Not model.save: the optimizer's state, which can be twice the weights, is not needed.
            with warnings.catch_warnings(action="ignore"):  # That lambdas are unsafe to load.
                config = keras.saving.serialize_keras_object(model)
                model.save_weights(folder / _WEIGHTS)
            text = json.dumps(_for_inference(config))
        except Exception as error:
            raise UnsupportedModel(
                f"Model {model.name!r} cannot be saved, which its export from the "
                f"{keras.backend.backend()} backend needs: {_first_line(error)}. Give custom "
                "layers a `get_config`, or export on the JAX backend (KERAS_BACKEND=jax)."
            ) from None
        (folder / _CONFIG).write_text(text, encoding="utf-8")
        (folder / _JOB).write_bytes(pickle.dumps(_describe(model, signature, path, text)))
        done = subprocess.run(
            [sys.executable, "-m", "sentei.litert.child", str(folder)],
            env=_environment(),
            capture_output=True,
            check=False,
        )
        result = folder / _RESULT
        if not result.exists():
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no output"]
            raise ExportError(
                f"The second process that converts model {model.name!r} ended with status "
                f"{done.returncode}: {lines[-1]}"
            )
        outcome = pickle.loads(result.read_bytes())
    if isinstance(outcome, Lowered):
        others = perf_counter() - start - sum(outcome.seconds.values())
        return replace(outcome, seconds={"second process": others, **outcome.seconds})
    kind, message = outcome
    raise getattr(errors, kind, ExportError)(message)


def main(folder: Path) -> None:
    """Converts the model in a folder and leaves the result there.

    Args:
        folder: The folder that the parent filled.
    """
    job: Job = pickle.loads((folder / _JOB).read_bytes())
    outcome: Lowered | tuple[str, str]
    try:
        keras.config.set_floatx(job.floatx)
        keras.config.set_image_data_format(job.image_data_format)
        outcome = lower_here(_load(folder, job), job.signature, job.target)
    except SenteiError as error:
        outcome = type(error).__name__, str(error)
    except Exception as error:
        outcome = ExportError.__name__, f"The export failed: {type(error).__name__}: {error}"
    # Written elsewhere first: a result that is there is whole.
    temporary = folder / (_RESULT + ".tmp")
    temporary.write_bytes(pickle.dumps(outcome))
    os.replace(temporary, folder / _RESULT)


def _for_inference(config: Any) -> Any:
    """A model's config without what its weights and its training make of it.

    Layers begin at zero, as their weights are loaded anyway: JAX compiles the random numbers of
    each shape anew, which makes loading MobileNetV2 take six times longer.
    """
    if isinstance(config, dict):
        if (
            config.get("module") == "keras.initializers"
            and config.get("class_name") in _RANDOM_INITIALIZERS
        ):
            return {**config, "class_name": "Zeros", "config": {}}
        return {k: _for_inference(v) for k, v in config.items() if k != "compile_config"}
    if isinstance(config, list | tuple):
        return [_for_inference(value) for value in config]
    return config


def _describe(model: Any, signature: Signature, path: Path, config: str) -> Job:
    """Finds out what the child must import to load the model."""
    registered = keras.saving.get_custom_objects()
    used = [item for name, item in registered.items() if f'"{name}"' in config]
    # A layer also holds what the config does not need, such as the loss it is trained with.
    used += [item for item in _parts(model) if f'"{item.__name__}"' in config]
    used = [item for item in used if not _is_known(item)]
    for item in used:
        _check_reach(item, keras.backend.backend())
    modules = {_module(item) for item in [*used, *registered.values()] if not _is_known(item)}
    needs_script = any(_module(item) == _MAIN for item in used)
    main_module = sys.modules[_MAIN]
    return Job(
        signature=signature,
        target=path.resolve(),
        modules=tuple(sorted(modules - {_MAIN})),
        script=str(Path(main_module.__file__ or "").resolve()) if needs_script else None,
        package=main_module.__package__,
        names=tuple(sorted({(_module(item), item.__name__) for item in used})),
    )


def _parts(model: Any) -> Iterator[Any]:
    """The classes of the layers, and the classes and functions of what they hold."""
    for layer, _ in sublayers(model):
        yield type(layer)
        for value in vars(layer).values():
            if isinstance(value, types.FunctionType) and value.__name__ != "<lambda>":
                yield value
            elif hasattr(value, "get_config") and not isinstance(value, type):
                yield type(value)


def _module(item: Any) -> str:
    return getattr(item, "__module__", None) or "builtins"


def _is_known(item: Any) -> bool:
    return _module(item).partition(".")[0] in _KNOWN


def _check_reach(item: Any, backend: str) -> None:
    """Raises UnsupportedModel for what a second process cannot import."""
    name = getattr(item, "__qualname__", repr(item))
    if "<locals>" in name:
        where = f"inside the function {name.partition('.<locals>')[0]!r}"
    elif _module(item) == _MAIN and not hasattr(sys.modules[_MAIN], "__file__"):
        where = "in an interactive session"
    else:
        return
    raise UnsupportedModel(
        f"{item.__name__!r} is defined {where}, where the second process that converts models of "
        f"the {backend} backend cannot reach it. Define it at the top level of a module (a .py "
        "file), or export on the JAX backend (KERAS_BACKEND=jax)."
    )


def _environment() -> dict[str, str]:
    """The parent's environment, on JAX, on the CPU, with the same modules in reach."""
    paths = [os.path.abspath(path or os.curdir) for path in sys.path]
    return {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def _load(folder: Path, job: Job) -> Any:
    """Loads the model with its custom classes and functions."""
    missing = [message for name in job.modules if (message := _import(name))]
    objects: dict[str, Any] = {}
    if job.script is not None:
        wanted = [name for module, name in job.names if module == _MAIN]
        objects.update(definitions(Path(job.script), wanted, _SCRIPT_MODULE, job.package))
    for module, name in job.names:
        found = getattr(sys.modules.get(module), name, None) if module != _MAIN else None
        if found is not None:
            objects[name] = found
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        # The parent wrote this a moment ago: its lambdas are the user's own.
        model = keras.saving.deserialize_keras_object(config, objects, safe_mode=False)
        model.load_weights(folder / _WEIGHTS)
        return model
    except Exception as error:
        why = "; ".join([_first_line(_root(error)), *missing])
        raise UnsupportedModel(
            f"The second process that converts the model cannot load it: {why}. Define custom "
            "classes and functions at the top level of a module, give layers a `get_config`, or "
            "export on the JAX backend (KERAS_BACKEND=jax)."
        ) from None


def _import(name: str) -> str | None:
    """Imports a module; says what went wrong, if anything."""
    try:
        importlib.import_module(name)
    except Exception as error:
        return f"module {name!r} cannot be imported ({type(error).__name__}: {error})"
    return None


def _root(error: BaseException) -> BaseException:
    """The first of a chain of errors: Keras wraps the cause once per enclosing layer."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


if __name__ == "__main__":
    # Under this name its classes would be other ones than those the parent unpickles.
    importlib.import_module("sentei.litert.child").main(Path(sys.argv[1]))
