"""The pool of another day: what a ranker is worth with rationales that it was not trained with."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from ranking.experiments import figures, tables
from ranking.experiments.inputs import rationales_of, seed_rows
from ranking.experiments.options import add_cut, add_names
from ranking.experiments.planner import check_comparable
from ranking.experiments.runner import Runner
from ranking.experiments.runs import Plan, Run, RunSpec
from ranking.experiments.study import Study, without_users
from ranking.experiments.table2 import READING
from ranking.experiments.tables import Group
from ranking.experiments.variants import variant, variants_of, with_controls
from reland_features.errors import ConfigError

SUMMARY = "The pool of another day: a ranker trained with one pool, measured with another, not trained again"
NEXT = (
    "*Next pool*: the same weights, with the rationales that users have in the project of another source (`--next`), "
    "its controls made of that pool. A user who is a seed of either pool is not measured. *Same text* is the share of "
    "measured users whose rationale is the same in both, *cosine* the mean over them between the two embeddings."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this experiment's options."""
    parser.add_argument("--next", required=True, metavar="NAME", help="the source whose project holds the other pool")
    add_names(parser, "--backbones", "sasrec")
    add_names(parser, "--variants", "reland")
    add_cut(parser)


def run(study: Study) -> list[Path]:
    """Measure trained runs with the pool of training and with the next one, and write the table."""
    options = study.options
    wanted = [(b, study.spec(b, name)) for b in options.backbones for name in variants_of(b, _variants(options))]
    plans = [study.runner.planner.plan(spec) for _, spec in wanted]  # is there another pool, before hours of training?
    others = [study.runner.planner.plan(replace(spec, source=options.next)) for _, spec in wanted]
    if same := sorted({p.project.name for p, o in zip(plans, others, strict=True) if p.project == o.project}):
        raise ConfigError("there is one pool, not two", where="--next", got=", ".join(same), hint="another --source")
    check_comparable([*plans, *others])
    seeds = _seeds([*plans, *others])
    groups = study.measure(wanted)
    moved = [
        _with_next_pool(study.runner, group, spec, options.next)
        for group, (_, spec) in zip(groups, wanted, strict=True)
    ]
    every = [
        replace(group, runs=tuple(without_users(run, seeds[spec.task]) for run in group.runs))
        for group, (_, spec) in zip((*groups, *moved), (*wanted, *wanted), strict=True)
    ]
    measured, differences = tables.figures(every), tables.differences(every)
    pairs = [((_moved(b), name), (b, name)) for b in options.backbones for name in options.variants]
    between = tables.differences_between(every, pairs, "pool")
    users = {spec.task: group.runs[0].users for group, (_, spec) in zip(every, wanted, strict=False)}
    return study.publish(
        f"The pool of another day on {study.dataset.name}",
        every,
        [
            ("The next pool minus the pool of training, in NDCG@10", tables.differences_table(between)),
            ("Figures", tables.figures_table(measured)),
            ("Differences in NDCG@10", tables.differences_table(differences)),
            ("The two pools", _compared([spec for _, spec in wanted], study, users)),
            ("How to read this", f"{READING} {NEXT}"),
        ],
        pl.concat([measured, between, differences], how="diagonal"),
        lambda path: figures.forest(pl.concat([between, differences]), path),
    )


def with_other_rationales(runner: Runner, spec: RunSpec, source: str) -> Run:
    """Measure a spec's trained weights with the rationales of another source; what reads no pool is as it was.

    How texts were scaled in training is part of the weights.
    """
    learned = runner.planner.plan(spec)
    facts = runner.run(learned).facts
    plan = runner.planner.plan(replace(spec, source=source))
    backbone = runner.untrained(plan)
    backbone.load_state_dict(runner.trained(spec).state_dict())
    training = {name: facts[name] for name in ("curve", "best", "best_epoch", "epochs", "training_seconds")}
    return runner.measured(plan, backbone, training)


def _variants(options: argparse.Namespace) -> tuple[str, ...]:
    if bad := [name for name in options.variants if not variant(name).reads_pool or variant(name).by_event]:
        raise ConfigError(
            "these variants read no rationales of a pool as it is published",
            where="--variants",
            got=", ".join(bad),
            expected="reland",
        )
    return with_controls(options.variants)


def _with_next_pool(runner: Runner, group: Group, spec: RunSpec, source: str) -> Group:
    if not variant(spec.variant).reads_pool:
        return replace(group, setting=_moved(group.setting))
    runs = tuple(with_other_rationales(runner, replace(spec, seed=run.seed), source) for run in group.runs)
    return replace(group, setting=_moved(group.setting), runs=runs)


def _moved(setting: str) -> str:
    return f"{setting}, next pool"


def _seeds(plans: Sequence[Plan]) -> dict[str, np.ndarray]:
    """Return by task the rows of the users who are seeds of either pool; each task has a split of its own."""
    roots: dict[str, set[Path]] = {}
    for plan in plans:
        roots.setdefault(plan.spec.task, set()).add(plan.project)
    return {task: np.unique(np.concatenate([seed_rows(root) for root in sorted(of)])) for task, of in roots.items()}


def _compared(specs: Sequence[RunSpec], study: Study, users: Mapping[str, np.ndarray]) -> str:
    """Return how alike the two pools are for a task's measured users, for each variant that is no control."""
    rows = []
    for spec in specs:
        if spec.variant not in study.options.variants:
            continue
        both = [replace(spec, source=source) for source in (spec.source, study.options.next)]
        roots = [study.runner.planner.project(each).root for each in both]
        found = [rationales_of(root, each) for root, each in zip(roots, both, strict=True)]
        vectors = []
        for rationales in found:
            assert rationales is not None
            weights = np.where(rationales.rows >= 0, rationales.weights, 0)[users[spec.task]]
            vectors.append(np.einsum("uk,ukd->ud", weights, rationales.embeddings[rationales.rows[users[spec.task]]]))
        norms = np.linalg.norm(vectors[0], axis=1) * np.linalg.norm(vectors[1], axis=1)
        has = norms > 0
        cosine = (vectors[0] * vectors[1]).sum(axis=1)[has] / norms[has]
        seeds = " and ".join(f"{len(seed_rows(root)):,}" for root in roots)
        rows.append(
            [
                spec.backbone,
                variant(spec.variant).label,
                seeds,
                f"{(cosine > 1 - 1e-5).mean():.1%}",
                f"{cosine.mean():.3f}",
            ]
        )
    table = tables.markdown(["", "variant", "seeds", "same text", "cosine"], rows, left=2)
    measured = " and ".join(
        f"{len(of):,} users" + (f" ({task})" if len(users) > 1 else "") for task, of in users.items()
    )
    return f"{measured} are measured.\n\n{table}"
