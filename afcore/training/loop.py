"""The loop of one epoch: steps, statistics, decisions. Commits nothing.

At the end of every interval the policy decides, and when the boundary grew the optimizer drops what
froze and keeps the rest's moments. The epoch's last decision knows how the model does on the
validation split.

Each worker runs this loop over the same batches, on its share of each
(:mod:`afcore.distributed`).
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from afcore.activations.feed import HiddenFeed
from afcore.freezing.policy import FreezePolicy, Interval, IntervalStatistics, loss_statistics
from afcore.freezing.settling import has_settled
from afcore.tasks.scores import LOG_LOSS, Score, remaining_errors
from afcore.trainee import Trainee
from afcore.training.gradients import GradientSums, clip_gradients, norms_of_gradients
from afcore.training.progress import EpochProgress
from afcore.training.schedule import Schedule
from afcore.training.steps import Losses, Steps, StepSettings, diverged
from afcore.training.trained import StepLog, TrainedEpoch, TrainingState

__all__ = [
    "Course",
    "interval_around",
    "interval_ends",
    "settled_by_scores",
    "train_epoch",
]

_STEPS_PER_READING = 50
_log = logging.getLogger(__name__)


def interval_ends(num_steps: int, intervals: int) -> list[int]:
    """Steps (1-based, within the epoch) after which a decision is due; the last always is one."""
    return sorted({round((i + 1) * num_steps / intervals) for i in range(intervals)} - {0})


def interval_around(ends: list[int], num_done: int) -> tuple[int, int]:
    """Steps after which the interval of the next step begins and ends; empty after the last."""
    before = max((end for end in ends if end <= num_done), default=0)
    return before, next((end for end in ends if end > num_done), before)


@dataclass(frozen=True)
class Course:
    """What an epoch is within the whole training, and who decides in it.

    Attributes:
        epoch: 1-based.
        schedule: of the whole training.
        policy: decides at the end of each interval; None keeps no statistics.
        intervals_per_epoch: decisions per epoch.
        validations: scores of the epochs before this one, for the policy.
        score: the main one, which may have a say in when training has settled.
        validate: called after the last step; its scores are the policy's for the last decision.
        solved_head: with which the head begins, before the first step of all: tensors of its last
            layer; empty: it is solved, and they are filled in; None: it begins as it is.
        keep: told after each decision but the last how to get what was trained until then.
    """

    epoch: int
    schedule: Schedule
    policy: FreezePolicy | None = None
    intervals_per_epoch: int = 1
    validations: tuple[dict[str, float], ...] = ()
    score: Score = LOG_LOSS
    validate: Callable[[], dict[str, float]] | None = None
    solved_head: dict[str, Tensor] | None = None
    keep: Callable[[Callable[[], TrainedEpoch]], None] | None = None


def train_epoch(
    trainee: Trainee,
    state: TrainingState,
    batches: list[npt.NDArray[np.int64]],
    course: Course,
    settings: StepSettings,
    *,
    feed: HiddenFeed | None = None,
    stop: Callable[[], bool] = lambda: False,
    done: TrainedEpoch | None = None,
) -> TrainedEpoch:
    """Train on ``batches`` in their order.

    Args:
        trainee: on the training split.
        state: changed in place.
        batches: of example ids, as :func:`afcore.data.order.epoch_batches` gives them; whole ones,
            whatever the number of workers.
        course: of the training.
        settings: of its steps.
        feed: hidden states at its boundary, at most the state's; None: from the examples.
        stop: asked after each step; once a worker's says yes, all stop after the same step, with
            fewer ``steps`` than batches.
        done: what was trained of this epoch before; changed in place and returned.

    Raises:
        AutoFreezeError: when the loss, or a gradient at the end of an interval, is not finite.
    """
    loop = Steps(trainee, state, batches, settings, feed, done or TrainedEpoch())
    group, policy, epoch, schedule = trainee.group, course.policy, course.epoch, course.schedule
    validations, max_grad_norm = course.validations, settings.max_grad_norm
    chance = trainee.task.chance_loss(trainee.examples) if policy is not None else math.nan
    decide = partial(_decide, trainee, state, course, loop.done, chance)
    adds_up = policy is not None and policy.keeps_statistics
    ends = interval_ends(len(batches), course.intervals_per_epoch if adds_up else 1)
    points = interval_ends(len(batches), course.intervals_per_epoch)[:-1]
    sums = _sums(trainee, state, ends, len(loop.done.steps))
    losses = Losses(loop.done, group)
    if course.solved_head is not None and not state.step:
        loop.solve_head(course.solved_head)
    progress = EpochProgress(epoch, schedule.num_epochs, len(batches), len(loop.done.steps))
    for number, ids, hidden in loop.shares():
        trainee.compute.seed(settings.seed, epoch, number, group.rank)
        boundary = state.freeze.boundary
        loss = loop.backward(ids, hidden)
        norms = {}
        if adds_up or max_grad_norm or number in ends:
            norms = norms_of_gradients(state.optimizer.parameters)
        if adds_up:
            sums.add(norms)
        if max_grad_norm:
            clip_gradients(norms, max_grad_norm)
        rate = state.optimizer.step(schedule.factor(state.step) * state.freeze.rate)
        state.step += 1
        losses.add(StepLog(state.step, time.time(), math.nan, rate, boundary), loss)
        if number in ends or number in points or number % _STEPS_PER_READING == 0:
            losses.read()
        if number in ends:
            _check_finite(norms)
        if policy is not None and number in ends and number < len(batches):
            decide(policy, sums, validations)
            begin, end = interval_around(ends, number)
            sums.begin(end - begin)
            if state.freeze.boundary != boundary:
                loop.change_boundary()
        loop.watch.lap("suffix")
        if course.keep is not None and number in points:
            course.keep(loop.so_far)
        stopping = group.wants_to_stop(stop()) and number < len(batches)
        if stopping or number == len(batches) or progress.is_due():
            # Workers read together or not at all, and their clocks differ.
            if stopping or number == len(batches) or group.count == 1:
                losses.read()
            progress.show(number, loop.done.steps, state, trainee.split.num_blocks)
        if stopping:
            break
    group.pending_stop()
    done = loop.finish()
    if len(done.steps) < len(batches):
        state.sums = sums
        return done
    state.sums = None
    if course.validate is not None:
        clock = time.perf_counter()
        done.validation = course.validate()
        done.evaluate_seconds = time.perf_counter() - clock
        validations = (*validations, done.validation)
    if policy is not None:
        decide(policy, sums, validations)
        loop.drop_frozen()
    if (policy is None or not policy.stops) and schedule.ends_cycle(epoch) and validations:
        settled = settled_by_scores(course.score, validations)
        state.freeze = replace(state.freeze, settled=settled)
    return done


def settled_by_scores(score: Score, validations: Sequence[Mapping[str, float]]) -> bool:
    """Whether training has settled after a cycle, where no policy says it."""
    losses = [scores["loss"] for scores in validations]
    return has_settled(losses, errors=remaining_errors(score, validations))


def _sums(trainee: Trainee, state: TrainingState, ends: list[int], num_done: int) -> GradientSums:
    """New ones, or those of the interval in which the epoch was stopped."""
    if state.sums is not None:
        return state.sums
    before, after = interval_around(ends, num_done)
    return GradientSums(trainee.split, after - before)


def _check_finite(norms: dict[nn.Parameter, Tensor]) -> None:
    """Of the last step before a commit: those of earlier ones show in the losses after them."""
    if norms and not torch.stack(list(norms.values())).isfinite().all():
        raise diverged("gradients are not finite")


def _decide(
    trainee: Trainee,
    state: TrainingState,
    course: Course,
    done: TrainedEpoch,
    chance: float,
    policy: FreezePolicy,
    sums: GradientSums,
    validations: tuple[dict[str, float], ...],
) -> None:
    epoch, schedule = course.epoch, course.schedule
    steps = done.steps[-sums.num_steps :] if policy.keeps_statistics else done.steps
    losses = [step.loss for step in steps]
    statistics = IntervalStatistics(
        **sums.finish(),
        num_steps=len(steps),
        step=state.step,
        total_steps=schedule.total_steps,
        learning_rate=float(np.mean([step.learning_rate for step in steps])),
        epoch=epoch,
        num_epochs=schedule.num_epochs,
        ends_cycle=schedule.ends_cycle(epoch),
        **loss_statistics(losses),
        validation_losses=tuple(scores["loss"] for scores in validations),
        chance_loss=chance,
        validation_errors=remaining_errors(course.score, validations),
    )
    before, decision = state.freeze.boundary, None
    if before < trainee.split.num_blocks - 1 or not policy.keeps_statistics:
        state.freeze, decision = policy.decide(state.freeze, statistics)
    done.intervals.append(Interval(time.time(), statistics, decision))
    trainee.group.check_same("freeze decision", state.freeze.boundary)
    if decision is not None:
        looked_at = ""
        if np.isfinite(decision.eta).any():
            etas = " ".join(f"{eta:.3g}" for eta in decision.eta)
            looked_at = f", threshold {decision.threshold:.3g}, eta {etas}"
        _log.info(
            "decision at step %d: boundary %d -> %d%s%s",
            *(state.step, before, state.freeze.boundary),
            ", settled" if state.freeze.settled else "",
            looked_at,
        )
