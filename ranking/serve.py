"""Score candidates online: ``python -m ranking.serve --project D --model xgboost --port 8000``.

Features come from `get_online_features` (see `ranking.served` for what no view holds). A user that the
online store does not know gets the mask, so the answer is that of a ranker without rationales.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from ranking.project import RankingProject
from ranking.served import OnlineFeatures, ServedRanker, ServedTabular
from ranking.train import MODELS
from reland_features.errors import FeatureStoreError, RelandError
from reland_features.process import leave

MAX_CANDIDATES = 10_000
_LOG = logging.getLogger(__name__)
_NOBODY = "-"


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


def create_app(project: Path | str, model: str = "xgboost") -> FastAPI:
    """Make the app of a project folder that has a trained ranker and an online store.

    Raises
    ------
    ArtifactError
        No such ranker is trained, or it was trained on other features than are published.
    FeatureStoreError
        Nothing is published, there is no Feast repository, or its online store cannot be read.
    """
    found = RankingProject.open(Path(project))
    ranker, online = open_ranker(found, model), OnlineFeatures.of(found)
    # What a request reads is read once now: a store without tables, or none, stops the start and not the first user.
    ranker.score(_NOBODY, [_NOBODY])
    online.explain(_NOBODY)
    facts = ranker.facts
    as_of = found.as_of.isoformat()
    published = {"features_run": found.features_run, "pool_version": found.pool_version, "as_of": as_of}  # at the start
    app = FastAPI(title="ranker with recommendation rationales", version=facts["model"])

    @app.exception_handler(FeatureStoreError)
    def unavailable(request: Request, error: FeatureStoreError) -> JSONResponse:
        # The log names hosts and files; whoever asks is told no more than to come again.
        _LOG.error("%s: %s: %s; next: %s", error.what, error.where, " ".join(error.got.split()), error.hint)
        return JSONResponse({"detail": f"{error.what}; try again later"}, status_code=503)

    @app.get("/health")
    def health() -> dict[str, Any]:
        trained_on = {name: facts[name] for name in ("model", "service", "features_run", "pool_version", "as_of")}
        return {"status": "ok", **trained_on, "published": published}

    @app.post("/rank")
    def rank(request: RankRequest) -> RankResponse:
        scored = ranker.score(request.user_id, request.candidates)
        if unknown := scored.unknown:
            counted = f"{len(unknown)} of {len(request.candidates)} candidates"
            raise HTTPException(422, f"{counted} {scored.why}: {unknown[:5]}")
        order = np.argsort(-scored.scores, kind="stable")[: request.top_k]
        why = online.explain(request.user_id)
        if not ranker.reads(why["pool_version"]):  # published since: not what was scored with
            why = dict.fromkeys(why)
        explanation = {name: why[name] for name in Explanation.model_fields}
        return RankResponse(
            user_id=request.user_id,
            items=[ScoredItem(item_id=request.candidates[row], score=float(scored.scores[row])) for row in order],
            is_known_user=scored.is_known_user,
            explanation=None if why["summary"] is None else Explanation(**explanation),
            pool_version=why["pool_version"],
            model=facts["model"],
        )

    return app


def open_ranker(project: RankingProject, model: str) -> ServedRanker:
    """Load a project's current ranker of a kind, one of `ranking.train.MODELS`."""
    if model == "xgboost":
        return ServedTabular.of(project)
    # torch is imported only where it is needed
    if model == "masknet":
        from ranking.served_masknet import ServedMaskNet

        return ServedMaskNet.of(project)
    from ranking.sequential import ServedSASRec

    return ServedSASRec.of(project)


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted."""
    import uvicorn

    parser = argparse.ArgumentParser(prog="python -m ranking.serve", description=__doc__)
    parser.add_argument("--project", type=Path, required=True, help="folder with reland.toml")
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="which trained ranker")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    try:
        app = create_app(options.project, options.model)
    except RelandError as error:
        print(error, file=sys.stderr)
        return 1
    uvicorn.run(app, host=options.host, port=options.port)
    return 0


if __name__ == "__main__":
    leave(main())
