"""Ask a model about a split: the whole model, in eval mode, in length-sorted batches.

What the frozen prefix puts out is computed in the first evaluation that it is held for, and found
in the next ones; above a boundary that has risen, from what is held below it.
"""

import logging
import time

import numpy as np
import numpy.typing as npt
import torch

from afcore.activations.validation_states import ValidationStates
from afcore.data.order import group_lengths, inference_batches, of_groups
from afcore.tasks.answers import Answers, together
from afcore.tasks.scores import Score
from afcore.trainee import Trainee

__all__ = ["evaluate"]

_PROGRESS_SECONDS = 5.0
_log = logging.getLogger(__name__)


def evaluate(
    trainee: Trainee,
    *,
    boundary: int = 0,
    held: ValidationStates | None = None,
    score: Score | None = None,
) -> Answers:
    """What the whole model answers on all examples; every worker gets the answers of all.

    Each worker computes a part of every batch. Leaves the model in eval mode.

    Args:
        trainee: on the examples to ask it about; each worker calls this.
        boundary: the blocks below it are those that ``held`` is open for; 0 without it.
        held: what they put out for these examples, as far as it is held; None: run them.
        score: the only one that is wanted; None: all of them. Where it is of losses alone, nothing
            is generated.

    Returns:
        By example id.
    """
    split, examples, group = trainee.split, trainee.examples, trainee.group
    split.model.eval()
    done, shown = 0, time.monotonic()
    ids_done: list[npt.NDArray[np.int64]] = []
    found: list[tuple[torch.Tensor, torch.Tensor]] = []  # on the device, which is not waited for
    task, generating_seconds = trainee.task, 0.0
    asked = task.is_asked(score)
    with torch.no_grad(), trainee.compute.autocast():
        lengths = group_lengths(examples.lengths, task.group_size)
        for number, whole in enumerate(inference_batches(lengths)):
            ids = of_groups(whole[group.rank :: group.count], task.group_size)
            if not len(ids):
                continue
            batch, targets = task.collate(examples, ids, trainee.compute.device)
            hidden = None
            if held is not None:
                below, hidden = held.get(number)
                if below < boundary:
                    hidden = split.hidden(batch, boundary, below, hidden)
                    held.put(number, hidden)
            outputs = split.logits(batch, boundary, hidden).float()
            ids_done.append(ids)
            its_losses = task.losses(outputs, targets)
            began, kept = time.monotonic(), its_losses
            if asked:
                kept = task.answers(outputs, {**batch, **targets}, split.model)
            generating_seconds += time.monotonic() - began
            found.append((kept, its_losses))
            done += len(whole) * task.group_size
            if time.monotonic() - shown > _PROGRESS_SECONDS:
                shown = time.monotonic()
                _log.info("evaluated %d of %d examples", done, len(examples))
    mine = [
        (ids, answers.cpu().numpy(), losses.cpu().numpy())
        for ids, (answers, losses) in zip(ids_done, found, strict=True)
    ]
    # Scores are of the whole split; it may have fewer examples than there are workers.
    parts = [part for worker in group.gather(mine) for part in worker]
    count = len(examples)
    losses = together([(ids, given) for ids, _, given in parts], count)
    if not asked:
        return Answers.of(task, examples, None, losses)
    if task.generates:
        _log.info("generated %d answers in %.1f s", sum(map(len, ids_done)), generating_seconds)
    answers = together([(ids, given) for ids, given, _ in parts], count)
    return Answers.of(task, examples, answers, losses)
