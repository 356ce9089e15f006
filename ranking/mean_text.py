"""A vector of taste that no LLM wrote: the mean of the item texts of a user's history."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from ranking.rationales import Rationales
from ranking.splits import Split


def mean_vectors(users: np.ndarray, items: np.ndarray, n_users: int, item_text: np.ndarray) -> np.ndarray:
    """Return each user's mean item text at unit length, float32 [U, D]; zeros where there is none.

    Parameters
    ----------
    users, items : numpy.ndarray
        int64 [N], rows of a user and an item for each interaction.
    item_text : numpy.ndarray
        float32 [I, D]; items without a text, rows of zeros, do not count.
    """
    taken = csr_array((np.ones(len(items), dtype=np.float32), (users, items)), shape=(n_users, len(item_text)))
    sums = taken @ item_text
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.where(length > 0, length, 1), dtype=np.float32)


def mean_texts(split: Split, item_text: np.ndarray, *, without_last: int = 0) -> Rationales:
    """Give each user the mean of the item texts of its training part.

    Parameters
    ----------
    item_text : numpy.ndarray
        float32 [I, D].
    without_last : int
        Leave each user's last so many training interactions out. Who has no others has no text.
    """
    users, items = split.training_pairs()
    counted = np.arange(len(users)) - np.searchsorted(users, users) < (split.training - without_last)[users]
    means = mean_vectors(users[counted], items[counted], split.n_users, item_text)
    return Rationales.of_users(means, np.asarray(means.any(axis=1)))


def mean_texts_at_events(split: Split, item_text: np.ndarray) -> Rationales:
    """Give each user, just after each interaction, the mean of the item texts so far, at unit length.

    Parameters
    ----------
    item_text : numpy.ndarray
        float32 [I, D]; items without a text, rows of zeros, do not count.

    Returns
    -------
    Rationales
        `rows` is int64 [N, 1], one per interaction of ``split.items``, as of `ranking.point_in_time`; -1 where no item
        so far has a text.
    """
    means = item_text[split.items].astype(np.float32)
    for start, stop in zip(split.offsets[:-1], split.offsets[1:], strict=True):
        np.cumsum(means[start:stop], axis=0, out=means[start:stop])
    length = np.linalg.norm(means, axis=1, keepdims=True)
    means /= np.where(length > 0, length, 1)
    return Rationales.of_users(means, length[:, 0] > 0)
