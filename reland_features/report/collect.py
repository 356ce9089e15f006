"""Collect what the report shows from the artifacts of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from reland_features.curation import mark
from reland_features.evaluation import read_metrics
from reland_features.explain import read_explanations
from reland_features.finished_pool import FinishedPool
from reland_features.project import Project
from reland_features.prompts import PromptTemplate
from reland_features.quality import assess, measure
from reland_features.quality.tables import report_row
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
from reland_features.stages import Outcome, package_version, read_vectors

EXAMPLES = 10


def collect(project: Project, outcomes: Mapping[str, Outcome]) -> ReportFacts:
    """Read the facts of a run: manifests for counts and versions, tables for pictures and examples."""
    prepared, generated, pool = (outcomes[name].artifact for name in ("prepare", "generate", "pool"))
    matches = pl.read_parquet(outcomes["match"].artifact.table("matches")).filter(pl.col("rank") == 1)
    metrics = read_metrics(outcomes["evaluate"])
    absent = metrics.get("not_measured")
    finished = FinishedPool(pool, prepared, generated, outcomes["match"].artifact)
    return ReportFacts(
        project=project.config.name,
        as_of=outcomes["publish"].as_of,
        versions={
            "reland-features": package_version(),
            "behaviour encoder": outcomes["encode"].artifact.manifest["encoder_id"],
            "LLM": generated.manifest["engine_id"],
            "LLM weights from": generated.manifest["engine_source"],
            "prompt": generated.manifest["prompt_id"],
            "text encoder": pool.manifest["text_encoder_id"],
            "text encoder from": pool.manifest["text_encoder_source"],
            "reasoning pool": pool.manifest["pool_version"],
            "published run": outcomes["publish"].artifact.id,
        },
        tables=[
            TableCount("interactions", outcomes["prepare"].rows_in, outcomes["prepare"].rows_out),
            *(
                TableCount(name, rows, rows)
                for name, rows in prepared.manifest["rows"].items()
                if name in ("items", "users")
            ),
        ],
        stages=[
            StageTiming(name, o.rows_in, o.rows_out, o.seconds, o.cached)
            for name, o in outcomes.items()
            if name != "report"
        ],
        usage=_usage(project, outcomes),
        similarities=matches["similarity"].drop_nulls().to_numpy(),
        coverage=_coverage(outcomes, matches),
        examples=_examples(project, outcomes, matches),
        projection=_projection(outcomes),
        ranking=None if absent else metrics,
        ranking_absent=absent or "",
        quality=_quality(project, finished),
        decisions=_decisions(finished),
        warnings=(*prepared.manifest["warnings"], *_rationale_warnings(project, generated.manifest)),
    )


def _quality(project: Project, finished: FinishedPool) -> list[tuple[str, ...]]:
    template = PromptTemplate.of(project.config.rationales, base=project.root)
    measured = measure(finished, finished.written(template), project.config.seed)
    return [report_row(row) for row in assess(measured, project.config.seed).measures]


def _decisions(finished: FinishedPool) -> list[str]:
    """Say which rationales of this pool are blocked or have other words than the LLM's, by whom and why."""
    curation = finished.curation
    return [
        f"Seed {seed}: {mark(decision)}" + (f" ({decision.reason})" if decision.reason else "")
        for found in (curation.blocked, curation.replaced)
        for seed, decision in sorted(found.items())
    ]


def _rationale_warnings(project: Project, generated: Mapping[str, Any]) -> list[str]:
    """Say what is not the LLM's answer to our prompt."""
    warnings = []
    if project.config.rationales.engine == "imported":
        warnings.append(
            f"The rationales were written by another system and imported from {generated['engine_source']}: "
            "what they took, and what of a user's behaviour they have seen, is not known here."
        )
    if step1_only := generated.get("step1_only", 0):
        warnings.append(
            f"{step1_only:,} rationales have Step 1 only: they recommend nothing, and their summary is embedded."
        )
    return warnings


def _usage(project: Project, outcomes: Mapping[str, Outcome]) -> LlmUsage:
    usage: dict[str, Any] = outcomes["generate"].artifact.manifest["usage"]
    settings = project.config.rationales
    status = pl.read_parquet(outcomes["generate"].artifact.table("rationales"), columns=["status"])["status"]
    has_price = bool(settings.prompt_price or settings.completion_price)
    return LlmUsage(
        calls=usage["calls"],
        cached=usage["cached"],
        prompt_tokens=usage["total"]["prompt_tokens"],
        completion_tokens=usage["total"]["completion_tokens"],
        failed=int((status == "failed").sum()),
        invalid=int((status == "invalid").sum()),
        seeds=len(status),
        users=outcomes["match"].rows_in,
        cost=usage["total"]["cost"] if has_price else None,
        predicted=_predicted(outcomes["generate"].artifact.manifest),
    )


def _predicted(manifest: Mapping[str, Any]) -> list[Predicted]:
    """Put the totals of the last dry run beside what was taken; seconds and cost where they were predicted."""
    said = manifest.get("predicted")
    if not said:
        return []
    names = ("calls", "prompt_tokens", "completion_tokens", "cost", "seconds")
    pairs = [(name, said["total"][name], manifest["usage"]["total"][name]) for name in names]
    return [Predicted(name.replace("_", " "), told, took) for name, told, took in pairs if told]


def _coverage(outcomes: Mapping[str, Outcome], matches: pl.DataFrame) -> list[Coverage]:
    users = pl.read_parquet(outcomes["prepare"].artifact.table("users"), columns=["user_id", "activity_level"])
    levels = (
        users.join(matches, on="user_id")
        .group_by(pl.col("activity_level").fill_null("no behaviour").alias("level"))
        .agg(pl.len(), pl.col("seed_user_id").is_not_null().sum().alias("matched"))
        .sort("level")
    )
    return [Coverage(level, users, matched) for level, users, matched in levels.iter_rows()]


def _examples(project: Project, outcomes: Mapping[str, Outcome], matches: pl.DataFrame) -> list[Example]:
    """Explain users spread evenly over the similarities, the nearest first, so that no one picks the nice ones."""
    ranked = matches.filter(pl.col("similarity").is_not_null()).sort("similarity", "user_id", descending=[True, False])
    if not ranked.height:
        return []
    rows = np.unique(np.linspace(0, ranked.height - 1, num=min(EXAMPLES, ranked.height)).round().astype(np.int64))
    published = outcomes["publish"].artifact.id
    explained = read_explanations(
        outcomes["prepare"].artifact.path,
        outcomes["pool"].artifact.path,
        project.features / "user_rationale" / f"{published}.parquet",
        ranked["user_id"].gather(rows).to_list(),
        last=8,
    )
    return [
        Example(
            e.user_id, e.history, e.seed_user_id, e.similarity, e.summary or "", e.categories, e.items, e.curated or ""
        )
        for e in explained
    ]


def _projection(outcomes: Mapping[str, Outcome]) -> Projection | None:
    vectors = read_vectors(outcomes["encode"])
    if vectors.dimension < 2 or len(vectors.user_ids) < 3:
        return None
    row = pl.DataFrame({"user_id": vectors.user_ids}).with_row_index("row")
    clusters = pl.read_parquet(outcomes["sample"].artifact.table("user_clusters"))
    seeds = pl.read_parquet(outcomes["sample"].artifact.table("seed_users")).join(row, on="user_id")
    return Projection.of(
        vectors.vectors,
        row.join(clusters, on="user_id", how="left", maintain_order="left")["cluster_id"].fill_null(-1).to_numpy(),
        seeds["row"].to_numpy(),
        seeds["drawn_by"].to_list(),
    )
