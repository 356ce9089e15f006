"""Any engine on many workers, through Ray Data: batches go out together, and each comes back when it is done.

What an answer is does not change: the same engine gets the same batches, and the ledger key is the inner engine's.
A run that is killed has recorded every batch that came back; the next one, distributed or not, asks for the others.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from reland_features.engines.base import Completion, Engine, Request, most_tokens
from reland_features.errors import ConfigError, RelandError
from reland_features.skeleton import Options

_STORE_BYTES = 256 * 1024**2  # of a Ray of our own: prompts and answers are small
_RESTARTS = 3  # of a worker that died, for example without memory


class RayEngine:
    """Spread batches over workers that hold an engine each.

    Every round of requests is one Ray dataset of a row per batch, mapped by a pool of actors. Workers start with
    it and load the model once per round.

    Parameters
    ----------
    make : callable
        Makes the inner engine, here (to count tokens and to name it) and on every worker; it must be picklable.
    workers : int
        Engines at work at a time.
    address : str
        ``local`` starts a Ray on this machine, of this process alone; ``auto`` or ``host:port`` joins a cluster.
        There the package, the model's weights and the API key must be on every machine.
    cpus, gpus : float
        What each worker reserves.

    Raises
    ------
    ConfigError
        Ray is not installed.
    """

    def __init__(
        self, make: Callable[[], Engine], *, workers: int, address: str = "local", cpus: float = 1, gpus: float = 0
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(
                "Ray is not installed",
                where="rationales.ray",
                hint="pip install 'reland-features[ray]', or remove the table",
            )
        self._make, self._inner = make, make()
        self._workers, self._address, self._cpus, self._gpus = workers, address, cpus, gpus
        self._is_ours = False
        self.engine_id = self._inner.engine_id
        self.source = self._inner.source
        self.batch_size = self._inner.batch_size
        self.parameters = self._inner.parameters
        self.constrained = getattr(self._inner, "constrained", True)
        self.sends_schema = getattr(self._inner, "sends_schema", False)
        self.is_local = getattr(self._inner, "is_local", False)

    def stream(self, batches: Sequence[Sequence[Request]], options: Options) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (index of the batch, its completions) as workers finish; see `StreamingEngine`.

        Raises
        ------
        RelandError
            What the inner engine raised on a worker.
        """
        if not batches:
            return
        data = self._ray().data
        rows = [{"number": number, "requests": pickle.dumps(list(batch))} for number, batch in enumerate(batches)]
        answers = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Worker,
            fn_constructor_args=(self._make, options),
            batch_size=1,
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(size=min(self._workers, len(rows))),
            num_cpus=self._cpus,
            num_gpus=self._gpus or None,
            max_restarts=_RESTARTS,
            max_task_retries=_RESTARTS,
        )
        # Without prefetching a finished batch does not wait here for the next one.
        for table in answers.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            for row in table.to_pylist():
                result = pickle.loads(row["result"])
                if isinstance(result, RelandError):
                    raise result
                yield row["number"], result

    def complete(self, requests: Sequence[Request], options: Options) -> list[Completion]:
        """Answer requests in batches of `batch_size` on the workers, and wait for all; see `Engine.complete`."""
        size = max(1, self.batch_size)
        found = dict(self.stream([requests[n : n + size] for n in range(0, len(requests), size)], options))
        return [completion for number in sorted(found) for completion in found[number]]

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Count with the inner engine, here."""
        return self._inner.count_tokens(requests)

    def most_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Count for a budget with the inner engine; see `engines.base.most_tokens`."""
        return most_tokens(self._inner, requests)

    def close(self) -> None:
        """Shut down the Ray that this engine started, and the inner engine."""
        self._inner.close()
        if self._is_ours:
            importlib.import_module("ray").shutdown()
            self._is_ours = False

    def _ray(self) -> Any:
        """Return the ray module, connected; a connection that was there before is used and left alone."""
        # Read when Ray is imported: nothing is reported to its makers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
        if not ray.is_initialized():
            # One more for Ray Data's own tasks.
            own = {"num_cpus": math.ceil(self._workers * self._cpus) + 1, "object_store_memory": _STORE_BYTES}
            own |= {"num_gpus": math.ceil(self._workers * self._gpus)} if self._gpus else {}
            extra = {**own, "include_dashboard": False} if self._address == "local" else {}
            ray.init(address=self._address, log_to_driver=False, logging_level="WARNING", **extra)
            self._is_ours = True
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        return ray


class _Worker:
    """An engine in a Ray actor."""

    def __init__(self, make: Callable[[], Engine], options: Options) -> None:
        self._make, self._options = make, options

    @cached_property
    def _engine(self) -> Engine:
        return self._make()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer the batches of a block: columns number, requests → number, result."""
        results = [pickle.dumps(self._answer(pickle.loads(requests))) for requests in batch["requests"].to_pylist()]
        return pa.table({"number": batch["number"], "result": pa.array(results, pa.binary())})

    def _answer(self, requests: Sequence[Request]) -> list[Completion] | RelandError:
        try:
            return self._engine.complete(requests, self._options)
        except RelandError as error:
            return error  # as a value: Ray would hide it in an error of its own, and try again
