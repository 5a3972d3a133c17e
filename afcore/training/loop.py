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

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from afcore.activations.feed import HiddenFeed
from afcore.freezing.policy import FreezePolicy, Interval, IntervalStatistics, loss_statistics
from afcore.freezing.settling import has_settled
from afcore.tasks.scores import LOG_LOSS, Score, remaining_errors
from afcore.trainee import Trainee
from afcore.training.gradients import (
    GradientSums,
    are_finite,
    clip_gradients,
    norms_of_gradients,
)
from afcore.training.progress import EpochProgress
from afcore.training.schedule import Schedule
from afcore.training.solved_head import start_from_solved_head
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
        shown: whether its progress is told; that of a trial would be taken for the training's.
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
    shown: bool = True


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
    steps = Steps(trainee, state, batches, settings, feed, done or TrainedEpoch())
    loop = _EpochLoop(trainee, state, len(batches), course, settings, steps)
    if course.solved_head is not None and not state.step:
        start_from_solved_head(
            trainee, state.freeze.boundary, settings.seed, steps, course.solved_head
        )
    loop.train(stop)
    trainee.group.pending_stop()
    done = steps.finish()
    if len(done.steps) < len(batches):
        state.sums = loop.decisions.sums
        return done
    state.sums = None
    loop.conclude(done)
    return done


class _EpochLoop:
    """An epoch's steps one after the other, and what is decided between and after them."""

    def __init__(
        self,
        trainee: Trainee,
        state: TrainingState,
        num_batches: int,
        course: Course,
        settings: StepSettings,
        steps: Steps,
    ) -> None:
        self._trainee, self._state, self._num_batches = trainee, state, num_batches
        self._course, self._settings, self._steps = course, settings, steps
        self._group, self._done = trainee.group, steps.done
        self.decisions = _Decisions(trainee, state, course, steps.done, num_batches)
        self._points = interval_ends(num_batches, course.intervals_per_epoch)[:-1]
        self._losses = Losses(steps.done, trainee.group)

    def train(self, stop: Callable[[], bool]) -> None:
        """All batches that are left, or as many as there is time for."""
        course, settings, steps = self._course, self._settings, self._steps
        epoch, last, num_done = course.epoch, self._num_batches, len(self._done.steps)
        progress = EpochProgress(epoch, course.schedule.num_epochs, last, num_done)
        for number, ids, hidden in steps.shares():
            self._trainee.compute.seed(settings.seed, epoch, number, self._group.rank)
            self._update(number, steps.backward(ids, hidden))
            if number < last and self.decisions.are_due(number):
                self._decide(number)
            steps.watch.lap("suffix")
            if course.keep is not None and number in self._points:
                course.keep(steps.so_far)
            stopping = self._group.wants_to_stop(stop()) and number < last
            if stopping or number == last or progress.is_due():
                # Workers read together or not at all, and their clocks differ.
                if stopping or number == last or self._group.count == 1:
                    self._losses.read()
                if course.shown:
                    num_blocks = self._trainee.split.num_blocks
                    progress.show(number, self._done.steps, self._state, num_blocks)
            if stopping:
                break

    def _update(self, number: int, loss: Tensor) -> None:
        """Step with the gradients of batch ``number``; note the loss."""
        state, most = self._state, self._settings.max_grad_norm
        boundary, ends = state.freeze.boundary, number in self.decisions.ends
        norms = {}
        if self.decisions.adds_up or most or ends:
            norms = norms_of_gradients(state.optimizer.parameters)
        self.decisions.add(norms)
        if most:
            clip_gradients(norms, most)
        rate = state.optimizer.step(self._course.schedule.factor(state.step) * state.freeze.rate)
        state.step += 1
        self._losses.add(StepLog(state.step, time.time(), math.nan, rate, boundary), loss)
        if ends or number in self._points or number % _STEPS_PER_READING == 0:
            self._losses.read()
        if ends:
            _check_finite(norms)

    def _decide(self, number: int) -> None:
        """At the end of an interval within the epoch, after batch ``number``."""
        boundary = self._state.freeze.boundary
        self.decisions.decide(self._course.validations)
        self.decisions.begin_after(number)
        if self._state.freeze.boundary != boundary:
            self._steps.change_boundary()

    def conclude(self, done: TrainedEpoch) -> None:
        """After the last batch: evaluate, decide with the scores, see whether training settled."""
        course, policy, validations = self._course, self._course.policy, self._course.validations
        if course.validate is not None:
            clock = time.perf_counter()
            done.validation = course.validate()
            done.evaluate_seconds = time.perf_counter() - clock
            validations = (*validations, done.validation)
        if policy is not None:
            self.decisions.decide(validations)
            self._steps.drop_frozen()
        ends_cycle = course.schedule.ends_cycle(course.epoch)
        if (policy is None or not policy.stops) and ends_cycle and validations:
            settled = settled_by_scores(course.score, validations)
            self._state.freeze = replace(self._state.freeze, settled=settled)


