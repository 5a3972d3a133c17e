"""The order of examples: batches of example ids from (lengths, seed, epoch) alone.

One order for every mode, worker count and restart; nothing measured enters.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["epoch_batches", "inference_batches"]

_WINDOW_BATCHES = 50


def epoch_batches(
    lengths: npt.NDArray[np.int64],
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    batching: Literal["grouped", "random"],
) -> list[npt.NDArray[np.int64]]:
    """Batches of one epoch; each example id occurs once.

    ``random``: a shuffle, cut. ``grouped``: the shuffle is cut into windows of 50 batches, each
    window is sorted by length and cut into batches, and all batches are shuffled: about as
    little padding as a full sort, and still every example meets other ones in every epoch.

    Args:
        lengths: [n] tokens of each example.
        batch_size: examples per batch; the odd rest makes one smaller batch.
        seed: of the training.
        epoch: counted from 0.
        batching: see above.

    Returns:
        List of [b] example ids.
    """
    rng = np.random.default_rng((seed, epoch))
    ids = rng.permutation(len(lengths))
    if batching == "random":
        return _cut(ids, batch_size)
    batches = []
    for window in _cut(ids, batch_size * _WINDOW_BATCHES):
        batches += _cut(window[np.argsort(lengths[window], kind="stable")], batch_size)
    return [batches[i] for i in rng.permutation(len(batches))]


def inference_batches(
    lengths: npt.NDArray[np.int64], *, max_tokens: int
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


def _cut(ids: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]
