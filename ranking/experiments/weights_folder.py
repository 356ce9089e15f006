"""Keep the trained weights of runs, and the states of trainings that are under way, beside the projects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ranking.backbones.base import Backbone
from ranking.compact_views import FeaturesError
from ranking.device import kept_weights
from ranking.experiments.runs import Plan
from reland_features.artifacts import whole_file
from reland_features.errors import ArtifactError, RelandError


@dataclass(frozen=True)
class WeightsFolder:
    """One file a run, by its id."""

    path: Path

    def of(self, plan: Plan) -> Path:
        """Return where a run's weights are, or will be."""
        return self.path / f"{plan.id}.pt"

    def state(self, plan: Plan) -> Path:
        """Return where a run keeps the state of its training, for the case that it is killed."""
        return self.of(plan).with_suffix(".training")

    def save(self, backbone: Backbone, plan: Plan) -> None:
        """Keep a run's weights, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        with whole_file(self.of(plan)) as temporary:
            torch.save(kept_weights(backbone), temporary)

    def fill(self, backbone: Backbone, plan: Plan) -> None:
        """Load a run's weights into its backbone.

        Raises
        ------
        ArtifactError
            They are of another version of the backbone.
        """
        path = self.of(plan)
        try:
            backbone.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (FeaturesError, RuntimeError) as error:  # kept by an older version
            raise ArtifactError(
                "the kept weights do not fit the backbone",
                where=str(path),
                got=error.got if isinstance(error, RelandError) else error,
                hint="delete the file: the run is then repeated",
            ) from error
