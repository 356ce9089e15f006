"""Print qualities and comparisons as plain tables."""

from __future__ import annotations

import numpy as np

from reland_features.quality import LABELS, Estimate, Measure, Quality
from reland_features.quality.comparison import Comparison


def quality_table(quality: Quality) -> str:
    """Return the measures of one pool, a line each; intervals are 95 %, differences paired."""
    head = ("", "rows", "pool", "", "constant", "shuffled", "pool - constant", "pool - shuffled")
    lines = [
        (
            measure.label,
            f"{measure.rows:,} {measure.unit}",
            value(measure.pool),
            interval(measure.pool),
            value(measure.constant),
            value(measure.shuffled),
            gap(measure.above_constant),
            gap(measure.above_shuffled),
        )
        for measure in quality.measures
    ]
    title = f"pool {quality.pool_version}: {quality.seeds:,} rationales; intervals of 95 % by bootstrap"
    note = f"\nnot compared with the users' future: {quality.without_future}" if quality.without_future else ""
    return f"{title}\n\n{_aligned([head, *lines])}{note}"


def comparison_table(comparison: Comparison, limit: int) -> str:
    """Return what changed between two pools, at most `limit` rationales, and their measures side by side."""
    a, b = comparison.a, comparison.b
    kinds = [change.kind for change in comparison.changes]
    counts = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in ("added", "removed", "blocked", "changed"))
    lines = [f"{a.pool_version} -> {b.pool_version}: {counts}, {comparison.unchanged:,} the same", ""]
    for change in comparison.changes[:limit]:
        note = f" ({change.note})" if change.note else ""
        lines += [f"{change.kind} {change.seed_user_id}{note}"]
        lines += [f"  {sign} {text}" for sign, text in (("-", change.before), ("+", change.after)) if text]
    if len(comparison.changes) > limit:
        lines.append(f"... {len(comparison.changes) - limit:,} more: --limit N")
    values = [{measure.name: measure.pool for measure in quality.measures} for quality in (a, b)]
    rows = [
        (LABELS[name], value(values[0].get(name)), value(values[1].get(name)), gap(found), f"{count:,}")
        for name, (count, found) in sorted(comparison.differences.items(), key=lambda pair: list(LABELS).index(pair[0]))
    ]
    head = ("", a.pool_version, b.pool_version, "B - A on common rows", "rows")
    return "\n".join([*lines, "", _aligned([head, *rows])])


def report_row(measure: Measure) -> tuple[str, ...]:
    """Return one line of the report's table: measure, rows, pool, constant, shuffled and the two differences."""
    pool = value(measure.pool) + (f" [{interval(measure.pool)}]" if interval(measure.pool) else "")
    return (
        measure.label,
        f"{measure.rows:,} {measure.unit}",
        pool,
        *(value(baseline) for baseline in (measure.constant, measure.shuffled)),
        *(gap(difference) for difference in (measure.above_constant, measure.above_shuffled)),
    )


def value(estimate: Estimate | None) -> str:
    """Return a figure, or a dash where there is none."""
    return "-" if estimate is None or not np.isfinite(estimate.value) else f"{estimate.value:.4f}"


def interval(estimate: Estimate | None) -> str:
    """Return an interval, or nothing where there is none."""
    return "" if estimate is None or not np.isfinite(estimate.low) else f"{estimate.low:.4f} to {estimate.high:.4f}"


def gap(estimate: Estimate | None) -> str:
    """Return a difference with its interval."""
    if estimate is None or not np.isfinite(estimate.value):
        return "-"
    known = np.isfinite(estimate.low)
    return f"{estimate.value:+.4f}" + (f" ({estimate.low:+.4f} to {estimate.high:+.4f})" if known else "")


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )
