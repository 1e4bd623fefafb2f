"""How the study of sparsity is shown: a table, whether targets are met, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# sparsity → how many times as fast as dense it should be
TARGETS = {0.7: 1.35, 0.85: 2.0}


def markdown(found: dict[str, Any]) -> str:
    """The table."""
    rows, runtimes = found["rows"], found["runtimes"]
    heads = [f"{name}: ms | speed-up [quartiles]" for name in runtimes]
    lines = [
        f"# Sparsity: what it costs and brings in {found['task']}",
        "",
        f"Made by `benchmarks/sparse_ablation.py`, {found['setting']}. Speed-up over the "
        f"dense row, one thread, SIMD, {found['browser']}; {found['noise']}.",
        "",
        f"| network | {found['measure']} | float32 bytes | float16 bytes | runs sparse | "
        + " | ".join(heads) + " |",
        "|---|---:|---:|---:|---|" + "---:|---:|" * len(runtimes),
    ]  # fmt: skip
    for row in rows:
        score = f"{row['score']:.2%}" if "score" in row else "-"
        cells = [row["row"], score, f"{row['bytes']:,}", f"{row['f16']:,}"]
        cells.append("yes" if row["runs_sparse"] else "no")
        for name in runtimes:
            seen = row["runtimes"][name]
            low, high = seen["quartiles"]
            cells += [f"{seen['median_ms']:.2f}", f"{seen['speed_up']:.2f} [{low:.2f}, {high:.2f}]"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *verdicts(rows, runtimes)]
    return "\n".join(lines) + "\n"


def verdicts(rows: list[dict[str, Any]], runtimes: list[str]) -> list[str]:
    """Each target, and whether it is met."""
    by_sparsity = {row["sparsity"]: row for row in rows if row["width"] == 1.0}
    said = []
    for sparsity, target in TARGETS.items():
        for name in runtimes:
            speed = by_sparsity[sparsity]["runtimes"][name]["speed_up"]
            met = "met" if speed >= target else "missed"
            said.append(f"- {sparsity:.0%}, {name}: {speed:.2f}x, target {target}x: {met}.")
    if "score" in rows[0]:
        lost = 100 * (by_sparsity[0.0]["score"] - by_sparsity[0.7]["score"])
        met = "met" if lost <= 1.0 else "missed"
        said.append(f"- 70 %: {lost:+.2f} points lost, target at most 1: {met}.")
    return said


def plot(found: dict[str, Any], path: Path) -> None:
    """Speed-up, bytes and, if there is one, accuracy over sparsity."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = sorted((r for r in found["rows"] if r["width"] == 1.0), key=lambda r: r["sparsity"])
    x = [100 * row["sparsity"] for row in rows]
    figure, axes = plt.subplots(1, 3 if "score" in rows[0] else 2, figsize=(12, 3.6))
    for name in found["runtimes"]:
        axes[0].plot(x, [r["runtimes"][name]["speed_up"] for r in rows], marker="o", label=name)
    axes[0].set(xlabel="zeros, %", ylabel="times as fast as dense")
    axes[0].legend(fontsize=7)
    for key, label in (("bytes", "float32"), ("f16", "float16")):
        axes[1].plot(x, [r[key] / rows[0]["bytes"] for r in rows], marker="o", label=label)
    axes[1].set(xlabel="zeros, %", ylabel="bytes over dense float32", ylim=(0, None))
    axes[1].legend(fontsize=7)
    if "score" in rows[0]:
        axes[2].plot(x, [100 * r["score"] for r in rows], marker="o")
        axes[2].set(xlabel="zeros, %", ylabel=f"{found['measure']}, %")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
