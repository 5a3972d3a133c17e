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
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from afcore.activations.codec import HiddenDtype
from afcore.activations.feed import HiddenFeed
from afcore.compute import Compute
from afcore.data.prepare import Examples
from afcore.distributed import ALONE, WorkerGroup
from afcore.freezing.policy import FreezePolicy, Interval, IntervalStatistics
from afcore.freezing.settling import has_settled
from afcore.model.compile import Backend
from afcore.tasks.main_score import remaining_errors
from afcore.tasks.text_classification import chance_loss
from afcore.training.gradients import GradientSums, clip_gradients, norms_of_gradients
from afcore.training.schedule import Schedule
from afcore.training.steps import Losses, Steps, diverged
from afcore.training.trained import StepLog, TrainedEpoch, TrainingState

__all__ = ["interval_around", "interval_ends", "train_epoch"]

_PROGRESS_SECONDS = 5.0
_STEPS_PER_READING = 50
_log = logging.getLogger(__name__)


def interval_ends(num_steps: int, intervals: int) -> list[int]:
    """Steps (1-based, within the epoch) after which a decision is due; the last always is one."""
    return sorted({round((i + 1) * num_steps / intervals) for i in range(intervals)} - {0})


def interval_around(ends: list[int], num_done: int) -> tuple[int, int]:
    """Steps after which the interval of the next step begins and ends; empty after the last."""
    before = max((end for end in ends if end <= num_done), default=0)
    return before, next((end for end in ends if end > num_done), before)


def train_epoch(
    state: TrainingState,
    examples: Examples,
    batches: list[npt.NDArray[np.int64]],
    *,
    epoch: int,
    schedule: Schedule,
    seed: int,
    pad_token_id: int,
    compute: Compute,
    policy: FreezePolicy | None,
    intervals_per_epoch: int,
    validations: tuple[dict[str, float], ...] = (),
    score: str = "accuracy",
    validate: Callable[[], dict[str, float]] | None = None,
    max_grad_norm: float,
    hidden_dtype: HiddenDtype,
    read_boundary: int = 0,
    feed: HiddenFeed | None = None,
    compile_backend: Backend | None = None,
    group: WorkerGroup = ALONE,
    micro_batch: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    solve_head: int | None = None,
    done: TrainedEpoch | None = None,
) -> TrainedEpoch:
    """Train on ``batches`` in their order.

    Args:
        state: changed in place.
        examples: the training split.
        batches: of example ids, as :func:`afcore.data.order.epoch_batches` gives them; whole ones,
            whatever the number of workers.
        epoch: 1-based.
        schedule: of the whole training.
        seed: of the training; a step's dropout depends on it, the step and the worker alone.
        pad_token_id: of the tokenizer.
        compute: device and precision.
        policy: decides at the end of each interval; None keeps no statistics.
        intervals_per_epoch: decisions per epoch.
        validations: scores of the epochs before this one, for the policy.
        score: the main one, which may have a say in when training has settled.
        validate: called after the last step; its scores are the policy's for the last decision.
        max_grad_norm: clipping; 0 for none.
        hidden_dtype: hidden states at the boundary are rounded to it.
        read_boundary: boundary of the feed's set, at most the state's; 0 for tokens.
        feed: hidden states at ``read_boundary``.
        compile_backend: of ``torch.compile`` for the suffix; None runs it eagerly.
        group: the workers.
        micro_batch: most examples of a worker in one backward pass; None for no limit.
        stop: asked after each step; once a worker's says yes, all stop after the same step, with
            fewer ``steps`` than batches.
        solve_head: number of classes of a head that is solved before the first step of all; None:
            it begins as it is.
        done: what was trained of this epoch before; changed in place and returned.

    Raises:
        AutoFreezeError: when the loss, or a gradient at the end of an interval, is not finite.
    """
    loop = Steps(
        state=state,
        examples=examples,
        batches=batches,
        compute=compute,
        group=group,
        pad_token_id=pad_token_id,
        hidden_dtype=hidden_dtype,
        read_boundary=read_boundary,
        feed=feed,
        micro_batch=micro_batch,
        compile_backend=compile_backend,
        done=done or TrainedEpoch(),
    )
    decide = partial(
        _decide, loop.done, state, epoch, schedule, chance_loss(examples.labels), group, score
    )
    adds_up = policy is not None and policy.keeps_statistics
    ends = interval_ends(len(batches), intervals_per_epoch if adds_up else 1)
    sums = _sums(state, ends, len(loop.done.steps))
    losses = Losses(loop.done, group)
    if solve_head is not None and not state.step:
        loop.solve_head(solve_head)
    progress = _Progress(epoch, schedule.num_epochs, len(batches), len(loop.done.steps))
    for number, ids, hidden in loop.shares():
        compute.seed(seed, epoch, number, group.rank)
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
        if number in ends or number % _STEPS_PER_READING == 0:
            losses.read()
        if number in ends:
            _check_finite(norms)
        if policy is not None and number in ends and number < len(batches):
            decide(sums, policy, validations)
            begin, end = interval_around(ends, number)
            sums.begin(end - begin)
            if state.freeze.boundary != boundary:
                loop.change_boundary()
        loop.watch.lap("suffix")
        stopping = group.wants_to_stop(stop()) and number < len(batches)
        if stopping or number == len(batches) or progress.is_due():
            # Workers read together or not at all, and their clocks differ.
            if stopping or number == len(batches) or group.count == 1:
                losses.read()
            progress.show(number, loop.done.steps, state)
        if stopping:
            break
    group.pending_stop()
    done = loop.finish()
    if len(done.steps) < len(batches):
        state.sums = sums
        return done
    state.sums = None
    if validate is not None:
        clock = time.perf_counter()
        done.validation = validate()
        done.evaluate_seconds = time.perf_counter() - clock
        validations = (*validations, done.validation)
    if policy is not None:
        decide(sums, policy, validations)
        loop.drop_frozen()
    if (policy is None or not policy.stops) and schedule.ends_cycle(epoch) and validations:
        losses_seen = [scores["loss"] for scores in validations]
        settled = has_settled(losses_seen, errors=remaining_errors(score, validations))
        state.freeze = replace(state.freeze, settled=settled)
    return done


