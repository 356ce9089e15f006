"""Draw the report's figures as inline SVG that follows the page's colours and fonts.

Matplotlib draws with placeholder colours; they are replaced by CSS variables, so that one figure is
legible on light and dark pages and in print. Same facts, same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from reland_features.report.facts import Coverage, Projection
from reland_features.report.ranking_view import Difference, RankingView, label, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID, PAPER, ACCENT, SECOND = (f"#0{n}0{n}0{n}" for n in range(1, 7))
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "rule", PAPER: "paper", ACCENT: "accent", SECOND: "soft"}
# Mid tones, readable on white and on near-black; ten, because more cannot be told apart anyway.
_CLUSTERS = (
    "#5b86b5", "#d98b43", "#5fa35a", "#b07aa1", "#c2a03a", "#4aa39f", "#c25f5f", "#8d7cc0", "#9c7a62", "#85909a",
)  # fmt: skip
# Marker, size and colour by how a seed was drawn.
_SEEDS = (("representative", "o", 5.0, INK), ("important", "D", 4.6, ACCENT), ("random", "s", 4.6, INK))
_WIDTH = 9.0


@dataclass(frozen=True)
class Drawing:
    """A figure: its SVG, what it shows for those who cannot see it, and what to conclude from it."""

    svg: str
    alt: str
    caption: str


def seed_map(projection: Projection) -> Drawing:
    """Draw users coloured by cluster and, on top, the seeds by how they were drawn."""

    def paint(axes: Axes) -> None:
        for cluster in np.unique(projection.clusters):
            chosen = projection.points[projection.clusters == cluster]
            colour = _CLUSTERS[int(cluster) % len(_CLUSTERS)]
            axes.plot(*chosen.T, ls="", marker="o", ms=2.6, mew=0, color=colour, alpha=0.5)
        drawn_by = np.asarray(projection.drawn_by, dtype=object)
        for kind, marker, size, fill in _SEEDS:
            chosen = projection.seeds[drawn_by == kind]
            if not len(chosen):
                continue
            name = f"{kind} seed ({len(chosen):,})"
            axes.plot(*chosen.T, ls="", marker=marker, ms=size, mew=0.7, mec=PAPER, color=fill, label=name)
        axes.set_xlabel(f"first principal component ({projection.explained[0]:.0%} of variance)")
        axes.set_ylabel(f"second principal component ({projection.explained[1]:.0%})")
        axes.grid(visible=False)
        _legend(axes)

    clusters, reached = np.unique(projection.clusters), np.unique(projection.seed_clusters)
    shown = len(projection.points)
    sample = f"a sample of {shown:,} of {projection.users:,} users" if shown < projection.users else f"{shown:,} users"
    hit = int(np.isin(clusters, reached).sum())
    caption = (
        f"{hit:,} of {len(clusters):,} clusters contain a seed"
        + (
            ", so every kind of behaviour that K-means found is represented."
            if hit == len(clusters)
            else "; users of the others inherit from a neighbouring cluster."
        )
        + f" Each small dot is a user ({sample}), coloured by K-means cluster"
        + (" (colours repeat)" if len(clusters) > len(_CLUSTERS) else "")
        + f". The two axes keep {sum(projection.explained):.0%} of the variance, so nearness here is only a hint."
    )
    alt = f"Scatter plot of behaviour vectors of {sample} with {len(projection.seeds):,} seed users on top."
    return Drawing(_svg(paint, "seeds", 4.6, alt), alt, caption)


def similarity_histogram(similarities: np.ndarray) -> Drawing:
    """Draw how close users are to the seed whose rationale they inherit."""
    values = np.asarray(similarities, dtype=np.float64)
    median, weak = (float(v) for v in np.quantile(values, [0.5, 0.1]))
    low = min(float(np.floor(values.min() * 20) / 20), 0.95)

    def paint(axes: Axes) -> None:
        bins = np.linspace(low, 1.0, 41).tolist()
        axes.hist(np.clip(values, low, 1.0), bins=bins, histtype="stepfilled", color=ACCENT, alpha=0.85)
        top = axes.get_ylim()[1]
        axes.set_ylim(0, top * 1.2)
        for value, name, drop in ((weak, "weakest tenth", 15), (median, "median", 2)):
            axes.axvline(value, color=INK, lw=1.0, ls=(0, (4, 3)))
            left = value < low + 0.3 * (1.0 - low)  # no room on the left: write on the right
            axes.annotate(
                f"{name} {value:.2f}", (value, top * 1.2), xytext=(5 if left else -5, -drop), va="top",
                textcoords="offset points", ha="left" if left else "right", color=INK, fontsize=9,
            )  # fmt: skip
        axes.set_xlim(low, 1.0)
        axes.set_xlabel("cosine similarity to the matched seed")
        axes.set_ylabel("users")
        _counts(axes.yaxis)

    caption = (
        f"Half of the {len(values):,} matched users are at {median:.2f} or closer to their seed; the weakest tenth is "
        f"below {weak:.2f}. The further left, the more a rationale is borrowed from somebody else's taste."
    )
    alt = f"Histogram of match similarity, median {median:.2f}, tenth percentile {weak:.2f}."
    return Drawing(_svg(paint, "similarity", 2.9, alt), alt, caption)


def coverage_bars(coverage: list[Coverage]) -> Drawing:
    """Draw users with and without a match by activity level."""
    matched = np.array([c.matched for c in coverage])
    users = np.array([c.users for c in coverage])

    def paint(axes: Axes) -> None:
        rows = np.arange(len(coverage))
        axes.barh(rows, matched, color=ACCENT, alpha=0.85, height=0.62, label="with a rationale")
        axes.barh(rows, users - matched, left=matched, color=SECOND, height=0.62, label="without")
        for row, (with_match, total) in enumerate(zip(matched, users, strict=True)):
            share = f"{percent(int(with_match), int(total))} of {total:,}" if total else "no users"
            axes.annotate(
                share, (total, row), xytext=(6, 0), textcoords="offset points", va="center", color=INK, fontsize=9
            )
        axes.set_yticks(rows, [c.level for c in coverage])
        axes.invert_yaxis()
        axes.set_xlim(0, max(int(users.max()), 1) * 1.25)
        axes.set_xlabel("users")
        axes.grid(visible=False)
        _counts(axes.xaxis)
        _legend(axes)

    missing = int(users.sum() - matched.sum())
    caption = "Every user has a match." if not missing else (
        f"{missing:,} of {users.sum():,} users have no match and get none invented: their features are null and "
        "the ranker falls back to its masked default."
    )  # fmt: skip
    alt = "; ".join(f"{c.level}: {c.matched:,} of {c.users:,} users with a match" for c in coverage)
    return Drawing(_svg(paint, "coverage", 1.15 + 0.36 * len(coverage), alt), alt, caption)


def difference_plot(view: RankingView) -> Drawing | None:
    """Draw the paired differences between rankers with their intervals; None where there are none."""
    if view.headline is None:
        return None
    metric = view.headline.metric
    shown = [d for d in view.differences if d.metric == metric]
    several = len({d.ranker for d in shown}) > 1

    def named(d: Difference) -> str:
        return f"{d.ranker} against {d.against}" if several else f"against {d.against}"

    def paint(axes: Axes) -> None:
        for row, d in enumerate(shown):
            colour = INK if d.level == "all" else MUTED
            axes.plot([d.low, d.high], [row, row], color=colour, lw=1.6, solid_capstyle="butt")
            axes.plot([d.value], [row], ls="", marker="o", ms=5.5, mew=0, color=colour)
        axes.axvline(0, color=ACCENT, lw=1.0)
        names = [f"{named(d)}, {'all users' if d.level == 'all' else d.level}" for d in shown]
        axes.set_yticks(range(len(shown)), names)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel(f"difference in {label(metric)}, 95 % interval")
        axes.grid(visible=False, axis="y")

    clear = sum(d.is_clear for d in shown)
    caption = (
        f"{clear} of {len(shown)} intervals leave zero (the vertical line) out; where one includes it, the data cannot "
        "tell a gain from chance. L1 users have the fewest interactions, L4 the most."
        if any(d.level != "all" for d in shown)
        else f"{clear} of {len(shown)} intervals leave zero (the vertical line) out."
    )
    alt = "; ".join(f"{named(d)}, {d.level}: {signed(d.value)}" for d in shown)
    return Drawing(_svg(paint, "ranking", 0.95 + 0.27 * len(shown), alt), alt, caption)


def percent(part: int, whole: int) -> str:
    """Format a share without rounding up to 100 % or down to 0 %."""
    share = part / whole
    return f"{min(max(share, 0.001), 0.999):.1%}" if 0 < part < whole else f"{share:.0%}"


def _counts(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, labelcolor=INK, fontsize=9,
        borderaxespad=0.2, handletextpad=0.5, columnspacing=1.6,
    )  # fmt: skip


def _svg(paint: Callable[[Axes], None], name: str, height: float, alt: str) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[str, Any] = {
        "svg.hashsalt": name, "svg.fonttype": "none", "text.parse_math": False, "font.size": 9.5,
        "font.family": ["DejaVu Sans"], "text.color": INK, "axes.labelcolor": MUTED, "xtick.color": GRID,
        "ytick.color": GRID, "xtick.labelcolor": MUTED, "ytick.labelcolor": INK, "axes.edgecolor": GRID,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.spines.top": False,
        "axes.spines.right": False, "axes.spines.left": False, "ytick.major.size": 0, "axes.facecolor": "none",
        "figure.facecolor": "none",
    }  # fmt: skip
    # rcdefaults first: a reader's own matplotlibrc must not change the report.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inline(stream.getvalue(), name, alt)


def _inline(svg: str, name: str, alt: str) -> str:
    """Make a stand-alone SVG part of a page: no prologue, own ids, page colours, fewer bytes."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    view_box = re.search(r'viewBox="([^"]+)"', svg)
    assert view_box is not None  # matplotlib always writes one
    root = f'<svg class="drawing" role="img" aria-label="{escape(alt)}" viewBox="{view_box[1]}">'
    svg = re.sub(r"^<svg[^>]*>", lambda _: root, svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg).replace("url(#", f"url(#{name}-")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    # A thousand markers repeat one style: say it once, on their group.
    svg = re.sub(r"<g( clip-path=\"[^\"]*\")?>\s*((?:<use [^>]*/>\s*)+)</g>", _hoist, svg)
    # Coordinates, never texts: a hundredth of a point is enough.
    return re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), svg)


def _hoist(match: re.Match[str]) -> str:
    styles = set(re.findall(r' style="([^"]*)"', match[2]))
    if len(styles) != 1:
        return match[0]
    uses = re.sub(r' style="[^"]*"', "", match[2])
    return f'<g{match[1] or ""} style="{styles.pop()}">{uses}</g>'
