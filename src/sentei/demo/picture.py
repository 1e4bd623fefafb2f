"""The trade-off in a picture: what each file costs and what it still knows."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentei.demo.results import Epoch, Results, Row

_COLOURS = ("#3b4252", "#c8553d", "#2a7f62", "#3d6fb4", "#8f5aa8")
_GREY = "#8a8f98"
_KILO = 1000


def draw(results: Results, path: Path) -> None:
    """Draws accuracy against download size, and the way there.

    Args:
        results: What the demo found.
        path: The PNG file to write.
    """
    # On a new machine matplotlib says in the log that it is listing the fonts.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = dict(zip((row.name for row in results.rows), _COLOURS, strict=False))
    _draw_files(left, results.rows, colours)
    _draw_training(right, results.history, colours)
    for axes in (left, right):
        axes.set_title(axes.get_title(), loc="center", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e8eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors="#4b5058", labelsize=9)
    figure.savefig(path, dpi=160)


def _draw_files(axes: Any, rows: Sequence[Row], colours: dict[str, str]) -> None:
    """One point a file: how much is downloaded, how often it is right."""
    first = rows[0]
    for number, row in enumerate(rows):
        size, accuracy = row.packed_bytes / _KILO, 100 * row.accuracy
        error = 100 * row.accuracy_error
        style = {"fmt": "o", "markersize": 9, "capsize": 4, "elinewidth": 1.2}
        axes.errorbar(size, accuracy, yerr=error, color=colours[row.name], **style)
        smaller = "" if row is first else f", {first.packed_bytes / row.packed_bytes:.1f}x smaller"
        # Neighbours have their words on different sides of the middle.
        axes.annotate(
            f"{row.name}\n{row.accuracy:.2%}\n{size:,.0f} kB{smaller}",
            (size, accuracy),
            xytext=(0, -96 if number % 2 else 56),
            textcoords="offset points",
            color=colours[row.name],
            ha="center",
            fontsize=9.5,
        )
    axes.set_xscale("log")
    axes.minorticks_off()
    sizes = [row.packed_bytes / _KILO for row in rows]
    ticks = [step * 10**power for power in range(6) for step in (1, 2, 5)]
    ticks = [tick for tick in ticks if min(sizes) / 2 < tick < 2 * max(sizes)]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    centre = 100 * sum(row.accuracy for row in rows) / len(rows)
    spread = max(abs(100 * row.accuracy - centre) for row in rows)
    half = max(3.0, 1.5 * spread)
    axes.set(
        title="what each file costs, and how often it is right",
        xlabel="download size: kB, packed (logarithmic)",
        ylabel="accuracy in LiteRT, % (± standard error)",
        xlim=(0.4 * min(sizes), 2.0 * max(sizes)),
        ylim=(centre - half, min(100.0, centre + half)),
    )


def _draw_training(axes: Any, history: Sequence[Epoch], colours: dict[str, str]) -> None:
    """Accuracy and sparsity, epoch after epoch, the variants one after another."""
    start, sparsity = 0, [0.0]
    for name in dict.fromkeys(epoch.name for epoch in history):
        epochs = [epoch for epoch in history if epoch.name == name]
        steps = [start + epoch.epoch for epoch in epochs]
        accuracies = [100 * epoch.accuracy for epoch in epochs]
        axes.plot(steps, accuracies, color=colours[name], marker="o", markersize=4)
        label = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "fontsize": 9.5}
        middle = len(steps) // 2
        place = (steps[middle], accuracies[middle])
        axes.annotate(name, place, color=colours[name], **label)
        sparsity += [100 * epoch.sparsity for epoch in epochs]
        start += len(epochs)
    axes.plot(range(len(sparsity)), sparsity, color=_GREY, linestyle="--")
    place = (len(sparsity) - 1, sparsity[-1])
    aside = {"xytext": (0, -14), "textcoords": "offset points", "ha": "right", "fontsize": 9.5}
    axes.annotate("sparsity", place, color=_GREY, **aside)
    axes.set_title("how it was trained")
    axes.set(xlabel="epoch", ylabel="accuracy and sparsity, %", ylim=(0, 105))
    axes.xaxis.get_major_locator().set_params(integer=True)