def settled_by_scores(score: Score, validations: Sequence[Mapping[str, float]]) -> bool:
    """Whether training has settled after a cycle, where no policy says it."""
    losses = [scores["loss"] for scores in validations]
    return has_settled(losses, errors=remaining_errors(score, validations))


class _Decisions:
    """The policy's decisions of an epoch, and the statistics that they are made from.

    Attributes:
        ends: steps (1-based, within the epoch) after which one is due.
        adds_up: whether gradients are added up for them.
        sums: of the interval; those in which the epoch was stopped go on.
    """

    def __init__(
        self,
        trainee: Trainee,
        state: TrainingState,
        course: Course,
        done: TrainedEpoch,
        num_batches: int,
    ) -> None:
        policy = course.policy
        self._trainee, self._state, self._course, self._done = trainee, state, course, done
        self.adds_up = policy is not None and policy.keeps_statistics
        self.ends = interval_ends(num_batches, course.intervals_per_epoch if self.adds_up else 1)
        before, after = interval_around(self.ends, len(done.steps))
        self.sums = state.sums or GradientSums(trainee.split, after - before)
        self._chance = math.nan
        if policy is not None:
            self._chance = trainee.task.chance_loss(trainee.examples.trained)

    def are_due(self, number: int) -> bool:
        """Whether one is, after step ``number``."""
        return self._course.policy is not None and number in self.ends

    def add(self, norms: dict[nn.Parameter, Tensor]) -> None:
        """The gradients of a step, before clipping."""
        if self.adds_up:
            self.sums.add(norms)

    def begin_after(self, number: int) -> None:
        """The interval after step ``number``."""
        before, after = interval_around(self.ends, number)
        self.sums.begin(after - before)

    def decide(self, validations: tuple[dict[str, float], ...]) -> None:
        """At the end of an interval: record its statistics; they may move the boundary."""
        policy, state = self._course.policy, self._state
        assert policy is not None
        statistics = self._statistics(policy, validations)
        before, decision = state.freeze.boundary, None
        if before < self._trainee.split.num_blocks - 1 or not policy.keeps_statistics:
            state.freeze, decision = policy.decide(state.freeze, statistics)
        self._done.intervals.append(Interval(time.time(), statistics, decision))
        self._trainee.group.check_same("freeze decision", state.freeze.boundary)
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

    def _statistics(
        self, policy: FreezePolicy, validations: tuple[dict[str, float], ...]
    ) -> IntervalStatistics:
        course, done, schedule = self._course, self._done, self._course.schedule
        steps = done.steps[-self.sums.num_steps :] if policy.keeps_statistics else done.steps
        return IntervalStatistics(
            **self.sums.finish(),
            num_steps=len(steps),
            step=self._state.step,
            total_steps=schedule.total_steps,
            learning_rate=float(np.mean([step.learning_rate for step in steps])),
            epoch=course.epoch,
            num_epochs=schedule.num_epochs,
            cycle_share=schedule.cycle_share(course.epoch),
            **loss_statistics([step.loss for step in steps]),
            validation_losses=tuple(scores["loss"] for scores in validations),
            chance_loss=self._chance,
            validation_errors=remaining_errors(course.score, validations),
        )


def _check_finite(norms: dict[nn.Parameter, Tensor]) -> None:
    """Of the last step before a commit: those of earlier ones show in the losses after them."""
    if not are_finite(norms):
        raise diverged("gradients are not finite")
