"""Score candidates online: ``python -m ranking.serve --project D --port 8000``.

Features come from `get_online_features` only. A user that the online store does not know gets the
mask's defaults (see `ranking.tabular`), so the answer is that of a ranker without rationales.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from ranking.project import RankingProject
from ranking.tabular import online_frame
from ranking.train import Ranker, load
from reland_features.errors import RelandError
from reland_features.feast import open_store
from reland_features.process import leave

EXPLANATION_SERVICE = "rationale_explanation"
_KNOWN_ITEM = "item_attributes__interaction_count"
_KNOWN_USER = "user_activity__interaction_count"
MAX_CANDIDATES = 10_000


class _Model(BaseModel):
    # Ids are strings everywhere; whoever keeps them as integers may send them so.
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


class RankRequest(_Model):
    """Who asks, and what could be shown."""

    user_id: str = Field(min_length=1)
    candidates: Annotated[list[str], Field(min_length=1, max_length=MAX_CANDIDATES)]
    top_k: int | None = Field(None, ge=1)


class ScoredItem(_Model):
    """One candidate and its score; scores compare only within one answer."""

    item_id: str
    score: float


class Explanation(_Model):
    """The inherited rationale: why, from which seed user, and how similar that user is."""

    summary: str
    seed_user_id: str
    similarity: float


class RankResponse(_Model):
    """Candidates, best first, and where the features came from."""

    user_id: str
    items: list[ScoredItem]
    is_known_user: bool
    explanation: Explanation | None
    pool_version: str | None
    model: str


@dataclass(frozen=True)
class OnlineRanker:
    """A trained ranker over an online store."""

    ranker: Ranker
    store: Any

    def features(self, user_id: str, candidates: list[str]) -> pl.DataFrame:
        """Read the features of a user with each candidate, one row a candidate."""
        return self._read(self.ranker.features.service, [{"user_id": user_id, "item_id": item} for item in candidates])

    def explain(self, user_id: str) -> dict[str, Any]:
        """Read why: summary, seed, similarity and pool version, None where there is no rationale."""
        row = self._read(EXPLANATION_SERVICE, [{"user_id": user_id}]).row(0, named=True)
        return {name.removeprefix("user_rationale__"): value for name, value in row.items()}

    def _read(self, service: str, rows: list[dict[str, str]]) -> pl.DataFrame:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            definition = self.store.get_feature_service(service, allow_cache=True)
            answer = self.store.get_online_features(features=definition, entity_rows=rows, full_feature_names=True)
        return online_frame(answer.to_dict())


def create_app(project: Path | str) -> FastAPI:
    """Make the app of a project folder that has a trained ranker and an online store.

    Raises
    ------
    ArtifactError
        No ranker is trained.
    FeatureStoreError
        Nothing is published, or there is no Feast repository.
    """
    found = RankingProject.open(Path(project))
    online = OnlineRanker(load(found.models), open_store(found.repository))
    facts = online.ranker.facts
    app = FastAPI(title="ranker with recommendation rationales", version=facts["model"])

    @app.get("/health")
    def health() -> dict[str, Any]:
        trained_on = {name: facts[name] for name in ("model", "service", "features_run", "pool_version", "as_of")}
        return {"status": "ok", **trained_on}

    @app.post("/rank")
    def rank(request: RankRequest) -> RankResponse:
        frame = online.features(request.user_id, request.candidates)
        unknown = [item for item, count in zip(request.candidates, frame[_KNOWN_ITEM], strict=True) if count is None]
        if unknown:
            raise HTTPException(
                422, f"{len(unknown)} of {len(request.candidates)} candidates have no features: {unknown[:5]}"
            )
        scores = online.ranker.score(frame)
        order = np.argsort(-scores, kind="stable")[: request.top_k]
        why = online.explain(request.user_id)
        explanation = {name: why[name] for name in Explanation.model_fields}
        return RankResponse(
            user_id=request.user_id,
            items=[ScoredItem(item_id=request.candidates[row], score=float(scores[row])) for row in order],
            is_known_user=frame[_KNOWN_USER][0] is not None,
            explanation=None if why["summary"] is None else Explanation(**explanation),
            pool_version=why["pool_version"],
            model=facts["model"],
        )

    return app


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted."""
    import uvicorn

    parser = argparse.ArgumentParser(prog="python -m ranking.serve", description=__doc__)
    parser.add_argument("--project", type=Path, required=True, help="folder with reland.toml")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    try:
        app = create_app(options.project)
    except RelandError as error:
        print(error, file=sys.stderr)
        return 1
    uvicorn.run(app, host=options.host, port=options.port)
    return 0


if __name__ == "__main__":
    leave(main())
