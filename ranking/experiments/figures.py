"""Draw the experiments' figures as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ranking.experiments.runs import CONVENTIONS
from ranking.experiments.tables import against_label
from ranking.experiments.variants import variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#3b6ea5", "#c8772e", "#4a8f4f", "#8d6cab", "#a8434f", "#6b6b6b")


def forest(differences: pl.DataFrame, path: Path, *, metric: str = "ndcg") -> None:
    """Draw every difference with its interval, one panel per convention: they are never compared."""
    frame = differences.filter(pl.col("metric") == metric)
    rows = max(1, frame.filter(pl.col("convention") == CONVENTIONS[0]).height)

    def paint(panels: Sequence[Axes]) -> None:
        for axes, convention in zip(panels, CONVENTIONS, strict=True):
            part = list(frame.filter(pl.col("convention") == convention).iter_rows(named=True))
            for at, row in enumerate(part):
                colour = _COLOURS[{"base": 0, "control": 1}.get(row["role"], 2)]
                axes.plot([row["low"], row["high"]], [at, at], color=colour, lw=1.6)
                axes.plot(row["value"], at, marker="o", ms=4, color=colour)
            axes.axvline(0, color="0.4", lw=0.8)
            axes.set_yticks(range(len(part)))
            axes.set_yticklabels([f"{r['setting']}: {variant(r['variant']).label} − {against_label(r)}" for r in part])
            axes.invert_yaxis()
            axes.set_title(f"seen items {convention}", fontsize=9)
            axes.set_xlabel(f"difference in {'NDCG' if metric == 'ndcg' else 'HR'}@10, 95 % interval")
        panels[1].set_yticklabels([])

    _draw(path, paint, panels=2, height=1.2 + 0.22 * rows)


def curves(series: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], path: Path, *, x: str, y: str) -> None:
    """Draw lines, one panel per key: panel → line → points (x, y)."""

    def paint(panels: Sequence[Axes]) -> None:
        for axes, (title, lines) in zip(panels, series.items(), strict=True):
            for number, (name, points) in enumerate(lines.items()):
                axes.plot(*zip(*points, strict=True), label=name, color=_COLOURS[number % len(_COLOURS)], marker=".")
            axes.set_title(title, fontsize=9)
            axes.set_xlabel(x)
            axes.set_ylabel(y)
            axes.legend(fontsize=7)

    _draw(path, paint, panels=len(series), height=3.4)


def _draw(path: Path, paint: Callable[[Any], None], *, panels: int, height: float) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(4.5 * panels + 1.5, height), layout="constrained")
        paint(list(figure.subplots(1, panels, squeeze=False)[0]))
        # Without the software's version the same runs give the same bytes.
        figure.savefig(path, format="png", dpi=130, metadata={"Software": None})
