"""Modules that run otherwise for a moment, and afterwards as they did; what they put out."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "Batch",
    "Forward",
    "Hidden",
    "evaluating",
    "first_output",
    "logits_of",
    "relative_difference",
    "replaced_forwards",
    "taken_by",
    "without_padding",
]

Batch = Mapping[str, Tensor]
"""What a model takes, by the names of its arguments."""
Hidden = Mapping[str, Tensor]
"""Hidden states at a boundary, [b, s, h] each, by name."""
Forward = Callable[..., Any]


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards each module is as it was."""
    training = [module for model in models for module in model.modules() if module.training]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def replaced_forwards(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Let modules run the given functions; afterwards each runs what it ran before.

    An instance attribute hides the class's method; ``nn.Module`` calls ``self.forward``. A compiled
    block has such an attribute already, and gets it back.
    """
    hidden_away = {module: vars(module).pop("forward", None) for module in forwards}
    try:
        for module, forward in forwards.items():
            object.__setattr__(module, "forward", forward)
        yield
    finally:
        for module, own in hidden_away.items():
            module.__dict__.pop("forward", None)
            if own is not None:
                object.__setattr__(module, "forward", own)


def first_output(output: Any) -> Tensor:
    """The hidden states: some blocks put out a tuple of which they are the first."""
    tensor: Tensor = output[0] if isinstance(output, tuple | list) else output
    return tensor


def relative_difference(one: Tensor, other: Tensor, least: float = 0.0) -> float:
    """Largest difference over the largest magnitude of ``other``; infinite where shapes differ.

    Args:
        one: of any floating type.
        other: the same.
        least: what the magnitude counts as, at least.
    """
    if one.shape != other.shape:
        return float("inf")
    if not other.numel():
        return 0.0
    # Equal infinities, as masks make, are equal.
    apart = float(torch.where(one == other, 0.0, (one - other).abs()).max())
    finite = other.where(other.isfinite(), 0.0).abs().max()
    scale = max(float(finite), least, torch.finfo(other.dtype).tiny)
    return apart / scale if apart == apart else float("inf")


def taken_by(module: nn.Module, batch: Batch) -> Batch:
    """What of a batch a module has an argument for: labels, say, are for the whole model alone."""
    names = inspect.signature(module.forward).parameters
    return {name: values for name, values in batch.items() if name in names}


def logits_of(output: Any) -> Tensor:
    """What a head puts out; several of one shape, as start and end, beside each other.

    Raises:
        AttributeError: when there are none.
    """
    # Those of a router, which experts a token goes to, come as one tensor a block.
    found = [
        values
        for name, values in output.items()
        if name.endswith("logits") and isinstance(values, Tensor)
    ]
    if not found:
        raise AttributeError("it puts out no logits")
    logits: Tensor = found[0] if len(found) == 1 else torch.stack(found, -1)
    return logits


def without_padding(outputs: Tensor, batch: Batch) -> Tensor:
    """With zeros at padding, where there is an output for each token."""
    mask = batch.get("attention_mask")
    if mask is None or outputs.ndim < 3 or outputs.shape[:2] != mask.shape:
        return outputs
    shown = mask.view(*mask.shape, *[1] * (outputs.ndim - 2)) != 0
    return outputs.where(shown, 0.0)
