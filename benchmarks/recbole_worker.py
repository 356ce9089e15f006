"""Train and evaluate one model in RecBole and say what it took. Runs inside RecBole's own environment.

Reads one JSON request from stdin and prints one JSON line a measurement. Timed are RecBole's own
`Trainer._train_epoch` and `Trainer.evaluate`; reading files, remapping ids and the augmentation of sequences,
which RecBole does once beforehand, are not.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

# The paper's section 4.1; every other setting is RecBole's default.
PAPER = {"embedding_size": 64, "train_batch_size": 1024, "metrics": ["Hit", "NDCG"], "topk": [10]}
SEQUENTIAL = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "MAX_ITEM_LIST_LENGTH": 50,
    "loss_type": "CE",
    "train_neg_sample_args": None,
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
}
COLLABORATIVE = {
    "load_col": {"inter": ["user_id", "item_id"]},
    "benchmark_filename": ["train", "valid", "test"],
    "eval_args": {"order": "RO", "group_by": "user", "mode": "full"},
}


def measure(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what the data are, then the epochs, then the full ranking of the validation part."""
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    torch.set_num_threads(request["threads"])
    task = request["task"]
    config = Config(
        model=request["model"],
        dataset=task,
        config_dict={
            **PAPER,
            **(SEQUENTIAL if task == "sequential" else COLLABORATIVE),
            "data_path": request["folder"],
            "eval_batch_size": request["eval_batch"],
            "seed": request["seed"],
            "use_gpu": False,
            "valid_metric": "NDCG@10",
            "metric_decimal_place": 6,
        },
    )
    dataset = create_dataset(config)
    training, validation, _ = data_preparation(config, dataset)
    yield {"what": "data", "training": _digest(training.dataset), "validation": _digest(validation.dataset)}

    def new_trainer() -> Any:
        init_seed(config["seed"], config["reproducibility"])
        model = get_model(config["model"])(config, training.dataset).to(config["device"])
        return get_trainer(config["MODEL_TYPE"], config["model"])(config, model)

    with _first(training, 1):  # what torch does once in a process is nobody's epoch
        new_trainer()._train_epoch(training, 0)
    trainer = new_trainer()
    part = _part(training, request["fraction_of_epoch"])
    with _first(training, part["steps"]):
        for epoch in range(request["epochs"]):
            loss, seconds = _timed(trainer._train_epoch, training, epoch)
            yield {"what": "epoch", **seconds, **part, "loss": loss}
    part = _part(validation, request["fraction_of_users"])
    with _first(validation, part["steps"]):
        metrics, seconds = _timed(trainer.evaluate, validation, load_best_model=False)
    yield {"what": "evaluate", **seconds, **part, "ndcg@10": metrics["ndcg@10"], "hit@10": metrics["hit@10"]}


def pairs_digest(users: np.ndarray, items: np.ndarray) -> str:
    """Return a hash of (user row, item row) pairs, whatever their order."""
    order = np.lexsort((items, users))
    pairs = np.stack([users[order], items[order]]).astype("<i8")
    return hashlib.blake2b(pairs.tobytes(), digest_size=8).hexdigest()


def _digest(dataset: Any) -> str:
    # The tokens are the row numbers that `benchmarks.recbole_data` wrote.
    users, items = (
        dataset.field2id_token[field][dataset.inter_feat[field].numpy()].astype(np.int64)
        for field in (dataset.uid_field, dataset.iid_field)
    )
    return pairs_digest(users, items)


def _timed(call: Any, *arguments: Any, **options: Any) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    value = call(*arguments, **options)
    return value, {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def _part(loader: Any, fraction: float) -> dict[str, int]:
    """Return how many batches are timed, and of how many."""
    return {"steps": max(1, round(fraction * len(loader))), "of_steps": len(loader)}


@contextlib.contextmanager
def _first(loader: Any, steps: int) -> Iterator[None]:
    """Make a loader stop after `steps` batches; RecBole asks which of its classes it is, so a wrapper would not do."""
    kind = type(loader)

    class First(kind):  # type: ignore[misc, valid-type]
        def __iter__(self) -> Iterator[Any]:
            return itertools.islice(super().__iter__(), steps)

    loader.__class__ = First
    try:
        yield
    finally:
        loader.__class__ = kind


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what RecBole prints is no measurement
    for measurement in measure(json.load(sys.stdin)):
        print(json.dumps(measurement), file=answers, flush=True)


if __name__ == "__main__":
    main()
