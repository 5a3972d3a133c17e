"""When more epochs would gain too little: a pure function of the scores on unseen text."""

from collections.abc import Sequence

__all__ = ["CYCLE_EPOCHS", "has_settled"]

CYCLE_EPOCHS = 2
"""Of a training that may stop (:mod:`afcore.training.schedule`). One epoch left two points of
accuracy on every set that was tried; two cycles of one ended below one of two."""


def has_settled(
    losses: Sequence[float], least_gain: float = 0.0, errors: Sequence[float] = ()
) -> bool:
    """Whether the last epoch lowered the validation loss by too little, and the errors too.

    Asked at the end of a cycle of the learning rate, where the loss is at its lowest for what was
    spent: what the last epochs of a cycle gain is partly the falling rate's, so a gain that is
    small even so is a plateau.

    Args:
        losses: after each epoch, at least one.
        least_gain: share of the best loss before by which the last one must be lower.
        errors: ``1 - score`` after each epoch, of a main score that has a say beside the loss,
            which the large classes make up where they are of very different sizes; or none.
    """
    if len(losses) < 2:
        return False
    both = (losses, errors) if errors else (losses,)
    return all(values[-1] >= (1.0 - least_gain) * min(values[:-1]) for values in both)
