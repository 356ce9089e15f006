"""A figure's machine line tells what changes its seconds."""

from __future__ import annotations

from ranking.experiments.machine import machine


def test_the_machine_names_preloaded_libraries_without_their_folders(monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    plain = machine()
    monkeypatch.setenv("LD_PRELOAD", "/opt/private/libjemalloc.so.2:/usr/lib/other.so")

    assert machine() == f"{plain}, with libjemalloc.so.2, other.so preloaded"
