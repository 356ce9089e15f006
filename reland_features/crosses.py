"""Cross a user's features with an item's: the arithmetic behind the on-demand views.

Feast stores a transformation as source text and runs it in whatever process serves it, so the text
stays three lines long and calls these functions, the same ones offline and online.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Vectors = Sequence[object]
"""One vector per row, as Feast hands it over: an array, a list, or None where there is none."""


def has_vector(vectors: Vectors) -> np.ndarray:
    """Return 1 where a row holds a vector and 0 where it is null or empty, int64 [n]."""
    return np.fromiter((_length(vector) > 0 for vector in vectors), dtype=np.int64, count=len(vectors))


def cosine(left: Vectors, right: Vectors) -> np.ndarray:
    """Return the cosine of two vectors row by row.

    Parameters
    ----------
    left, right : sequence of n vectors or None
        All vectors that are there have the same length.

    Returns
    -------
    numpy.ndarray
        float32 [n] in [-1, 1]. It is 0 where either vector is null or zero, so that a user without a
        rationale is neither near to nor far from any item; `has_vector` tells the two cases apart.

    Raises
    ------
    ValueError
        Vectors of different lengths: the two sides were made by different text encoders.
    """
    if len(left) != len(right):
        raise ValueError(f"cosine takes as many left as right vectors, got {len(left)} and {len(right)}")
    out = np.zeros(len(left), dtype=np.float32)
    rows = np.flatnonzero(has_vector(left) & has_vector(right))
    if not len(rows):
        return out
    a, b = _matrix(left, rows), _matrix(right, rows)
    if a.shape != b.shape:
        raise ValueError(
            f"vectors of {a.shape[1]} and of {b.shape[1]} numbers cannot be compared: "
            "rationales and items were embedded by different text encoders"
        )
    dot = np.einsum("nd,nd->n", a, b)
    norm = np.sqrt(np.einsum("nd,nd->n", a, a) * np.einsum("nd,nd->n", b, b))
    out[rows] = np.clip(np.divide(dot, norm, out=np.zeros_like(dot), where=norm > 0), -1, 1)
    return out


def category_affinity(names: Vectors, shares: Vectors, categories: Vectors) -> np.ndarray:
    """Return which share of each user's history lies in the item's categories.

    Parameters
    ----------
    names, shares : sequence of n lists or None
        `category_names` and `category_shares` of the user, of equal lengths; the shares of one user sum
        to at most 1.
    categories : sequence of n lists or None
        Categories of the item.

    Returns
    -------
    numpy.ndarray
        float32 [n] in [0, 1]; 0 for an unknown user or item.
    """
    out = np.zeros(len(names), dtype=np.float32)
    for row, (owned, weights, wanted) in enumerate(zip(names, shares, categories, strict=True)):
        if _length(owned) and _length(wanted):
            out[row] = _shared(owned, weights, wanted)
    return out


def _shared(owned: Any, weights: Any, wanted: Any) -> float:
    share = dict(zip(owned, weights, strict=True))
    return sum(float(share.get(name, 0.0)) for name in sorted(set(wanted)))


def _length(value: object) -> int:
    return len(value) if isinstance(value, list | tuple | np.ndarray) else 0


def _matrix(vectors: Vectors, rows: np.ndarray) -> np.ndarray:
    picked = [np.asarray(vectors[row], dtype=np.float32) for row in rows]
    lengths = {len(vector) for vector in picked}
    if len(lengths) > 1:
        raise ValueError(f"one column holds vectors of different lengths: {sorted(lengths)}")
    return np.stack(picked)
