"""What is proved of a user's model, on its own data, before anything is trained."""

import torch

from afcore.errors import ModelError
from afcore.model.forwards import evaluating, logits_of, relative_difference, without_padding
from afcore.model.split_model import Batch, SplitModel
from afcore.model.trial import depends_on_neighbours, read_back, set_obstacle

__all__ = [
    "num_pretrained_blocks",
    "unused_parameters",
    "verify_finite",
    "verify_pooled",
    "verify_split",
]


def verify_split(split: SplitModel, batch: Batch, boundary: int, tolerance: float) -> str | None:
    """Prove on a batch that prefix and suffix equal the whole, and that the prefix is cacheable.

    The model is run in eval mode, in fp32 and without gradients.

    Args:
        split: the model.
        batch: what the model takes, examples of different lengths where they have any.
        boundary: ``k`` at which to split.
        tolerance: largest difference allowed, relative to the largest magnitude (at least 1).

    Returns:
        None when the prefix is cacheable, else why not. It is when an example's hidden states
        depend on nothing but the example (alone in a batch without padding it must give the same
        numbers), have a row for each token, and suffice: the suffix must need none of padding.

    Raises:
        ModelError: when prefix and suffix do not equal the whole.
    """
    name = type(split.model).__name__
    if split.unsplittable is not None:
        raise ModelError(f"{name} cannot be split: {split.unsplittable}. Use mode full.")
    with evaluating(split.model), torch.no_grad():
        try:
            hidden = split.hidden(batch, boundary)
        except Exception as error:  # whatever a model's own code raises
            raise _fails(name, boundary, error) from error
        count = len(next(iter(batch.values())))
        for part, states in hidden.items():
            if states.ndim != 3 or len(states) != count:
                raise ModelError(
                    f"{name} cannot be split: {part} at boundary {boundary} are "
                    f"{list(states.shape)}, not [{count}, positions, width]. Use mode full."
                )
        whole = logits_of(split.model(**batch))
        try:
            apart = relative_difference(split.logits(batch, boundary, hidden), whole, 1.0)
        except Exception as error:
            raise _fails(name, boundary, error) from error
        if apart > tolerance:
            raise ModelError(
                f"{name} cannot be split: prefix and suffix at boundary "
                f"{boundary} differ from the whole by {apart:.1e}. Use mode full."
            )
        obstacle = set_obstacle(split, batch, boundary, hidden)
        if obstacle is not None:
            return obstacle
        num_positions = next(iter(hidden.values())).shape[1]
        try:
            read = read_back(split, batch, boundary, num_positions)
        except Exception as error:
            return f"an example without padding, alone in its batch, cannot be run: {error}"
        apart = depends_on_neighbours(read, hidden, batch, 1.0)
        if apart > tolerance:
            return (
                "an example's hidden states depend on the other examples of its batch (they differ "
                f"by {apart:.1e})"
            )
        try:
            outputs = split.logits(batch, boundary, read)
        except Exception as error:
            return f"without hidden states of padding, its own code fails: {error}"
        whole, outputs = without_padding(whole, batch), without_padding(outputs, batch)
        apart = relative_difference(outputs, whole, 1.0)
    if apart > tolerance:
        return f"its head reads hidden states of padding (outputs differ by {apart:.1e})"
    return None


def _fails(name: str, boundary: int, error: Exception) -> ModelError:
    return ModelError(
        f"{name} cannot be split: run apart at boundary {boundary}, its own code fails: {error}. "
        "Use mode full."
    )


def verify_pooled(split: SplitModel, batch: Batch, tolerance: float) -> None:
    """Prove on a batch that the last block at one position gives the whole model's outputs.

    Args:
        split: run in eval mode, in fp32 and without gradients.
        batch: what the model takes, examples of different lengths where they have any.
        tolerance: as in :func:`verify_split`.

    Raises:
        ModelError: when it does not.
    """
    if split.pooled is None:
        return
    with evaluating(split.model), torch.no_grad():
        whole = logits_of(split.model(**batch))
        difference = relative_difference(split.logits(batch), whole, 1.0)
    if difference > tolerance:
        raise ModelError(
            f"{type(split.model).__name__}: the last block, computed at the {split.pooled_reason} "
            f"position alone, changes the outputs by {difference:.1e}. Set "
            "training.pooled_last_block to false."
        )


def verify_finite(split: SplitModel, batch: Batch) -> None:
    """Make sure, before anything is trained, that the model puts out numbers.

    Args:
        split: run in eval mode, in fp32 and without gradients.
        batch: what the model takes.

    Raises:
        ModelError: when it does not.
    """
    with evaluating(split.model), torch.no_grad():
        finite = bool(logits_of(split.model(**batch)).isfinite().all())
    if not finite:
        raise ModelError(
            f"{type(split.model).__name__} puts out NaN or infinity before any training, though "
            "its weights are numbers: they are too large, or config.json does not fit them. Use "
            "another checkpoint."
        )


def num_pretrained_blocks(split: SplitModel) -> int:
    """Blocks from the bottom up that have been trained before, as their vectors show.

    Biases and the weights of norms begin as zeros and ones, and no training leaves them so: a block
    in which each of them is still one number repeated was drawn at random.
    """
    for number, block in enumerate(split.blocks):
        vectors = [p.detach() for p in block.parameters() if p.ndim == 1 and len(p) > 1]
        if vectors and all(bool((vector == vector[0]).all()) for vector in vectors):
            return number
    return split.num_blocks


def unused_parameters(split: SplitModel, batch: Batch) -> list[str]:
    """Names of parameters that get no gradient: workers that average gradients wait for them.

    Args:
        split: trained as it is set; gradients are cleared.
        batch: what the model takes.
    """
    split.logits(batch).sum().backward()
    trained = [(name, p) for name, p in split.model.named_parameters() if p.requires_grad]
    unused = [name for name, parameter in trained if parameter.grad is None]
    split.model.zero_grad(set_to_none=True)
    return unused
