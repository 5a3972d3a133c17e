"""The order of examples: batches of example ids.

:func:`epoch_batches` is the order of every mode, worker count and restart: from (lengths, seed,
epoch) alone, nothing measured enters. :func:`windowed_batches` is for an epoch that reads a set
larger than memory; which of the two an epoch takes is recorded before it starts.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "INFERENCE_TOKENS",
    "Batching",
    "epoch_batches",
    "group_lengths",
    "inference_batches",
    "of_groups",
    "windowed_batches",
]

Batching = Literal["grouped", "random"]

_WINDOW_BATCHES = 50
INFERENCE_TOKENS = 4096
"""Of a batch without gradients, at most."""


def epoch_batches(
    lengths: npt.NDArray[np.int64],
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    batching: Batching,
) -> list[npt.NDArray[np.int64]]:
    """Batches of one epoch; each example id occurs once.

    ``random``: a shuffle, cut. ``grouped``: the shuffle is cut into windows of 50 batches, each
    window is sorted by length and cut into batches, and all batches are shuffled: about as
    little padding as a full sort, and still every example meets other ones in every epoch.

    Args:
        lengths: [n] tokens of each example.
        batch_size: examples per batch; the odd rest makes one smaller batch.
        seed: of the training.
        epoch: counted from 1.
        batching: see above.

    Returns:
        List of [b] example ids.
    """
    rng = np.random.default_rng((seed, epoch))
    ids = rng.permutation(len(lengths))
    return _batched(ids, lengths, batch_size, batching, rng)


def windowed_batches(
    lengths: npt.NDArray[np.int64],
    shards: npt.NDArray[np.int64],
    *,
    window_shards: int,
    batch_size: int,
    seed: int,
    epoch: int,
    batching: Batching,
) -> list[npt.NDArray[np.int64]]:
    """Batches of one epoch over a set of which memory holds a window at a time.

    Shards are shuffled and cut into windows; the examples of a window are shuffled and batched as
    :func:`epoch_batches` does it. What is left of a window, less than a batch, begins the first
    batch of the next, so there are as many batches as without windows.

    Args:
        lengths: [n] tokens of each example.
        shards: [n] the shard of each example.
        window_shards: shards in a window.
        batch_size: examples per batch.
        seed: of the training.
        epoch: counted from 1.
        batching: see :func:`epoch_batches`.

    Returns:
        List of [b] example ids; those of a window stand together.
    """
    rng = np.random.default_rng((seed, epoch))
    batches: list[npt.NDArray[np.int64]] = []
    left = np.empty(0, dtype=np.int64)
    windows = _cut(rng.permutation(int(shards.max()) + 1), window_shards)
    for number, window in enumerate(windows, start=1):
        ids = np.concatenate([left, rng.permutation(np.flatnonzero(np.isin(shards, window)))])
        whole = len(ids) if number == len(windows) else len(ids) // batch_size * batch_size
        first = ids[: min(whole, batch_size)] if len(left) else ids[:0]
        if len(first):
            batches.append(first)
        batches += _batched(ids[len(first) : whole], lengths, batch_size, batching, rng)
        left = ids[whole:]
    return batches


def _batched(
    ids: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    batch_size: int,
    batching: Batching,
    rng: np.random.Generator,
) -> list[npt.NDArray[np.int64]]:
    """Batches of shuffled ids."""
    if batching == "random":
        return _cut(ids, batch_size)
    batches = []
    for window in _cut(ids, batch_size * _WINDOW_BATCHES):
        batches += _cut(window[np.argsort(lengths[window], kind="stable")], batch_size)
    return [batches[i] for i in rng.permutation(len(batches))]


def inference_batches(
    lengths: npt.NDArray[np.int64], *, max_tokens: int = INFERENCE_TOKENS
) -> list[npt.NDArray[np.int64]]:
    """Batches for a pass without gradients: sorted by length, longest first.

    Args:
        lengths: [n] tokens of each example.
        max_tokens: bound on examples times longest example of a batch (one example may exceed it).
    """
    ids = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(ids):
        size = max(1, max_tokens // int(lengths[ids[start]]))
        batches.append(ids[start : start + size])
        start += size
    return batches


def of_groups(groups: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """[b * size] ids of the examples of some groups, which lie side by side."""
    return (groups[:, None] * size + np.arange(size)).reshape(-1)


def group_lengths(lengths: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """[n / size], the longest example of each group."""
    longest: npt.NDArray[np.int64] = lengths.reshape(-1, size).max(1)
    return longest


def _cut(ids: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]
