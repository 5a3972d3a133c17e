"""The finders, in the order in which they are asked: the first that finds something is believed."""

from collections.abc import Callable
from typing import Any

from afcore.errors import ModelError
from afcore.model.finders.encoder import find_in_encoder
from afcore.model.finders.traced import find_by_tracing, why_no_chain
from afcore.model.forwards import Batch
from afcore.model.stacks import Stack

__all__ = ["FINDERS", "find_stack"]

FINDERS: tuple[Callable[[Any, Batch], list[Stack]], ...] = (find_in_encoder, find_by_tracing)
"""Each from a model and a batch of two examples, to the stacks it knows there, the best first."""


def find_stack(model: Any, batch: Batch) -> Stack:
    """The blocks of a model.

    Args:
        model: with a head; left as it is.
        batch: of two examples at least, all of one length.

    Raises:
        ModelError: when nobody finds any.
    """
    for find in FINDERS:
        if stacks := find(model, batch):
            return stacks[0]
    raise ModelError(
        f"no row of transformer blocks found in {type(model).__name__}: "
        f"{why_no_chain(model, batch)}. Choose another model."
    )
