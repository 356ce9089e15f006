"""Adapters that `reland tune` made: kept as artifacts of the project, named in `rationales.adapter`."""

from __future__ import annotations

from reland_features.artifacts import ArtifactStore
from reland_features.config import Rationales
from reland_features.errors import ConfigError

ADAPTER = "adapter"
"""Kind of artifact: what peft saves, and a manifest with what it was made from."""


def with_adapter(settings: Rationales, artifacts: ArtifactStore) -> Rationales:
    """Return the settings of the engine, with the adapter's folder as an option where an adapter is named.

    Raises
    ------
    ConfigError
        The engine takes no adapter, the project has none of this id, or it belongs to another model.
    """
    if settings.adapter is None:
        return settings
    if settings.engine != "hf":
        raise ConfigError(
            "only the engine hf takes an adapter",
            where="rationales.adapter",
            got=f"engine = {settings.engine!r}",
            hint='engine = "hf", or merge the adapter into the weights that your server loads',
        )
    found = artifacts.find(ADAPTER, settings.adapter)
    if found is None:
        known = [artifact.id for artifact in artifacts.all(ADAPTER)]
        raise ConfigError(
            "the project has no such adapter",
            where="rationales.adapter",
            got=settings.adapter,
            expected=f"one of {', '.join(known)}" if known else "an adapter of this project",
            hint="reland tune",
        )
    if found.manifest["config"]["model"] != settings.model:
        raise ConfigError(
            "the adapter was made for another model",
            where="rationales.adapter",
            got=f"model = {settings.model!r}",
            expected=f"model = {found.manifest['config']['model']!r}",
            hint="name that model, or reland tune",
        )
    return settings.model_copy(update={"options": {**settings.options, "adapter": str(found.path)}})
