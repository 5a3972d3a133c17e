"""Ask a model about a split: the whole model, in eval mode, in length-sorted batches.

What the frozen prefix puts out is computed in the first evaluation that it is held for, and found
in the next ones.
"""

import logging
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from afcore.activations.validation_states import ValidationStates
from afcore.data.order import inference_batches
from afcore.tasks.answers import Answers
from afcore.trainee import Trainee

__all__ = ["evaluate"]

_PROGRESS_SECONDS = 5.0
_log = logging.getLogger(__name__)


def evaluate(
    trainee: Trainee, *, boundary: int = 0, held: ValidationStates | None = None
) -> Answers:
    """What the whole model answers on all examples; every worker gets the answers of all.

    Each worker computes a part of every batch. Leaves the model in eval mode.

    Args:
        trainee: on the examples to ask it about; each worker calls this.
        boundary: the blocks below it are those that ``held`` is open for; 0 without it.
        held: what they put out for these examples, as far as it is held; None: run them.

    Returns:
        By example id.
    """
    split, examples, group = trainee.split, trainee.examples, trainee.group
    split.model.eval()
    done, shown = 0, time.monotonic()
    ids_done: list[npt.NDArray[np.int64]] = []
    found: list[tuple[torch.Tensor, torch.Tensor]] = []  # on the device, which is not waited for
    task = trainee.task
    with torch.no_grad(), trainee.compute.autocast():
        for number, together in enumerate(inference_batches(examples.lengths)):
            ids = together[group.rank :: group.count]
            if not len(ids):
                continue
            batch, targets = task.collate(examples, ids, trainee.compute.device)
            hidden = held.get(number) if held is not None else None
            if held is not None and hidden is None:
                hidden = split.hidden(batch, boundary)
                held.put(number, hidden)
            outputs = split.logits(batch, boundary, hidden).float()
            ids_done.append(ids)
            found.append((task.answer(outputs), task.losses(outputs, targets)))
            done += len(together)
            if time.monotonic() - shown > _PROGRESS_SECONDS:
                shown = time.monotonic()
                _log.info("evaluated %d of %d examples", done, len(examples))
    mine = None
    if ids_done:  # a split may have fewer examples than there are workers
        both = (torch.cat(each).cpu().numpy() for each in zip(*found, strict=True))
        mine = (np.concatenate(ids_done), *both)
    return _of_all_workers(trainee, [part for part in group.gather(mine) if part is not None])


def _of_all_workers(trainee: Trainee, parts: list[Any]) -> Answers:
    """Put what each worker found where it belongs; scores are then of the whole split."""
    targets = {name: column.values for name, column in trainee.examples.targets.items()}
    count = len(trainee.examples)
    predicted = np.zeros((count, *parts[0][1].shape[1:]), dtype=parts[0][1].dtype)
    losses = np.zeros(count, dtype=np.float32)
    for ids, some, of_some in parts:
        predicted[ids], losses[ids] = some, of_some
    values = trainee.task.row_values(targets, predicted)
    return Answers(trainee.task, {**values, "losses": losses})
