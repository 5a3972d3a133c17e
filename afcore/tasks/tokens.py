"""What tasks have in common that answer tokens: losses over all of them, however many a row has.

Labels are [b, t] int64 beside [b, t, v] logits, :data:`NO_ANSWER` where nothing is asked.
"""

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn.functional import cross_entropy

from afcore.data.examples import Column
from afcore.tasks.task import NO_ANSWER

__all__ = ["mean_losses", "num_answers", "token_loss", "unigram_entropy"]

_EXAMPLES_AT_ONCE = 10_000


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean log loss over all tokens of a batch, in nats; [m, v] and [m] will do too."""
    return cross_entropy(logits.flatten(end_dim=-2), labels.flatten(), ignore_index=NO_ANSWER)


def mean_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """[b], the mean log loss over each example's own tokens, in nats."""
    each = cross_entropy(logits.transpose(1, 2), labels, ignore_index=NO_ANSWER, reduction="none")
    return each.sum(1) / (labels != NO_ANSWER).sum(1).clamp(min=1)


def num_answers(labels: Column) -> npt.NDArray[np.int64]:
    """[n], tokens that each example is asked for."""
    found = np.empty(len(labels), dtype=np.int64)
    for start in range(0, len(labels), _EXAMPLES_AT_ONCE):
        values, offsets = _part(labels, start)
        before = np.concatenate([[0], np.cumsum(values != NO_ANSWER)])
        found[start : start + len(offsets) - 1] = np.diff(before[offsets])
    return found


def unigram_entropy(labels: Column) -> float:
    """Of the shares of the tokens that are asked for, in nats: the loss of knowing these alone."""
    counts = Counter[int]()
    for start in range(0, len(labels), _EXAMPLES_AT_ONCE):
        values, _ = _part(labels, start)
        found = np.unique(values[values != NO_ANSWER], return_counts=True)
        counts.update(dict(zip(*(part.tolist() for part in found), strict=True)))
    in_order = np.asarray([count for _, count in sorted(counts.items())])
    shares = in_order / in_order.sum()
    return float(-(shares * np.log(shares)).sum())


def _part(labels: Column, start: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Values of some examples, and where each begins among them."""
    assert labels.offsets is not None
    offsets = labels.offsets[start : start + _EXAMPLES_AT_ONCE + 1]
    return labels.values[offsets[0] : offsets[-1]], offsets - offsets[0]
