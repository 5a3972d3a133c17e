"""Ask a model about a split: the whole model, in eval mode, in length-sorted batches.

What the frozen prefix puts out is computed in the first evaluation that it is held for, and found
in the next ones.
"""

import logging
import time

import numpy as np
import numpy.typing as npt
import torch

from afcore.activations.validation_states import ValidationStates
from afcore.data.order import inference_batches
from afcore.distributed import WorkerGroup
from afcore.tasks.text_classification import Answers
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
    with torch.no_grad(), trainee.compute.autocast():
        for number, together in enumerate(inference_batches(examples.lengths)):
            ids = together[group.rank :: group.count]
            if not len(ids):
                continue
            batch, labels = trainee.task.collate(examples, ids, trainee.compute.device)
            hidden = held.get(number) if held is not None else None
            if held is not None and hidden is None:
                hidden = split.hidden(batch, boundary)
                held.put(number, hidden)
            logits = split.logits(batch, boundary, hidden)
            ids_done.append(ids)
            found.append(trainee.task.answer(logits, labels))
            done += len(together)
            if time.monotonic() - shown > _PROGRESS_SECONDS:
                shown = time.monotonic()
                _log.info("evaluated %d of %d examples", done, len(examples))
    return _of_all_workers(group, examples.labels, ids_done, found)


def _of_all_workers(
    group: WorkerGroup,
    labels: npt.NDArray[np.int64],
    ids_done: list[npt.NDArray[np.int64]],
    found: list[tuple[torch.Tensor, torch.Tensor]],
) -> Answers:
    """Put what each worker found where it belongs; scores are then of the whole split."""
    mine = None
    if ids_done:  # a split may have fewer examples than there are workers
        predicted, losses = (torch.cat(each).cpu().numpy() for each in zip(*found, strict=True))
        mine = np.concatenate(ids_done), predicted, losses
    answers = Answers(labels, np.zeros_like(labels), np.zeros(len(labels), dtype=np.float32))
    for part in group.gather(mine):
        if part is not None:
            ids, predicted, losses = part
            answers.predicted[ids], answers.losses[ids] = predicted, losses
    return answers
