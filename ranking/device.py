"""Where a model computes: what is trained with goes to where the model's parameters are."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from reland_features.errors import ConfigError

T = TypeVar("T")
CPU = torch.device("cpu")


def chosen_device(name: str) -> torch.device:
    """Return the device called ``cpu``, ``cuda`` or ``cuda:1``; ``auto`` is a GPU where there is one.

    Raises
    ------
    ConfigError
        There is no such device here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    there = ["cpu", *(["cuda"] if count else []), *(f"cuda:{number}" for number in range(count))]
    if name not in there:
        raise ConfigError(
            "there is no such device",
            where="--device",
            got=name,
            expected=", ".join([*there, "auto"]),
            hint="" if count else f"torch {torch.__version__} finds no GPU; pytorch.org names the build for yours",
        )
    return torch.device(name)


def kept_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of a module's state dictionary in the CPU's memory, which further training does not change."""
    return {name: value.detach().to(CPU, copy=True) for name, value in module.state_dict().items()}


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's parameters are; the CPU for one without any."""
    first = next(module.parameters(), None)
    return CPU if first is None else first.device


def on_device(held: T, device: torch.device) -> T:
    """Return tensors, or containers and data classes that hold any, on a device; everything else is left as it is."""
    moved: Any = held
    if isinstance(held, torch.Tensor):
        moved = held.to(device)
    elif isinstance(held, tuple):
        parts = [on_device(part, device) for part in held]
        moved = type(held)(*parts) if hasattr(held, "_fields") else tuple(parts)
    elif isinstance(held, list):
        moved = [on_device(part, device) for part in held]
    elif isinstance(held, dict):
        moved = {key: on_device(part, device) for key, part in held.items()}
    elif dataclasses.is_dataclass(held) and not isinstance(held, type):
        values = {each.name: getattr(held, each.name) for each in dataclasses.fields(held)}
        there = {name: on_device(value, device) for name, value in values.items()}
        changed = {name: value for name, value in there.items() if value is not values[name]}
        moved = dataclasses.replace(held, **changed) if changed else held
    return moved  # type: ignore[no-any-return]


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw torch's random numbers from a seed, on the CPU and on a device, and leave the generators as they were."""
    others = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=others, device_type=device.type):
        torch.manual_seed(seed)
        yield


def generator_state(device: torch.device) -> torch.Tensor | None:
    """Return the state of a device's random numbers; None for the CPU, whose generator is torch's own."""
    if device.type == "cpu":
        return None
    state: torch.Tensor = torch.get_device_module(device).get_rng_state(device)
    return state


def set_generator_state(state: torch.Tensor | None, device: torch.device) -> None:
    """Go on with what `generator_state` returned."""
    if state is not None and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state, device)
