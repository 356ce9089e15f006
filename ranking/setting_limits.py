"""Check the numbers of training settings and of models' options before anything is trained with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from reland_features.errors import ConfigError


def check_limits(
    values: Mapping[str, Any],
    where: str,
    *,
    above_zero: Sequence[str] = (),
    not_negative: Sequence[str] = (),
    shares: Sequence[str] = (),
    counts: Sequence[str] = (),
) -> None:
    """Check numbers among some settings.

    Parameters
    ----------
    values : mapping of str
        Settings by name; others than those named below are not looked at.
    where : str
        What the settings are called, for the message.
    above_zero, not_negative, shares, counts : sequence of str
        Names of those that must be finite and above 0, finite and at least 0, at least 0 and below 1, and whole and at
        least 1.

    Raises
    ------
    ConfigError
        Some are not; the message names them all.
    """
    kinds: tuple[tuple[Sequence[str], str, Callable[[Any], bool]], ...] = (
        (above_zero, "a number above 0", lambda value: math.isfinite(value) and value > 0),
        (not_negative, "0 or a number above", lambda value: math.isfinite(value) and value >= 0),
        (shares, "a number from 0, below 1", lambda value: 0 <= value < 1),
        (counts, "a whole number from 1", lambda value: isinstance(value, Integral) and int(value) >= 1),
    )
    wrong = {
        name: limit
        for names, limit, holds in kinds
        for name in names
        if isinstance(value := values[name], bool) or not (isinstance(value, Real) and holds(value))
    }
    if wrong:
        raise ConfigError(
            "settings have values that no training can be done with",
            where=", ".join(f"{where}.{name}" for name in wrong),
            got=", ".join(f"{name} = {values[name]!r}" for name in wrong),
            expected=", ".join(f"{name}: {limit}" for name, limit in wrong.items()),
        )
