"""Name the machine and the packages that a run was measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PACKAGES = ("reland-features", "torch", "numpy", "polars", "scipy")


def machine(device: torch.device | None = None) -> str:
    """Return one line: processor, usable cores, memory, system, Python, a GPU if it is used, preloaded libraries."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{_processor()}, {cores} core{'s' * (cores != 1)}, {_memory()}, "
        f"{_system()}, Python {platform.python_version()}{_accelerator(device)}{_preloaded()}"
    )


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide a run's numbers."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _accelerator(device: torch.device | None) -> str:
    if device is None or device.type != "cuda":
        return ""
    import torch

    return f", {torch.cuda.get_device_name(device)}"


def _preloaded() -> str:
    """Name what `LD_PRELOAD` puts in: another allocator or a dispatch of MKL's changes what a second is worth."""
    names = [Path(part).name for part in os.environ.get("LD_PRELOAD", "").replace(":", " ").split()]
    return f", with {', '.join(names)} preloaded" if names else ""


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, AttributeError, OSError):
        return "memory unknown"
    return f"{size / 2**30:.0f} GiB"
