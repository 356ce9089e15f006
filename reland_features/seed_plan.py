"""Plan the number of seed users of a project: the curve, what it costs in tokens, and a recommendation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from reland_features.project import Project
from reland_features.seed_curve import DRAWS, FRACTIONS, Advice, advise, seed_counts, similarity_curve
from reland_features.seed_tokens import SeedTokens, seed_tokens
from reland_features.seeds import seed_budget
from reland_features.stages import Outcome, llm_engine, read_vectors
from reland_features.stages.base import imported_texts

_HEADER = (
    "", "seeds", "of users", "mean ± over draws", "without seeds", "median", "5 %", "covered", "loss", "per 100 seeds",
    "per 1,000 tokens", "tokens",
)  # fmt: skip


@dataclass(frozen=True)
class SeedPlan:
    """The curve of `seed_curve.similarity_curve`, the tokens of a seed (None where texts are imported), the advice."""

    curve: pl.DataFrame
    tokens: SeedTokens | None
    advice: Advice
    configured: int
    n_users: int
    draws: int
    covered_at: float

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return {
            "users": self.n_users,
            "draws": self.draws,
            "covered_at": self.covered_at,
            "configured": self.configured,
            "recommended": asdict(self.advice),
            "tokens_per_seed": asdict(self.tokens) if self.tokens else None,
            "curve": self.curve.to_dicts(),
        }

    def table(self) -> str:
        """Return the curve as a markdown table; the recommended number has an arrow, the configured one a star."""
        lines = [f"| {' | '.join(_HEADER)} |", "| --- |" + " ---: |" * (len(_HEADER) - 1)]
        for row in self.curve.iter_rows(named=True):
            mark = "→" * (row["seeds"] == self.advice.seeds) + "*" * (row["seeds"] == self.configured)
            gain = "" if row["gain_per_100"] is None else f"{row['gain_per_100']:.4f}"
            value = row["gain_per_1000_tokens"]
            tokens = row["tokens"]
            cells = (
                mark, f"{row['seeds']:,}", f"{row['share']:.1%}", f"{row['mean']:.4f} ± {row['mean_spread']:.4f}",
                *(f"{row[name]:.4f}" for name in ("others", "median", "q05")),
                f"{row['coverage']:.1%}", f"{row['loss']:.4f}", gain,
                "" if value is None else f"{value:.6f}", "" if tokens is None else f"{tokens:,.0f}",
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def text(self) -> str:
        """Return what the columns mean, the table and the recommendation."""
        tokens = (
            f"a seed takes {self.tokens.total:,.0f} tokens ({self.tokens.prompt:,.0f} + {self.tokens.completion:,.0f}; "
            f"{self.tokens.source})"
            if self.tokens
            else "the texts are imported: a seed takes no tokens"
        )
        return (
            f"{self.n_users:,} users, cosine to the best seed (Eq. 3), mean of {self.draws} draws; covered: "
            f"{self.covered_at:g} or more; loss: 1 − mean; seeds count as users at cosine 1, in 'without seeds' "
            f"they do not; {tokens}\n\n{self.table()}\n\n"
            f"→ recommended: {self.advice.seeds:,} seeds: {self.advice.reason}\n* configured: {self.configured:,}"
        )


def plan_seeds(
    project: Project,
    outcomes: Mapping[str, Outcome],
    *,
    draws: int = DRAWS,
    covered_at: float = 0.8,
    min_marginal: float | None = None,
) -> SeedPlan:
    """Measure the curve of a project and recommend a number of seeds; no LLM is called.

    Parameters
    ----------
    outcomes : mapping
        Finished `prepare` and `encode` stages.
    draws, covered_at
        As for `similarity_curve`.
    min_marginal : float, optional
        `seeds.min_marginal_similarity` unless given; without both, the knee is recommended.
    """
    settings = project.config.seeds
    vectors = read_vectors(outcomes["encode"])
    n_users = len(vectors.user_ids)
    texts = imported_texts(project)
    configured = seed_budget(settings, n_users)
    drawable = int(vectors.user_ids.is_in(list(texts.usable)).sum()) if texts else n_users
    limit = min(drawable, max(configured, round(FRACTIONS[-1] * n_users)))
    users = pl.read_parquet(outcomes["prepare"].artifact.table("users"), columns=["user_id", "interaction_count"])
    counts = pl.DataFrame({"user_id": vectors.user_ids}).join(users, on="user_id", how="left", maintain_order="left")
    curve = similarity_curve(
        vectors,
        counts["interaction_count"].to_numpy(),
        seed_counts(n_users, limit, configured),
        settings,
        seed=project.config.seed,
        draws=draws,
        covered_at=covered_at,
        among=texts.usable if texts else None,
    )
    tokens = None if texts else _tokens(project, outcomes["prepare"], vectors.user_ids)
    each = tokens.total if tokens else None
    curve = curve.with_columns(
        gain_per_1000_tokens=pl.col("gain_per_100") * 10 / each if each else pl.lit(None, pl.Float64),
        tokens=pl.col("seeds") * each if each else pl.lit(None, pl.Float64),
    )
    advice = advise(curve, settings.min_marginal_similarity if min_marginal is None else min_marginal)
    return SeedPlan(curve, tokens, advice, min(configured, limit), n_users, draws, covered_at)


def _tokens(project: Project, marts: Outcome, users: pl.Series) -> SeedTokens:
    from reland_features.ledger import Ledger
    from reland_features.prompts import PromptTemplate

    settings = project.config.rationales
    engine = llm_engine(project)
    try:
        with Ledger(project.ledger) as ledger:
            return seed_tokens(
                users,
                marts.artifact,
                PromptTemplate.of(settings, base=project.root),
                engine,
                ledger,
                settings,
                seed=project.config.seed,
            )
    finally:
        engine.close()


def draw_curve(plan: SeedPlan, path: Path) -> None:
    """Draw mean, 5 % quantile and coverage against the number of seeds, as PNG."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curve = plan.curve
    seeds, mean, spread = (curve[name].to_numpy() for name in ("seeds", "mean", "mean_spread"))
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(7.0, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.fill_between(seeds, mean - spread, mean + spread, color="#5b86b5", alpha=0.3, lw=0)
        axes.plot(seeds, mean, "o-", ms=4, color="#5b86b5", label="mean cosine to the best seed")
        axes.plot(seeds, curve["q05"].to_numpy(), "s-", ms=3, color="#d98b43", label="5 % quantile")
        covered = f"users at {plan.covered_at:g} or more"
        axes.plot(seeds, curve["coverage"].to_numpy(), "^-", ms=3, color="#5fa35a", label=covered)
        axes.axvline(plan.advice.seeds, color="#404040", lw=1, ls=(0, (4, 3)))
        axes.annotate(
            f"{plan.advice.seeds:,}", (plan.advice.seeds, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -12),
            textcoords="offset points", fontsize=9,
        )  # fmt: skip
        axes.set_xlabel("seed users")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        figure.savefig(path, dpi=130, metadata={"Software": None})
