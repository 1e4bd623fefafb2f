"""Puts the figures of a `make demo` into the README, so that nobody types them.

    make demo && python tools/update_readme.py sentei-demo

Copies the demo's results.json and tradeoff.png to docs/demo.json and docs/demo.png, and rewrites
the part of README.md between its two markers. tests/test_readme.py checks that both agree.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

from sentei.demo.results import COLUMNS, Row, cells, summary

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS, PICTURE = (
    ROOT / "README.md",
    ROOT / "docs" / "demo.json",
    ROOT / "docs" / "demo.png",
)
BEGIN = "<!-- figures of `make demo`, written by tools/update_readme.py: begin -->"
END = "<!-- end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder that the demo wrote")
    folder = parser.parse_args().folder
    results = json.loads((folder / "results.json").read_text())
    if results["quick"]:
        parser.error(f"{folder} holds a quick demo, whose figures mean little: run it in full")
    text = with_figures(README.read_text(), results)
    shutil.copyfile(folder / "results.json", RESULTS)
    shutil.copyfile(folder / "tradeoff.png", PICTURE)
    README.write_text(text)


def with_figures(readme: str, results: dict) -> str:
    """The README with the figures of `results` between its markers."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{figures(results)}\n{END}{after}"


def figures(results: dict) -> str:
    """The table of the demo as Markdown, and what it was measured on."""
    rows = [Row(**row) for row in results["rows"]]
    machine = results["measured_on"]
    lines = [
        "| " + " | ".join(COLUMNS) + " |",
        "|---" + "|---:" * (len(COLUMNS) - 1) + "|",
        *("| " + " | ".join(cells(row)) + " |" for row in rows),
        "",
        f"{summary(rows)} Measured on the files, in the LiteRT runtime, on one thread; the whole "
        f"demo took {results['seconds']:.0f} s on {machine['processors']} processors "
        f"({machine['machine']}, {machine['backend']} backend).",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
