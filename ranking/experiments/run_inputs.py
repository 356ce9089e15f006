"""What a run takes from a project, by ids: when it is planned, and whether it is still so when it is trained."""

from __future__ import annotations

from ranking.experiments.inputs import open_project, text_encoder_of
from ranking.experiments.runs import Plan, RunSpec
from ranking.experiments.variants import variant
from ranking.project import RankingProject
from reland_features.errors import ConfigError


def inputs_of(spec: RunSpec, project: RankingProject) -> dict[str, str]:
    """Return the `inputs` of a spec's plan, see `Plan`.

    Raises
    ------
    ArtifactError
        The folder of the published feature run is gone.
    """
    chosen = variant(spec.variant)
    inputs = {"marts": project.marts.name}
    if chosen.reads_pool:
        inputs["features_run"] = project.features_run
    elif chosen.item_text:
        inputs["text_encoder"] = text_encoder_of(project)
    if spec.keep_last is not None:
        inputs["masked"] = "whole histories"  # runs from before it was so, only what the cut left, keep other ids
    return inputs


def check_inputs(plan: Plan) -> None:
    """Look whether a plan's project still publishes what the plan was made with, and this process reads that.

    A plan waits for the runs before it, perhaps for hours, and a process of its own opens the project anew: without a
    look the results of other features would be kept under the plan's id.

    Raises
    ------
    ConfigError
        The project has published other features since.
    """
    for project in (RankingProject.open(plan.project), open_project(plan.project)):
        found = inputs_of(plan.spec, project)
        changed = sorted(key for key in found.keys() | plan.inputs if found.get(key) != plan.inputs.get(key))
        if changed:
            raise ConfigError(
                "the project has published other features since this command began",
                where=str(plan.project),
                got=", ".join(f"{key} {found.get(key)}" for key in changed),
                expected=", ".join(f"{key} {plan.inputs.get(key)}" for key in changed),
                hint="run the command again: what is finished is kept, and the rest is planned with the new features",
            )