class _Progress:
    """A line in the log every few seconds."""

    def __init__(self, epoch: int, num_epochs: int, num_steps: int, first: int) -> None:
        self._epochs = (epoch, num_epochs)
        self._num_steps = num_steps
        self._first = first
        self._began = self._shown = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._shown > _PROGRESS_SECONDS

    def show(self, number: int, steps: list[StepLog], state: TrainingState) -> None:
        self._shown = time.monotonic()
        seconds = self._shown - self._began
        losses = [step.loss for step in steps[-20:]]
        _log.info(
            "epoch %d/%d  step %d/%d  loss %.3f  boundary %d of %d  %.0f s left",
            *(*self._epochs, number, self._num_steps, np.mean(losses) if losses else math.nan),
            *(state.freeze.boundary, state.split.num_blocks),
            seconds / (number - self._first) * (self._num_steps - number),
        )


def _sums(state: TrainingState, ends: list[int], num_done: int) -> GradientSums:
    """New ones, or those of the interval in which the epoch was stopped."""
    if state.sums is not None:
        return state.sums
    before, after = interval_around(ends, num_done)
    return GradientSums(state.split, after - before)


def _check_finite(norms: dict[nn.Parameter, Tensor]) -> None:
    """Of the last step before a commit: those of earlier ones show in the losses after them."""
    if norms and not torch.stack(list(norms.values())).isfinite().all():
        raise diverged("gradients are not finite")


def _decide(
    done: TrainedEpoch,
    state: TrainingState,
    epoch: int,
    schedule: Schedule,
    chance: float,
    group: WorkerGroup,
    score: str,
    sums: GradientSums,
    policy: FreezePolicy,
    validations: tuple[dict[str, float], ...],
) -> None:
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
        train_loss=float(np.mean(losses)),
        train_loss_error=float(np.std(losses, ddof=1) / math.sqrt(len(losses)))
        if len(losses) > 1
        else 0.0,
        validation_losses=tuple(scores["loss"] for scores in validations),
        chance_loss=chance,
        validation_errors=remaining_errors(score, validations),
    )
    before, decision = state.freeze.boundary, None
    if before < state.split.num_blocks - 1 or not policy.keeps_statistics:
        state.freeze, decision = policy.decide(state.freeze, statistics)
    done.intervals.append(Interval(time.time(), statistics, decision))
    group.check_same("freeze decision", state.freeze.boundary)
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
