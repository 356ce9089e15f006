"""Runs with numbers made up, and a made-up data set with its folders."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from toy_project import Toy

from ranking.experiments.__main__ import main
from ranking.experiments.runs import Run


def made_up(
    ndcg: list[float], *, seed: int = 0, task: str = "sequential", quick: bool = False, level: list[int] | None = None
) -> Run:
    """Return a run whose masked NDCG is `ndcg`, unmasked half of it, and HR whether there is any."""
    values = np.array(ndcg, dtype=np.float32)
    return Run(
        users=np.arange(len(ndcg), dtype=np.uint32),
        level=np.array(level or [1] * len(ndcg), dtype=np.uint8),
        hit_rate={name: (values > 0).astype(np.uint8) for name in ("masked", "unmasked")},
        ndcg={"masked": values, "unmasked": values / 2},
        facts={
            "spec": {
                "dataset": "d",
                "task": task,
                "backbone": "sasrec",
                "source": "",
                "seed": seed,
                "keep_last": None,
                "seed_users": 1.0,
                "quick": quick,
                "overrides": [],
            },
            "hyperparameters": {"options": {}, "fit": {"convention": "masked"}},
            "inputs": {"marts": "made up"},
            "curve": [{"epoch": 1, "loss": 0.5, "seconds": 2.0, "metrics": {"ndcg@10_masked": 0.25}}],
            "best": {"ndcg@10_masked": 0.25},
            "best_epoch": 1,
            "epochs": 3,
            "training_seconds": 6.0,
            "evaluation_seconds": 1.0,
            "machine": "a machine",
        },
    )


FILE = """
[sources.direct]
"rationales.prompt" = "{prompts}/direct.toml"
[collaborative.lightgcn]
fit = { max_epochs = 3, learning_rate = 0.05 }
cut = { fit = { max_epochs = 2 } }
quick = { fit = { max_epochs = 1 } }
search = { "fit.learning_rate" = [0.05, 0.01], "fit.weight_decay" = [0.0, 0.1] }
[paper.collaborative.lightgcn]
reland = [0.0476, 0.0230]
"""


@dataclass(frozen=True)
class World:
    """Where the data set's file, projects and results are."""

    folder: Path
    toy: Toy

    @property
    def projects(self) -> Path:
        return self.folder / "projects"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def run(self, command: str, *options: str) -> int:
        return main([command, "--dataset", str(self.folder / "made-up.toml"), *self._folders(command), *options])

    def raw(self) -> dict[str, int]:
        """Return every finished run and when it was written."""
        return {p.name: p.stat().st_mtime_ns for p in (self.results / "raw").rglob("*.parquet")}

    def text(self, name: str) -> str:
        return (self.results / f"{name}.md").read_text()

    def _folders(self, command: str) -> list[str]:
        results = [] if command == "search" else ["--results", str(self.results)]
        return ["--projects", str(self.projects), *results]


def linked(prepared: World, folder: Path) -> World:
    """Return a world of the same projects, by a link, with its own results."""
    (folder / "projects").mkdir()
    (folder / "projects" / "made-up").symlink_to(prepared.projects / "made-up")
    shutil.copy(prepared.folder / "made-up.toml", folder)
    return World(folder, prepared.toy)
