"""Read profiles back out of the users mart, where they are one text: `name: value; name: value`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl


def profile_columns(profile: pl.Series, names: Sequence[str]) -> pl.DataFrame:
    """Split profile texts into their columns.

    Parameters
    ----------
    profile : polars.Series
        `profile` of the users mart [U]; null is no profile.
    names : sequence of str
        `data.columns.users.profile`, in the order in which dbt joined them.

    Returns
    -------
    polars.DataFrame
        A string column per name [U]; null where the user has no value. A value that holds ``; name: `` of a later
        column is cut there.
    """
    columns = {}
    for place, name in enumerate(names):
        later = "|".join(re.escape(other) for other in names[place + 1 :])
        end = rf"(?:; (?:{later}): |$)" if later else "$"
        columns[name] = profile.str.extract(rf"(?s)(?:^|; ){re.escape(name)}: (.*?){end}", 1)
    return pl.DataFrame(columns)
