"""The cheapest path through a machine of states, for many independent sequences ("lanes") at once (Viterbi, 1967).

A state has two ways on and two ways in, so each step keeps, for every state, the cheaper of two paths into it; reading
the choices backwards from the cheapest last state gives the path. Steps run one after the other, lanes side by side.
Numpy, as a step is a few operations on a few hundred numbers: 6 us, against 14 in torch (10 lanes, 8 states, one core).
"""

from collections.abc import Sequence

import numpy as np

# (state before, label) of the two ways into each state: [2][states]
Arrivals = Sequence[Sequence[tuple[int, int]]]


def cheapest_path(
    costs: np.ndarray,  # [steps, labels, lanes]: what a transition of each label costs at each step
    arrivals: Arrivals,
) -> np.ndarray:  # [steps, lanes]
    """The labels of each lane's cheapest path from state 0 to any state; ties go to the first way in."""
    before, labels = np.moveaxis(np.array(arrivals), -1, 0).reshape(2, -1)  # [2 * states] each
    num_states = len(before) // 2
    branches = costs[:, labels]
    second = np.empty((len(costs), num_states, costs.shape[2]), bool)
    total = np.full(second.shape[1:], np.inf, costs.dtype)
    total[0] = 0
    for branch, choice in zip(branches, second, strict=True):
        ways = total.take(before, axis=0)
        ways += branch
        np.less(ways[num_states:], ways[:num_states], out=choice)
        np.minimum(ways[num_states:], ways[:num_states], out=total)
    taken = second * np.uint8(num_states) + np.arange(num_states, dtype=np.uint8)[:, None]
    return labels[_backwards(total.argmin(axis=0), taken, before)]


def _backwards(
    state: np.ndarray,  # [lanes], the last one
    taken: np.ndarray,  # [steps, states, lanes]: the number of the better way into each state
    before: np.ndarray,  # [2 * states]: where each way comes from
) -> np.ndarray:  # [steps, lanes]
    """The numbers of the ways along the path that ends in `state`."""
    path, lanes = np.empty((len(taken), len(state)), np.uint8), np.arange(len(state))
    for step in range(len(taken) - 1, -1, -1):
        path[step] = taken[step, state, lanes]
        state = before[path[step]]
    return path
