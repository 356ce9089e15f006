"""Turn runs into long frames of figures and differences, and these into markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from ranking.experiments.dataset import Dataset
from ranking.experiments.runs import CONVENTIONS, Run
from ranking.experiments.statistics import compare
from ranking.experiments.variants import variant
from reland_features.errors import ArtifactError

METRICS = ("hr", "ndcg")
_DIFFERENCES = {
    **{name: pl.String() for name in ("setting", "variant", "against", "role", "metric", "convention")},
    **{name: pl.Float64() for name in ("value", "low", "high", "relative", "p_ttest", "p_wilcoxon", "p_seeds")},
    "seeds": pl.Int64(),
}
_LABELS = {"hr": "HR@10", "ndcg": "NDCG@10"}
_PAPER_CONVENTION = {"sequential": "unmasked", "collaborative": "masked"}


@dataclass(frozen=True)
class Group:
    """The runs of one variant in one setting, which differ by random seed only.

    Parameters
    ----------
    setting : str
        What is held equal between variants that are compared: the backbone, perhaps the users.
    variant : str
        One of `variants.VARIANTS`.
    runs : sequence of Run
        At least one.
    """

    setting: str
    variant: str
    runs: Sequence[Run]

    def values(self, metric: str, convention: str, seeds: Iterable[int] | None = None) -> np.ndarray:
        """Return a metric of each run and user, float64 [runs, users], in the order of `seeds`."""
        by_seed = {run.seed: run.values(metric, convention) for run in self.runs}
        return np.stack([by_seed[seed] for seed in (by_seed if seeds is None else seeds)])


def figures(groups: Sequence[Group], dataset: Dataset | None = None) -> pl.DataFrame:
    """Return mean and standard deviation over seeds of each group: one row per metric and convention.

    Parameters
    ----------
    dataset : Dataset, optional
        Gives the paper's figures, which stand beside those of the convention they were measured with.
    """
    rows = []
    for group in groups:
        spec = group.runs[0].facts["spec"]
        reference = dataset.reference(spec["task"], spec["backbone"], group.variant) if dataset else None
        for metric in METRICS:
            for convention in CONVENTIONS:
                per_seed = group.values(metric, convention).mean(axis=1)
                theirs = reference if convention == _PAPER_CONVENTION[spec["task"]] else None
                rows.append(
                    {
                        "setting": group.setting,
                        "variant": group.variant,
                        "metric": metric,
                        "convention": convention,
                        "mean": float(per_seed.mean()),
                        "sd": float(per_seed.std(ddof=1)) if len(per_seed) > 1 else None,
                        "seeds": len(per_seed),
                        "users": len(group.runs[0].users),
                        "paper": theirs[METRICS.index(metric)] if theirs else None,
                        "epochs": float(np.mean([run.facts["epochs"] for run in group.runs])),
                        "seconds": float(np.mean([run.facts["training_seconds"] for run in group.runs])),
                        "quick": bool(spec["quick"]),
                        "without_seeds": "left_out" in group.runs[0].facts,
                        "spec": json.dumps({key: value for key, value in spec.items() if key != "seed"}),
                    }
                )
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col("sd", "paper").cast(pl.Float64))


def differences(groups: Sequence[Group]) -> pl.DataFrame:
    """Return every variant against its base and its controls, within each setting, over shared seeds.

    A row's `role` says whether the other variant is the ``base`` or a ``control``.

    Raises
    ------
    ArtifactError
        Two runs that are to be compared measured other users.
    """
    found = {(group.setting, group.variant): group for group in groups}
    rows = []
    for group in groups:
        chosen = variant(group.variant)
        others = [("base", chosen.base), *(("control", name) for name in chosen.controls)]
        for role, name in others:
            other = found.get((group.setting, name)) if name else None
            seeds = sorted({run.seed for run in group.runs} & {run.seed for run in other.runs}) if other else []
            if not other or not seeds:
                continue
            _check_same_users(group, other)
            for metric in METRICS:
                for convention in CONVENTIONS:
                    result = compare(group.values(metric, convention, seeds), other.values(metric, convention, seeds))
                    rows.append(
                        {
                            "setting": group.setting,
                            "variant": group.variant,
                            "against": name,
                            "role": role,
                            "metric": metric,
                            "convention": convention,
                            **asdict(result),
                        }
                    )
    return pl.DataFrame(rows, schema=_DIFFERENCES)


def figures_table(frame: pl.DataFrame) -> str:
    """Lay `figures` out: one line per setting and variant, the two conventions in columns of their own."""
    header = ["", "variant", *(f"{_LABELS[m]} {c}" for c in CONVENTIONS for m in METRICS)]
    header += ["paper's HR@10 / NDCG@10", "seeds", "epochs", "CPU seconds"]
    lines = []
    for (setting, name), rows in frame.group_by("setting", "variant", maintain_order=True):
        cell = {(row["metric"], row["convention"]): row for row in rows.iter_rows(named=True)}
        paper = [row["paper"] for row in cell.values() if row["paper"] is not None]
        convention = next((key[1] for key, row in cell.items() if row["paper"] is not None), "")
        any_row = next(iter(cell.values()))
        lines.append(
            [
                str(setting),
                variant(str(name)).label,
                *(_mean(cell[m, c]) for c in CONVENTIONS for m in METRICS),
                f"{paper[0]:.4f} / {paper[1]:.4f} ({convention})" if paper else "–",
                str(any_row["seeds"]),
                f"{any_row['epochs']:.0f}",
                f"{any_row['seconds']:,.0f}",
            ]
        )
    return markdown(header, lines, left=2)


def differences_table(frame: pl.DataFrame, metric: str = "ndcg") -> str:
    """Lay `differences` out for one metric, with a verdict for each variant that has controls."""
    header = ["", "variant", "against", "convention", f"difference in {_LABELS[metric]} [95 %]", "relative"]
    header += ["p (t, users)", "p (Wilcoxon, users)", "p (t, seeds)", "gain?"]
    lines = []
    chosen = frame.filter(pl.col("metric") == metric)
    won = verdicts(chosen)
    for row in chosen.sort("convention", maintain_order=True).iter_rows(named=True):
        verdict = won.get((row["setting"], row["variant"], row["convention"]), "") if row["role"] == "base" else ""
        lines.append(
            [
                row["setting"],
                variant(row["variant"]).label,
                variant(row["against"]).label,
                row["convention"],
                f"{row['value']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]",
                f"{row['relative']:+.1%}" if row["relative"] is not None and np.isfinite(row["relative"]) else "–",
                *(p_value(row[name]) for name in ("p_ttest", "p_wilcoxon", "p_seeds")),
                verdict,
            ]
        )
    return markdown(header, lines, left=4)


def verdicts(frame: pl.DataFrame) -> Mapping[tuple[str, str, str], str]:
    """Return "gain" or "no" for every (setting, variant, convention) of one metric.

    A gain needs an interval above 0 against the base and against every control of the variant; a variant
    whose controls were not all run has the verdict "controls missing".
    """
    found = {}
    for (setting, name, convention), rows in frame.group_by("setting", "variant", "convention", maintain_order=True):
        chosen = variant(str(name))
        needed = {each for each in (chosen.base, *chosen.controls) if each}
        if not chosen.reads_rationales or not chosen.controls:
            continue
        if needed - set(rows["against"]):
            verdict = "controls missing"
        else:
            verdict = "gain" if (rows["low"] > 0).all() else "no"
            if verdict == "gain" and (rows["seeds"] < 2).any():
                verdict = "gain (one seed)"
        found[str(setting), str(name), str(convention)] = verdict
    return found


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a markdown table; the first `left` columns are aligned left, the others right."""
    rule = ["---" if column < left else "---:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *rows))


def _check_same_users(first: Group, second: Group) -> None:
    """Raise `ArtifactError` where a row of one run is another user than the same row of another run."""
    users, *others = [run.users for group in (first, second) for run in group.runs]
    other = next((other for other in others if not np.array_equal(users, other)), None)
    if other is not None:
        raise ArtifactError(
            "runs of other users cannot be compared user by user",
            where=f"{first.setting}: {first.variant} against {second.variant}",
            got=f"{len(users):,} and {len(other):,} users, {len(np.intersect1d(users, other)):,} of them the same",
            expected="the same users in every run",
            hint="delete those of these runs that were made on other data, and run the command again",
        )


def _mean(row: Mapping[str, float | None]) -> str:
    return f"{row['mean']:.4f}" + (f" ± {row['sd']:.4f}" if row["sd"] is not None else "")


def p_value(value: float | None) -> str:
    """Show a p: three digits, and a dash where no test was made."""
    if value is None or np.isnan(value):
        return "–"
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
