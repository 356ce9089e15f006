"""Train and evaluate one of our backbones and say what it took: the other side of `benchmarks.recbole_worker`.

Reads one JSON request from stdin and prints one JSON line a measurement.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ranking.backbones import build
from ranking.backbones.base import Backbone
from ranking.fitting import FitSettings, evaluate, train_epoch
from ranking.memory import reuse_freed_memory
from ranking.project import RankingProject
from ranking.splits import Split

CONVENTION = {"sequential": "unmasked", "collaborative": "masked"}  # RecBole's, see ranking.full_ranking


def measure(request: dict[str, Any], split: Split) -> Iterator[dict[str, Any]]:
    """Yield the epochs, then the full ranking of the validation part."""
    reuse_freed_memory()  # as `ranking.fitting.fit` does
    backbone, optimizer, generator = _start(request, split)
    backbone.loss(next(iter(backbone.batches(generator)))).backward()
    optimizer.step()  # what torch does once in a process is nobody's epoch
    backbone, optimizer, generator = _start(request, split)
    for _ in range(request["epochs"]):
        wall, cpu = time.perf_counter(), time.process_time()
        loss = train_epoch(backbone, optimizer, generator)
        yield {"what": "epoch", **_since(wall, cpu), "loss": loss}
    wall, cpu = time.perf_counter(), time.process_time()
    means = evaluate(backbone, "validation").means()
    seconds = _since(wall, cpu)
    convention = CONVENTION[request["task"]]
    metrics = {name: means[f"{ours}_{convention}"] for name, ours in (("ndcg@10", "ndcg@10"), ("hit@10", "hr@10"))}
    yield {"what": "evaluate", **seconds, **metrics}


def _start(request: dict[str, Any], split: Split) -> tuple[Backbone, torch.optim.Optimizer, np.random.Generator]:
    seed = request["seed"]
    settings = FitSettings(**request["fit"])
    backbone = build(request["model"], split, request["options"], seed=seed)
    optimizer = torch.optim.Adam(
        backbone.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    torch.manual_seed(seed)
    return backbone, optimizer, np.random.default_rng(seed)


def _since(wall: float, cpu: float) -> dict[str, float]:
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def main() -> None:
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    split = Split.of(RankingProject.open(Path(request["project"])))
    for measurement in measure(request, split):
        print(json.dumps(measurement), flush=True)


if __name__ == "__main__":
    main()
