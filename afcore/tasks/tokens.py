"""What tasks have in common that answer tokens: losses over all of them, however many a row has.

Labels are [b, t] int64 beside [b, t, v] logits, :data:`NO_ANSWER` where nothing is asked.
"""

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn.functional import cross_entropy

from afcore.data.examples import Column
from afcore.tasks.task import NO_ANSWER

__all__ = ["mean_losses", "num_answers", "token_loss", "unigram_entropy"]


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean log loss over all tokens of a batch, in nats; [m, v] and [m] will do too."""
    return cross_entropy(logits.flatten(end_dim=-2), labels.flatten(), ignore_index=NO_ANSWER)


def mean_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """[b], the mean log loss over each example's own tokens, in nats."""
    each = cross_entropy(logits.transpose(1, 2), labels, ignore_index=NO_ANSWER, reduction="none")
    return each.sum(1) / (labels != NO_ANSWER).sum(1).clamp(min=1)


def num_answers(labels: Column) -> npt.NDArray[np.int64]:
    """[n], tokens that each example is asked for."""
    assert labels.offsets is not None
    before = np.concatenate([[0], np.cumsum(labels.values != NO_ANSWER)])
    return np.diff(before[labels.offsets]).astype(np.int64)


def unigram_entropy(labels: Column) -> float:
    """Of the shares of the tokens that are asked for, in nats: the loss of knowing these alone."""
    counts = np.unique(labels.values[labels.values != NO_ANSWER], return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())
