"""Answer prompts of simulated viewers with the engine `hf` and say what it took: one side of `benchmarks.llm`.

Reads one JSON request from stdin and prints one JSON line, with the prompts as tokens and the lengths of the answers.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import polars as pl
import torch

from reland_features.config import Rationales
from reland_features.demo.catalogue import films
from reland_features.demo.simulator import simulate
from reland_features.engines.hf import HFEngine
from reland_features.project import models_cache
from reland_features.prompts import PromptTemplate
from reland_features.seed_requests import Plan, plan_requests
from reland_features.seed_tables import SeedTables


def make_plan(engine: Any, users: int, seed: int = 0) -> Plan:
    """Plan the requests of as many simulated viewers of the built-in films, as `reland generate` would."""
    world = simulate(users, seed)
    histories = world.interactions.group_by("user_id", maintain_order=True).agg(item_ids=pl.col("item_id").cast(str))
    seeds = histories.select("user_id")
    tables = SeedTables(seeds, histories, films(), seen=histories)
    return plan_requests(tables, PromptTemplate.load("movies"), engine, Rationales())


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Answer all users in batches, as `generate` does."""
    engine = HFEngine(
        request["model"], cache=models_cache(), batch_size=request["batch_size"], threads=request["threads"]
    )
    plan = make_plan(engine, request["users"])
    requests = [ask.request for ask in plan.roots]
    engine.complete(requests[:1], plan.options)  # loads the weights and builds the tries: nobody's answer
    wall, cpu = time.perf_counter(), time.process_time()
    completions = [
        completion
        for start in range(0, len(requests), engine.batch_size)
        for completion in engine.complete(requests[start : start + engine.batch_size], plan.options)
    ]
    seconds = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    if problems := [completion.error for completion in completions if completion.error]:
        raise RuntimeError(f"{len(problems)} of {len(requests)} answers failed: {problems[0]}")
    return {
        **seconds,
        "engine_id": engine.engine_id,
        "prompts": engine.encode(requests),
        "lengths": [completion.completion_tokens for completion in completions],
        **_device(engine),
    }


def _device(engine: HFEngine) -> dict[str, Any]:
    """Return the GPU's name, the bytes a second it copies and the bytes of the weights; nothing on a CPU."""
    if not torch.cuda.is_available():
        return {}
    weights = list(engine.load().parameters())
    block = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(block)
    other.copy_(block)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(20):
        other.copy_(block)
    torch.cuda.synchronize()
    moved = 20 * 2 * block.numel()  # each byte is read and written
    return {
        "gpu": torch.cuda.get_device_name(),
        "bytes_per_s": moved / (time.perf_counter() - began),
        "weight_bytes": sum(weight.numel() * weight.element_size() for weight in weights),
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.load(sys.stdin))))
