"""A model tried at a boundary: whole, run apart, and on hidden states as a set gives them back.

Three runs of the same examples, with gradients: the whole model; the suffix on what the prefix just
put out; the suffix on **read** hidden states, those of each example alone in its batch, without
padding, then padded with zeros, which is what a set gives back. Only differences are found here;
what they mean is said by :mod:`afcore.model.checks` for a run, and by :mod:`afcore.conformance` for
any model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from afcore.model.forwards import (
    Batch,
    Hidden,
    evaluating,
    relative_difference,
    without_padding,
)
from afcore.model.split_model import SplitModel

__all__ = [
    "Differences",
    "Results",
    "alone",
    "compare",
    "depends_on_neighbours",
    "largest_apart",
    "read_back",
    "restored",
    "results_of",
    "rows_at",
    "set_obstacle",
]

_SMALL = 1e-2  # of the largest gradient: a parameter's own gradient may be nothing but rounding


@dataclass(frozen=True)
class Results:
    """What a run of some examples gave; without gradients, where none were asked for."""

    outputs: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Differences:
    """Largest ones between two results, each relative to the largest magnitude."""

    outputs: float
    loss: float
    gradients: float

    @property
    def largest(self) -> float:
        """Of the three."""
        return max(self.outputs, self.loss, self.gradients)


def largest_apart(one: Hidden, other: Hidden) -> float:
    """:func:`relative_difference` over hidden states of the same names."""
    return max(relative_difference(values, other[name]) for name, values in one.items())


def compare(ours: Results, whole: Results) -> Differences:
    """Of parameters, those count that get a gradient from either."""
    largest = max((float(g.abs().max()) for g in whole.gradients.values()), default=0.0)
    apart = [0.0] if ours.gradients.keys() == whole.gradients.keys() else [float("inf")]
    apart += [
        relative_difference(ours.gradients[name], gradient, largest * _SMALL)
        for name, gradient in whole.gradients.items()
        if name in ours.gradients
    ]
    return Differences(
        relative_difference(ours.outputs, whole.outputs),
        relative_difference(ours.loss, whole.loss),
        max(apart),
    )


def results_of(
    split: SplitModel, batch: Batch, boundary: int, run: Callable[[], Tensor]
) -> Results:
    """Outputs, a loss made of all of them, and its gradients above a boundary; all in eval mode.

    Args:
        split: its parameters below ``boundary`` get no gradients.
        batch: that ``run`` runs; outputs at its padding are looked at by nobody.
        boundary: ``k``.
        run: gives the outputs.
    """
    split.set_training(boundary)
    split.model.zero_grad(set_to_none=True)
    with evaluating(split.model), torch.enable_grad():
        outputs = without_padding(run(), batch)
        loss = _loss(outputs)
        loss.backward()
    named = split.model.named_parameters()
    gradients = {n: p.grad.clone() for n, p in named if p.requires_grad and p.grad is not None}
    split.model.zero_grad(set_to_none=True)
    return Results(outputs.detach(), loss.detach(), gradients)


def _loss(outputs: Tensor) -> Tensor:
    """Log-losses of made-up classes, of all outputs that there are."""
    flat = outputs.reshape(-1, outputs.shape[-1]) if outputs.ndim > 1 else outputs[:, None]
    if flat.shape[-1] == 1:
        return (flat - 1).square().mean()
    wanted = torch.arange(len(flat), device=flat.device) % flat.shape[-1]
    return torch.nn.functional.cross_entropy(flat, wanted)


def alone(batch: Batch, number: int) -> Batch:
    """One example of a batch, without its padding."""
    one = {name: values[number : number + 1] for name, values in batch.items()}
    mask = batch.get("attention_mask")
    if mask is None:
        return one
    length = int(mask[number].sum())
    return {
        name: values[:, :length] if values.shape[1:2] == mask.shape[1:] else values
        for name, values in one.items()
    }


def rows_at(batch: Batch, number: int) -> int | None:
    """Rows that a set holds of an example of text: its tokens. None: as many as there are."""
    if "input_ids" not in batch:
        return None
    mask = batch.get("attention_mask")
    return batch["input_ids"].shape[1] if mask is None else int(mask[number].sum())


def read_back(split: SplitModel, batch: Batch, boundary: int, num_positions: int) -> Hidden:
    """Hidden states of a batch as a set gives them back, padded to ``num_positions``.

    Returns:
        [b, s, h] of each name: every example's were computed alone in its batch; padding is zeros.
    """
    found: dict[str, list[Tensor]] = {}
    count = len(next(iter(batch.values())))
    for number in range(count):
        with evaluating(split.model), torch.no_grad():
            hidden = split.hidden(alone(batch, number), boundary)
        for name, states in hidden.items():
            found.setdefault(name, []).append(states[0, : rows_at(batch, number)])
    return {
        name: torch.stack(
            [nn.functional.pad(one, (0, 0, 0, num_positions - len(one))) for one in rows]
        )
        for name, rows in found.items()
    }


def set_obstacle(split: SplitModel, batch: Batch, boundary: int, hidden: Hidden) -> str | None:
    """Why hidden states at a boundary cannot be rows of a set, one a token; None: they can."""
    for name, states in hidden.items():
        width, wanted = states.shape[-1], split.widths[name]
        if width != wanted:
            return (
                f"its {name} are {width} wide at boundary {boundary}, and {wanted} at boundary 1, "
                "but sets have one width"
            )
        if "input_ids" in batch and states.shape[1] != (tokens := batch["input_ids"].shape[1]):
            return (
                f"its {name} have {states.shape[1]} positions for {tokens} tokens, not one for each"
            )
    return None


def depends_on_neighbours(read: Hidden, hidden: Hidden, batch: Batch, least: float) -> float:
    """Largest difference between an example's hidden states alone, and in its batch.

    Args:
        read: by :func:`read_back`.
        hidden: of the whole batch.
        batch: of the same examples.
        least: magnitude to which a difference is related, see :func:`relative_difference`.
    """
    apart = 0.0
    for name, states in hidden.items():
        for number, example in enumerate(states):
            alone_rows = read[name][number]
            count = rows_at(batch, number)
            if count is None:
                shown = alone_rows.abs().sum(-1).nonzero()
                count = int(shown.max()) + 1 if len(shown) else 0
            apart = max(apart, relative_difference(alone_rows[:count], example[:count], least))
    return apart


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Undo what is done to the model meanwhile; its numbers are kept in host memory."""
    parameters, modules = list(model.parameters()), list(model.modules())
    tensors = [*parameters, *model.buffers()]
    numbers = [tensor.detach().to("cpu", copy=True) for tensor in tensors]
    trained = [(parameter.requires_grad, parameter.grad) for parameter in parameters]
    training = [module.training for module in modules]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, number in zip(tensors, numbers, strict=True):
                tensor.copy_(number)
        for parameter, (requires_grad, gradient) in zip(parameters, trained, strict=True):
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        for module, was_training in zip(modules, training, strict=True):
            module.training = was_training
