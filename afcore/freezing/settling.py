"""When more epochs would gain too little: a pure function of the losses on unseen text."""

from collections.abc import Sequence

__all__ = ["CYCLE_EPOCHS", "has_settled"]

CYCLE_EPOCHS = 2
"""Of a training that may stop (:mod:`afcore.training.schedule`). One epoch left two points of
accuracy on every set that was tried; two cycles of one ended below one of two."""


def has_settled(losses: Sequence[float], least_gain: float = 0.0) -> bool:
    """Whether the last epoch lowered the validation loss by too little.

    Asked at the end of a cycle of the learning rate, where the loss is at its lowest for what was
    spent: what the last epochs of a cycle gain is partly the falling rate's, so a gain that is
    small even so is a plateau.

    Args:
        losses: after each epoch, at least one.
        least_gain: share of the best loss before by which the last one must be lower.
    """
    if len(losses) < 2:
        return False
    return losses[-1] >= (1.0 - least_gain) * min(losses[:-1])
