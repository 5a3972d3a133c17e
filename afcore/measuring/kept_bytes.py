"""Memory that a step keeps of an example until its backward pass, counted on a forward pass.

What autograd keeps depends on model, precision, dropout and kernels alike (attention with dropout
keeps a matrix of all pairs of tokens on a CPU, and not on a GPU), so it is counted and no formula.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.model.trial import restored
from afcore.trainee import Trainee

__all__ = ["kept_bytes"]

_GRADIENT_BYTES = 4  # of an output: its gradient comes before what it was made of is let go


def kept_bytes(trainee: Trainee, *, checkpoints: bool) -> list[int]:
    """[L], of the longest example, trained at boundary 0, 1, ..., L - 1.

    Counted at boundary 0, 1 and L - 1; the blocks between are taken to be alike.

    Args:
        trainee: on the training split; its model is as it was afterwards.
        checkpoints: blocks keep what goes into them, and one at a time is computed again.
    """
    split, size = trainee.split, trainee.task.group_size
    longest = int(trainee.examples.lengths.argmax()) // size * size
    ids = np.arange(longest, longest + size)
    last = split.num_blocks - 1
    with torch.random.fork_rng(), restored(split.model):
        split.checkpoint_blocks(False)
        at = {k: _kept_more(trainee, ids, k) for k in sorted({0, 1, last})}
    least, given = at[last]
    block = (at[1][0] - least) / max(last - 1, 1)
    kept = [least + (last - k) * block for k in range(last + 1)]
    if checkpoints:
        kept = [least + (last - k) * given + block * (k < last) for k in range(last + 1)]
    kept[0] += at[0][0] - at[1][0] - block  # of the embeddings
    return [round(one / size) for one in kept]


def _kept_more(trainee: Trainee, ids: npt.NDArray[np.int64], boundary: int) -> tuple[int, int]:
    """By two such examples than by one: copies of the weights, in 16 bits, are there once."""
    one, two = (_kept_at(trainee, np.tile(ids, count), boundary) for count in (1, 2))
    return two[0] - one[0], two[1] - one[1]


def _kept_at(trainee: Trainee, ids: npt.NDArray[np.int64], boundary: int) -> tuple[int, int]:
    """Bytes at a boundary, and those among them that go into the lowest block that trains."""
    split = trainee.split
    split.set_training(boundary)
    batch, targets = trainee.task.collate(trainee.examples, ids, trainee.compute.device)
    hidden = None
    if boundary:
        with torch.no_grad(), trainee.compute.autocast():
            hidden = split.hidden(batch, boundary)
    weights = {_address(one) for one in (*split.model.parameters(), *split.model.buffers())}
    kept: dict[int, tuple[int, Tensor]] = {}  # with the tensor: an address is used again

    def keep(tensor: Tensor) -> Tensor:
        if _address(tensor) not in weights:
            kept[_address(tensor)] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with trainee.compute.autocast():
            outputs = split.logits(batch, boundary, hidden)
        trainee.task.loss(outputs, targets)
    given = sum(states.nbytes for states in (hidden or {}).values())
    return sum(size for size, _ in kept.values()) + outputs.numel() * _GRADIENT_BYTES, given


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
