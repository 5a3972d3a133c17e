"""Begin a training with a solved head: features from every worker, one of them solves, all take it.

See :mod:`afcore.training.head` for what is solved, and why.
"""

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from afcore.distributed import WorkerGroup
from afcore.tasks.task import Targets, Task
from afcore.trainee import Trainee
from afcore.training.head import HeadFeatures, batches_to_solve_on, solve_head
from afcore.training.steps import Steps

__all__ = ["start_from_solved_head"]

_TRIED_ON = 4
"""Batches, of those that the head is solved on."""
_log = logging.getLogger(__name__)


def start_from_solved_head(
    trainee: Trainee, boundary: int, seed: int, steps: Steps, solved: dict[str, Tensor]
) -> None:
    """Begin with the best last layer on what the blocks put out now.

    One pass over some of the epoch's batches, each worker on its share. A model whose logits are
    not those of one linear layer at one position, or at each that is answered by itself, keeps the
    head that it has.

    Args:
        trainee: its model's head is changed.
        boundary: frozen blocks.
        seed: of the training.
        steps: that follow.
        solved: tensors of the layer by name, where it was solved on the same before; else filled
            in.
    """
    task, split = trainee.task, trainee.split
    if not task.head_is_new:
        _log.info("head: begins as it was pre-trained; it is not solved")
        return
    found = HeadFeatures(split, task.num_outputs)
    if solved:
        assert found.layer is not None
        found.layer.load_state_dict(solved)
        steps.done.found_head = True
        _log.info("head: begins as it was solved for another run")
        return
    batches = batches_to_solve_on(steps.batches, task.num_outputs)
    split.model.eval()
    seen = _features(trainee, boundary, steps, found, batches)
    split.set_training(boundary)
    trainee.compute.seed(seed, 0, 0, trainee.group.rank)  # of dropout: steps have their own
    tried = seen and _features(trainee, boundary, steps, found, batches[:_TRIED_ON])
    if seen is None or tried is None:
        _log.info("head: begins as it was drawn; it is no linear layer at one position")
    else:
        assert found.layer is not None
        solved |= _solve_together(task, trainee.group, found.layer, seen, tried)
    steps.watch.lap("suffix")


def _features(
    trainee: Trainee,
    boundary: int,
    steps: Steps,
    found: HeadFeatures,
    batches: Sequence[npt.NDArray[np.int64]],
) -> tuple[Tensor, Targets] | None:
    """Of this worker's share of some batches: [n, f], and what is to be answered."""
    features: list[Tensor] = []
    answers: list[Targets] = []
    for ids, hidden in steps.fed(batches):
        batch, targets, hidden = steps.inputs(ids, hidden)
        at = trainee.task.answered_alone(targets)
        with trainee.compute.autocast():
            some = found.take(batch, boundary, hidden, at)
        if some is None:
            return None
        features.append(some)
        wanted = targets if at is None else {name: one[at] for name, one in targets.items()}
        answers.append({name: values.cpu() for name, values in wanted.items()})
        steps.watch.lap("prefix")
    return torch.cat(features), _together(answers)


def _solve_together(
    task: Task,
    group: WorkerGroup,
    layer: nn.Linear,
    seen: tuple[Tensor, Targets],
    tried: tuple[Tensor, Targets],
) -> dict[str, Tensor]:
    """The first worker solves; the others take what it found, which may be what was drawn.

    Args:
        task: whose loss and curvature they are.
        group: of the workers.
        layer: the head's last; changed.
        seen: what it is solved on.
        tried: the same as in training, with dropout: there it must be better than as drawn.
    """
    shares = group.gather((seen, tried))
    state: dict[str, Tensor] = {}
    if group.is_first:
        (features, targets), (noisy, answers) = (
            (torch.cat([one for one, _ in part]), _together([of for _, of in part]))
            for part in zip(*shares, strict=True)
        )
        drawn = _state_of(layer)
        loss = partial(task.loss, targets=targets)
        objective = solve_head(layer, features, loss, task.curvature)
        state = _state_of(layer)
        before, after = (
            float(task.loss(linear(noisy, one["weight"], one.get("bias")), answers))
            for one in (drawn, state)
        )
        if after < before:
            _log.info("head: solved on %d answers, objective %.3f", len(features), objective)
        else:
            _log.info(
                "head: begins as it was drawn; under dropout the one that was solved is worse "
                "(a loss of %.3f instead of %.3f)",
                *(after, before),
            )
            state = drawn
    told: dict[str, Tensor] = group.tell(state)
    layer.load_state_dict(told)
    return told


def _state_of(layer: nn.Linear) -> dict[str, Tensor]:
    return {name: value.cpu().clone() for name, value in layer.state_dict().items()}


def _together(parts: list[Targets]) -> Targets:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
