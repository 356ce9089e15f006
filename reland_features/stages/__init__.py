"""The stages of the main job: each reads finished tables, writes one artifact, and can be re-run alone.

A stage's artifact id hashes the configuration that matters to it and its inputs' ids, so a stage whose
inputs did not change is not computed again.
"""

from reland_features.stages.base import Outcome, Progress, llm_engine, package_version, read_vectors, run_stage
from reland_features.stages.online import serve
from reland_features.stages.reasoning import encode, generate, prepare, sample
from reland_features.stages.refreshing import fitted_pool, transform
from reland_features.stages.serving import build_pool, match, publish

__all__ = [
    "Outcome",
    "Progress",
    "build_pool",
    "encode",
    "fitted_pool",
    "generate",
    "llm_engine",
    "match",
    "package_version",
    "prepare",
    "publish",
    "read_vectors",
    "run_stage",
    "sample",
    "serve",
    "transform",
]
