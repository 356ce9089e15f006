"""Write the HTML report of a run: one file, no script, nothing fetched from anywhere."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from reland_features.artifacts import write_atomically
from reland_features.report.facts import (
    Coverage,
    Example,
    LlmUsage,
    Predicted,
    Projection,
    ReportFacts,
    StageTiming,
    TableCount,
)
from reland_features.report.ranking_view import label, ranking_view, signed

__all__ = [
    "Coverage",
    "Example",
    "LlmUsage",
    "Predicted",
    "Projection",
    "ReportFacts",
    "StageTiming",
    "TableCount",
    "render",
    "write_report",
]


def write_report(path: Path, facts: ReportFacts) -> None:
    """Write the report; the folder must exist. Same facts, same bytes."""
    # Character references instead of letters beyond ASCII: legible whatever the locale writes files in.
    write_atomically(path, render(facts).encode("ascii", "xmlcharrefreplace").decode("ascii"))


def render(facts: ReportFacts) -> str:
    """Return the report as HTML; everything that comes from data is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from reland_features.report import figures

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "count": lambda value: f"{value:,}",
        "amount": lambda value: f"{value:,.0f}" if value == int(value) else f"{value:,.4g}",
        "svg": Markup,  # only figures, whose texts matplotlib has escaped
        "seconds": _seconds,
        "percent": lambda part, whole: figures.percent(part, whole) if whole else "none",
        "label": label,
        "signed": signed,
    }
    similarities = np.asarray(facts.similarities, dtype=np.float64)
    similarities = similarities[np.isfinite(similarities)]
    view = ranking_view(facts.ranking) if facts.ranking is not None else None
    drawings: dict[str, Any] = {
        "seeds": figures.seed_map(facts.projection) if facts.projection is not None else None,
        "similarity": figures.similarity_histogram(similarities) if len(similarities) else None,
        "coverage": figures.coverage_bars(list(facts.coverage)) if facts.coverage else None,
        "ranking": figures.difference_plot(view) if view else None,
    }
    template = resources.files("reland_features.report").joinpath("template.html.j2").read_text(encoding="utf-8")
    html = environment.from_string(template).render(
        facts=facts,
        usage=facts.usage,
        view=view,
        drawings=drawings,
        slowest=max([stage.seconds for stage in facts.stages if not stage.cached], default=0.0),
        total_seconds=sum(stage.seconds for stage in facts.stages if not stage.cached),
    )
    return html.rstrip("\n") + "\n"


def _seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
