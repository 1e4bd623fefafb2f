"""Finding what runs a file in a browser: Chromium, and runtimes that npm has installed."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sentei.core.errors import SenteiError

# npm's name of each runtime → the version that was seen to work, and packages it needs beside it.
RUNTIMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "@tensorflow/tfjs-tflite": ("0.0.1-alpha.10", ()),
    "@litertjs/core": ("2.5.3", ("@litertjs/wasm-utils",)),
}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@dataclass(frozen=True)
class Runtime:
    """A WebAssembly runtime that npm has installed.

    Attributes:
        name: Its name in npm.
        version: As its package says.
        folders: Package name → folder, its own and those it needs.
    """

    name: str
    version: str
    folders: dict[str, Path]


def chromium(given: str | os.PathLike[str] | None = None) -> str:
    """The browser's program.

    Args:
        given: Where it is; looked for on the PATH by default.

    Raises:
        SenteiError: It is not there.
    """
    names = _BROWSERS if given is None else (os.fspath(given),)
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return found
    where = "on the PATH" if given is None else f"at {os.fspath(given)}"
    raise SenteiError(
        f"No Chromium {where}, in which files are run. Install it (apt-get install chromium), or "
        "say where it is (--chromium PATH)."
    )


def runtimes(node_modules: str | os.PathLike[str] | None = None) -> list[Runtime]:
    """The runtimes that are installed.

    Args:
        node_modules: The folder of npm packages; by default `node_modules` here or in a folder
            above, the folders of NODE_PATH, and npm's global one.

    Raises:
        SenteiError: There is none.
    """
    if node_modules is not None:
        places = [Path(node_modules)]
    else:
        here = Path.cwd()
        places = [folder / "node_modules" for folder in (here, *here.parents)]
        places += [Path(p) for p in os.environ.get("NODE_PATH", "").split(os.pathsep) if p]
        places += _global_modules()
    found = [runtime for name in RUNTIMES if (runtime := _runtime(name, places)) is not None]
    if not found:
        where = "" if node_modules is None else f" in {Path(node_modules)}"
        raise SenteiError(
            f"No WebAssembly runtime for .tflite files{where}. Install them: "
            f"{install_command(*RUNTIMES)}; or say where they are (--node-modules FOLDER)."
        )
    return found


def install_command(*names: str) -> str:
    """What to type to install runtimes.

    Args:
        names: Their names in npm.
    """
    packages = " ".join(f"{name}@{RUNTIMES[name][0]}" for name in names)
    # The runtime is a part of a package whose other parts want all of TensorFlow.js beside them.
    return f"npm install --legacy-peer-deps {packages}"


def _runtime(name: str, places: list[Path]) -> Runtime | None:
    folders = {}
    for package in (name, *RUNTIMES[name][1]):
        folder = next(
            (p / package for p in places if (p / package / "package.json").is_file()), None
        )
        if folder is None:
            return None
        folders[package] = folder
    try:
        version = json.loads((folders[name] / "package.json").read_text())["version"]
    except (ValueError, KeyError, OSError):
        return None
    return Runtime(name, str(version), folders)


def _global_modules() -> list[Path]:
    npm = shutil.which("npm")
    if npm is None:
        return []
    try:
        done = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [Path(done.stdout.strip())] if done.returncode == 0 and done.stdout.strip() else []
