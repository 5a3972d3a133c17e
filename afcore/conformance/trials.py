"""A model tried at its boundaries, and the reason why it cannot be cached, or not even frozen.

In float64 wherever the model's own code runs in it, so that what is equal but for rounding differs
by 1e-12 and not by 1e-5, and what reads a hidden state from below the boundary cannot pass for
rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from afcore.conformance.opened_model import UnsupportedModelError, one_line
from afcore.model.forwards import Batch, Hidden, evaluating, logits_of, relative_difference
from afcore.model.split_model import SplitModel
from afcore.model.trial import (
    Differences,
    Results,
    compare,
    depends_on_neighbours,
    largest_apart,
    read_back,
    restored,
    results_of,
    set_obstacle,
)

__all__ = ["BoundaryTrial", "as_precise_as_can_be", "check_repeats", "try_boundary", "try_training"]

_TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4}
_RATE = 0.1


@dataclass(frozen=True)
class BoundaryTrial:
    """What was found at a boundary.

    Attributes:
        boundary: ``k``.
        split: the suffix on what the prefix just put out, against the whole.
        stored: the suffix on what a set gives back, against the whole; None: there can be no set.
        obstacle: why there can be no set, or why what it gives is something else.
    """

    boundary: int
    split: Differences
    stored: Differences | None
    obstacle: str | None


def as_precise_as_can_be(split: SplitModel, batch: Batch) -> Batch:
    """Turn the model to float64 where it runs so, else leave it in float32; its batch.

    Raises:
        UnsupportedModelError: when it runs in neither, or gives no logits, or none that are
        numbers.
    """
    split.model.double()
    doubled = {n: v.double() if v.is_floating_point() else v for n, v in batch.items()}
    try:
        whole = _whole(split, doubled, 1)
        if _are_numbers(whole) and whole.outputs.dtype == torch.float64:
            return doubled
    except Exception:  # whatever a model's own code raises; float32 is tried next
        pass
    split.model.float()
    try:
        whole = _whole(split, batch, 1)
    except Exception as error:
        raise UnsupportedModelError(f"its own code fails: {one_line(error)}") from error
    if not _are_numbers(whole):
        raise UnsupportedModelError("its outputs or gradients are NaN where texts are padded.")
    return batch


def _whole(split: SplitModel, batch: Batch, boundary: int) -> Results:
    return results_of(split, batch, boundary, lambda: logits_of(split.model(**batch)))


def _are_numbers(results: Results) -> bool:
    """Outputs may be infinite, where a model masks them."""
    gradients = all(bool(gradient.isfinite().all()) for gradient in results.gradients.values())
    return gradients and not bool(results.outputs.isnan().any())


def check_repeats(split: SplitModel, batch: Batch) -> None:
    """The same batch must give the same outputs twice, or nothing can be compared.

    Raises:
        UnsupportedModelError: when it does not.
    """
    with evaluating(split.model), torch.no_grad():
        one, other = (logits_of(split.model(**batch)) for _ in range(2))
    apart = relative_difference(one, other)
    if apart > _tolerance(split):
        raise UnsupportedModelError(
            f"it draws at random even in eval mode: one batch, run twice, differs by {apart:.0e}."
        )


def try_boundary(split: SplitModel, batch: Batch, boundary: int) -> BoundaryTrial:
    """Compare the whole with its parts.

    Raises:
        UnsupportedModelError: when prefix and suffix are not the whole, so that it cannot be
        frozen.
    """
    where = f"at boundary {boundary}"

    def suffix(hidden: Hidden) -> Callable[[], Tensor]:
        return lambda: split.logits(batch, boundary, hidden)

    try:
        whole = _whole(split, batch, boundary)
        with torch.no_grad():
            split.set_training(boundary)
            hidden = split.hidden(batch, boundary)
        apart = compare(results_of(split, batch, boundary, suffix(hidden)), whole)
    except Exception as error:  # whatever a model's own code raises
        raise UnsupportedModelError(
            f"run apart {where}, its own code fails: {one_line(error)}"
        ) from error
    if apart.largest > _tolerance(split):
        raise UnsupportedModelError(
            f"prefix and suffix {where} are not the whole ({_shown(apart)}): {_what_else(split)}."
        )
    _check_shapes(hidden, len(next(iter(batch.values()))))
    obstacle = set_obstacle(split, batch, boundary, hidden)
    if obstacle is not None:
        return BoundaryTrial(boundary, apart, None, f"{obstacle}.")
    num_positions = next(iter(hidden.values())).shape[1]
    try:
        read = read_back(split, batch, boundary, num_positions)
    except Exception as error:
        obstacle = f"an example alone in its batch cannot be run: {one_line(error)}"
        return BoundaryTrial(boundary, apart, None, obstacle)
    obstacle = _of_neighbours(split, batch, read, hidden)
    try:
        stored = compare(results_of(split, batch, boundary, suffix(read)), whole)
    except Exception as error:
        obstacle = obstacle or f"without padding {where}, its own code fails: {one_line(error)}"
        return BoundaryTrial(boundary, apart, None, obstacle)
    if obstacle is None and stored.largest > _tolerance(split):
        obstacle = (
            f"what is above {where[3:]} reads the hidden states of padding ({_shown(stored)})."
        )
    return BoundaryTrial(boundary, apart, stored, obstacle)


def try_training(split: SplitModel, batch: Batch) -> str | None:
    """Make a step of training above the highest boundary; what is below it must not change by that.

    Returns:
        None, or what changed.

    Raises:
        UnsupportedModelError: when the step fails.
    """
    boundary = split.num_blocks - 1
    with restored(split.model), torch.random.fork_rng(devices=[]):
        split.set_training(boundary)
        with torch.no_grad():
            before = split.hidden(batch, boundary)
        try:
            outputs = split.logits(batch, boundary, before)
            outputs.square().mean().backward()
        except Exception as error:
            raise UnsupportedModelError(
                f"in training, its own code fails: {one_line(error)}"
            ) from error
        with torch.no_grad():
            for parameter in split.model.parameters():
                if parameter.grad is not None:
                    parameter -= _RATE * parameter.grad.sign()
            split.model.zero_grad(set_to_none=True)
            after = split.hidden(batch, boundary)
        apart = largest_apart(after, before)
    if apart == 0:
        return None
    return f"training above boundary {boundary} changes the hidden states there, by {apart:.0e}."


def _tolerance(split: SplitModel) -> float:
    return _TOLERANCES[next(split.model.parameters()).dtype]


def _shown(apart: Differences) -> str:
    return (
        f"outputs differ by {apart.outputs:.0e}, gradients by {apart.gradients:.0e} of the largest"
    )


def _what_else(split: SplitModel) -> str:
    if getattr(split.model.config, "use_weighted_layer_sum", False):
        return "its head reads the sum of all blocks' outputs (use_weighted_layer_sum)"
    return "something above the boundary reads, or trains, what is below it in another way"


def _check_shapes(hidden: Hidden, count: int) -> None:
    for name, states in hidden.items():
        if states.ndim != 3 or len(states) != count:
            raise UnsupportedModelError(
                f"its {name} are {list(states.shape)} for {count} examples, not "
                f"[{count}, positions, width]."
            )


def _of_neighbours(split: SplitModel, batch: Batch, read: Hidden, hidden: Hidden) -> str | None:
    """Whether an example's hidden states depend on the others of its batch."""
    apart = depends_on_neighbours(read, hidden, batch, 0.0)
    if apart <= _tolerance(split):
        return None
    return (
        "an example's hidden states depend on the padding, or the other examples, of its batch "
        f"(they differ by {apart:.0e})."
    )
