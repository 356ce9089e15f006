"""Deal users the rationales of others: who gives to whom in the shuffled control of clicks."""

from __future__ import annotations

import numpy as np


def givers(owner: np.ndarray, time: np.ndarray, seed: int) -> np.ndarray:
    """Return whose rationales each user is dealt, int64 [users]: a permutation that leaves nobody their own.

    Users of the same times are dealt among themselves; one who is alone with theirs joins the next in order.

    Parameters
    ----------
    owner, time : numpy.ndarray
        int64 [rows], the user of each row, numbered from 0 without a gap, and its time.
    seed : int
        Of the draw.

    Returns
    -------
    numpy.ndarray
        int64 [users], the giver of each user.
    """
    users = int(owner.max()) + 1
    order = np.lexsort((time, owner))
    starts = np.flatnonzero(np.diff(owner[order], prepend=-1))
    times = [tuple(part.tolist()) for part in np.split(time[order], starts[1:])]
    alike: dict[tuple[int, ...], list[int]] = {}
    for user in sorted(range(users), key=times.__getitem__):
        alike.setdefault(times[user], []).append(user)
    block, number, size = np.empty(users, dtype=np.int64), 0, 0
    for members in alike.values():
        block[members], size = number, size + len(members)
        if size > 1:
            number, size = number + 1, 0
    if size:
        block[block == number] = max(number - 1, 0)
    drawn = np.random.default_rng([seed, 7]).permutation(users)
    place, dealt = (of[np.argsort(block[of], kind="stable")] for of in (np.arange(users), drawn))
    for own in np.flatnonzero(place == dealt):
        if place[own] == dealt[own]:  # a swap before may have changed that
            after = own + 1 < users and block[place[own + 1]] == block[place[own]]
            other = own + 1 if after else own - 1
            dealt[[own, other]] = dealt[[other, own]]
    giver = np.empty(users, dtype=np.int64)
    giver[place] = dealt
    return giver
