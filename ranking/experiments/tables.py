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
    **{
        name: pl.String()
        for name in ("setting", "variant", "against", "against_setting", "role", "metric", "convention")
    },
    **{name: pl.Float64() for name in ("value", "low", "high", "relative", "p_ttest", "p_wilcoxon", "p_seeds")},
    "seeds": pl.Int64(),
}
Key = tuple[str, str]
"""Setting and variant of a group."""

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
            if name and (other := found.get((group.setting, name))):
                rows += _difference(group, other, role)
    return pl.DataFrame(rows, schema=_DIFFERENCES)


def differences_between(groups: Sequence[Group], pairs: Iterable[tuple[Key, Key]], role: str) -> pl.DataFrame:
    """Return differences that a page claims beside those to base and controls; they decide no verdict.

    Parameters
    ----------
    pairs : iterable of pairs of (setting, variant)
        The first minus the second, which may be of another setting (`against_setting`); a pair of which one was not
        run is left out.
    role : str
        What the second is to the first: ``part`` where it lacks one, ``method`` where it is another, ``pool`` where
        it read another, ``text`` where its texts were dealt out.
    """
    found = {(group.setting, group.variant): group for group in groups}
    rows = []
    for first, second in pairs:
        if first in found and second in found:
            rows += _difference(found[first], found[second], role)
    return pl.DataFrame(rows, schema=_DIFFERENCES)


def _difference(group: Group, other: Group, role: str) -> list[dict[str, object]]:
    """Return a row for every metric and convention, none where the two share no seed."""
    _check_same_users(group, other)
    seeds = sorted({run.seed for run in group.runs} & {run.seed for run in other.runs})
    return [
        {
            "setting": group.setting,
            "variant": group.variant,
            "against": other.variant,
            "against_setting": other.setting if other.setting != group.setting else None,
            "role": role,
            "metric": metric,
            "convention": convention,
            **asdict(compare(group.values(metric, convention, seeds), other.values(metric, convention, seeds))),
        }
        for metric in METRICS
        for convention in CONVENTIONS
        if seeds
    ]


def against_label(row: Mapping[str, str | None]) -> str:
    """Return what a row of `differences` is against, with its setting where that is another."""
    label = variant(str(row["against"])).label
    return f"{row['against_setting']}: {label}" if row["against_setting"] else label


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
    """Lay `differences` out for one metric, with a verdict for each variant that has controls.

    There is no column of verdicts where no row is against a base.
    """
    header = ["", "variant", "against", "convention", f"difference in {_LABELS[metric]} [95 %]", "relative"]
    header += ["p (t, users)", "p (Wilcoxon, users)", "p (t, seeds)"]
    lines = []
    chosen = frame.filter(pl.col("metric") == metric)
    is_judged = "base" in chosen["role"]
    won = verdicts(chosen)
    for row in chosen.sort("convention", maintain_order=True).iter_rows(named=True):
        verdict = won.get((row["setting"], row["variant"], row["convention"]), "") if row["role"] == "base" else ""
        lines.append(
            [
                row["setting"],
                variant(row["variant"]).label,
                against_label(row),
                row["convention"],
                f"{row['value']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]",
                f"{row['relative']:+.1%}" if row["relative"] is not None and np.isfinite(row["relative"]) else "–",
                *(p_value(row[name]) for name in ("p_ttest", "p_wilcoxon", "p_seeds")),
                *([verdict] if is_judged else []),
            ]
        )
    return markdown([*header, *(["gain?"] if is_judged else [])], lines, left=4)


def verdicts(frame: pl.DataFrame) -> Mapping[tuple[str, str, str], str]:
    """Return "gain" or "no" for every (setting, variant, convention) of one metric.

    A gain needs an interval above 0 against the base and against every control of the variant; a variant
    whose controls were not all run has the verdict "controls missing". Rows of another role do not count.
    """
    found = {}
    frame = frame.filter(pl.col("role").is_in(["base", "control"]))
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
