"""The loop of one epoch: prefix or feed, suffix, statistics, decisions. Commits nothing.

The prefix runs in eval mode under ``no_grad`` (not ``inference_mode``: its outputs enter a
backward pass); the suffix is trained. At the end of every interval the policy decides, and when
the boundary grew the optimizer drops what froze and keeps the rest's moments.

Each worker runs this loop over the same batches, on its share of each (:mod:`afcore.group`).
"""

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.activations.codec import HiddenDtype, round_block, round_hidden
from afcore.blocks import Batch, SplitModel
from afcore.compile import Backend, SuffixCompiler
from afcore.compute import Compute
from afcore.data.prepare import Examples
from afcore.errors import AutoFreezeError
from afcore.feed import HiddenFeed
from afcore.freezing.decisions import FreezeDecision, FreezePolicy, FreezeState, IntervalStatistics
from afcore.gradients import GradientSums, clip_gradients, norms_of_gradients
from afcore.group import ALONE, Suffix, WorkerGroup
from afcore.optimizer import SuffixOptimizer
from afcore.stopwatch import Stopwatch
from afcore.tasks.text_classification import classification_loss, collate

__all__ = ["Interval", "StepLog", "TrainedEpoch", "TrainingState", "interval_ends", "train_epoch"]

_PROGRESS_SECONDS = 5.0
_STEPS_PER_READING = 50
_log = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """What an epoch changes; ``sums`` are there where it was stopped within an interval."""

    split: SplitModel
    optimizer: SuffixOptimizer
    freeze: FreezeState
    step: int = 0
    sums: GradientSums | None = None


@dataclass(frozen=True)
class StepLog:
    """One step; ``time`` in seconds since the epoch (UTC)."""

    step: int
    time: float
    loss: float
    learning_rate: float
    boundary: int


@dataclass(frozen=True)
class Interval:
    """One interval's statistics and the decision at its end (None: none was due)."""

    epoch: int
    time: float
    statistics: IntervalStatistics
    decision: FreezeDecision | None


@dataclass
class TrainedEpoch:
    """What an epoch of training gives, beside the changed state; of part of one, if it stopped.

    Tokens (times blocks, without padding) and bytes are those of all workers together, seconds and
    ``bytes_reduced`` (of gradients, averaged over the workers) those of this one.
    """

    prefix_seconds: float = 0.0
    suffix_seconds: float = 0.0
    read_seconds: float = 0.0
    train_seconds: float = 0.0
    prefix_block_tokens: int = 0
    suffix_block_tokens: int = 0
    activation_bytes_read: int = 0
    bytes_reduced: int = 0
    steps: list[StepLog] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)

    @property
    def mean_loss(self) -> float:
        """Mean over the steps."""
        return float(np.mean([step.loss for step in self.steps]))


def interval_ends(num_steps: int, intervals: int) -> list[int]:
    """Steps (1-based, within the epoch) after which a decision is due; the last always is one."""
    return sorted({round((i + 1) * num_steps / intervals) for i in range(intervals)} - {0})


def train_epoch(
    state: TrainingState,
    examples: Examples,
    batches: list[npt.NDArray[np.int64]],
    *,
    epoch: int,
    num_epochs: int,
    seed: int,
    pad_token_id: int,
    compute: Compute,
    policy: FreezePolicy | None,
    intervals_per_epoch: int,
    validation_losses: tuple[float, ...] = (),
    learning_rate_factor: Callable[[int, int], float],
    max_grad_norm: float,
    hidden_dtype: HiddenDtype,
    read_boundary: int = 0,
    feed: HiddenFeed | None = None,
    compile_backend: Backend | None = None,
    group: WorkerGroup = ALONE,
    micro_batch: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    done: TrainedEpoch | None = None,
) -> TrainedEpoch:
    """Train on ``batches`` in their order.

    Args:
        state: changed in place.
        examples: the training split.
        batches: of example ids, as :func:`afcore.data.order.epoch_batches` gives them; whole ones,
            whatever the number of workers.
        epoch: 1-based.
        num_epochs: of the whole training.
        seed: of the training; a step's dropout depends on it, the step and the worker alone.
        pad_token_id: of the tokenizer.
        compute: device and precision.
        policy: decides at the end of each interval; None keeps no statistics.
        intervals_per_epoch: decisions per epoch.
        validation_losses: of the epochs before this one, for the policy.
        learning_rate_factor: from (step counted from 0, total steps).
        max_grad_norm: clipping; 0 for none.
        hidden_dtype: hidden states at the boundary are rounded to it.
        read_boundary: boundary of the feed's set, at most the state's; 0 for tokens.
        feed: hidden states at ``read_boundary``.
        compile_backend: of ``torch.compile`` for the suffix; None runs it eagerly.
        group: the workers.
        micro_batch: most examples of a worker in one backward pass; None for no limit.
        stop: asked after each step; once a worker's says yes, all stop after the same step, with
            fewer ``steps`` than batches.
        done: what was trained of this epoch before; changed in place and returned.

    Raises:
        AutoFreezeError: when the loss is no longer finite.
    """
    loop = _Loop(
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
    total_steps = num_epochs * len(batches)
    decide = partial(_decide, loop.done, state, epoch, total_steps, validation_losses, group)
    ends = interval_ends(len(batches), intervals_per_epoch)
    sums = _sums(state, ends, len(loop.done.steps))
    losses = _Losses(loop.done, group)
    progress = _Progress(epoch, num_epochs, len(batches), len(loop.done.steps))
    for number, ids, hidden in loop.shares():
        compute.seed(seed, epoch, number, group.rank)
        boundary = state.freeze.boundary
        loss = loop.backward(ids, hidden)
        norms = {}
        if policy is not None or max_grad_norm:
            norms = norms_of_gradients(state.optimizer.parameters)
        if policy is not None:
            sums.add(norms)
        if max_grad_norm:
            clip_gradients(norms, max_grad_norm)
        rate = state.optimizer.step(learning_rate_factor(state.step, total_steps))
        state.step += 1
        losses.add(StepLog(state.step, time.time(), math.nan, rate, boundary), loss)
        if number in ends or number % _STEPS_PER_READING == 0:
            losses.read()
        if policy is not None and number in ends:
            decide(sums, policy)
            sums.begin(next((end for end in ends if end > number), number) - number)
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
    state.sums = sums if len(loop.done.steps) < len(batches) else None
    group.pending_stop()
    return loop.finish()


class _Loop:
    """Batches in, gradients out: everything of a step but what is done with its gradients."""

    def __init__(
        self,
        *,
        state: TrainingState,
        examples: Examples,
        batches: list[npt.NDArray[np.int64]],
        compute: Compute,
        group: WorkerGroup,
        pad_token_id: int,
        hidden_dtype: HiddenDtype,
        read_boundary: int,
        feed: HiddenFeed | None,
        micro_batch: int | None,
        compile_backend: Backend | None,
        done: TrainedEpoch,
    ) -> None:
        self.done = done
        self._state = state
        self._split = state.split
        self._examples = examples
        self._batches = batches
        self._compute = compute
        self._group = group
        self._pad_token_id = pad_token_id
        self._dtype: HiddenDtype = hidden_dtype
        self._read_boundary = read_boundary
        self._feed = feed
        self._micro_batch = micro_batch
        self._split.set_training(state.freeze.boundary)
        self._compiler = SuffixCompiler(self._split, compile_backend)
        self._compiler.compile(state.freeze.boundary)
        self._suffix = Suffix(self._split, group)
        self._suffix.wrap()
        self.watch = Stopwatch(compute.device)

    def shares(self) -> Iterator[tuple[int, npt.NDArray[np.int64], Tensor | None]]:
        """For each batch to come: its number from 1, its ids, the share's hidden states if fed."""
        first = len(self.done.steps)
        left = self._batches[first:]
        hidden_states: Iterator[Tensor | None] = itertools.repeat(None)
        if self._feed is not None:
            hidden_states = self._feed.batches([self._group.share(ids) for ids in left])
        for number, ids in enumerate(left, start=first + 1):
            self.watch.start()
            hidden = next(hidden_states)
            if self._feed is not None:
                self.done.activation_bytes_read += self._feed.batch_bytes(ids)
            yield number, ids, hidden

    def backward(self, ids: npt.NDArray[np.int64], hidden: Tensor | None) -> Tensor:
        """Leave the batch's gradients behind; its share of the loss stays on the device."""
        boundary, share = self._state.freeze.boundary, self._group.share(ids)
        batch, labels = collate(self._examples, share, self._pad_token_id, self._compute.device)
        self.watch.lap("read")
        if boundary:
            hidden = self._run_prefix(batch, boundary, hidden)
        self.watch.lap("prefix")
        size = self._micro_batch or len(share)
        starts = range(0, len(share), size)
        losses = []
        for start in starts:
            part = slice(start, start + size)
            last = start == starts[-1]
            with contextlib.nullcontext() if last else self._suffix.accumulating():
                losses.append(self._backward(batch, labels, hidden, part, len(ids)))
        num_tokens = int(self._examples.lengths[ids].sum())
        self.done.prefix_block_tokens += num_tokens * (boundary - self._read_boundary)
        self.done.suffix_block_tokens += num_tokens * (self._split.num_blocks - boundary)
        return sum(losses[1:], start=losses[0])

    def _backward(
        self, batch: Batch, labels: Tensor, hidden: Tensor | None, part: slice, batch_size: int
    ) -> Tensor:
        some = {name: values[part] for name, values in batch.items()}
        with self._compute.autocast():
            logits = self._suffix.logits(
                some, self._state.freeze.boundary, None if hidden is None else hidden[part]
            )
        weight = self._group.weight(batch_size, len(logits))
        loss = classification_loss(logits, labels[part]) * weight
        loss.backward()
        return loss.detach()

    def _run_prefix(self, batch: Batch, boundary: int, hidden: Tensor | None) -> Tensor:
        if hidden is not None and boundary == self._read_boundary:
            return hidden
        with torch.no_grad(), self._compute.autocast():
            rounding = partial(round_block, dtype=self._dtype)
            hidden = self._split.hidden(batch, boundary, self._read_boundary, hidden, rounding)
            return round_hidden(hidden, self._dtype)

    def change_boundary(self) -> None:
        """Train what is above the new boundary; let go of what was kept for the rest."""
        self._split.set_training(self._state.freeze.boundary)
        self._state.optimizer.drop_frozen()
        self._compiler.compile(self._state.freeze.boundary)
        self._suffix.wrap()
        self._compute.release_memory()

    def finish(self) -> TrainedEpoch:
        """Release what is compiled; add up the seconds."""
        self._compiler.release()
        seconds, done = self.watch.seconds(), self.done
        done.read_seconds += seconds.get("read", 0.0)
        done.prefix_seconds += seconds.get("prefix", 0.0)
        done.suffix_seconds += seconds.get("suffix", 0.0)
        done.train_seconds = done.read_seconds + done.prefix_seconds + done.suffix_seconds
        done.bytes_reduced += self._suffix.bytes_reduced
        return done


class _Losses:
    """Losses on their way to the log; they are read together, as each reading waits."""

    def __init__(self, done: TrainedEpoch, group: WorkerGroup) -> None:
        self._steps = done.steps
        self._group = group
        self._waiting: list[tuple[StepLog, Tensor]] = []

    def add(self, step: StepLog, loss: Tensor) -> None:
        self._waiting.append((step, loss))

    def read(self) -> None:
        """Complete the log of the steps so far; every worker must."""
        if not self._waiting:
            return
        values = self._group.mean(torch.stack([loss for _, loss in self._waiting])).tolist()
        for (step, _), value in zip(self._waiting, values, strict=True):
            if not math.isfinite(value):
                raise _diverged(f"the loss at step {step.step} is {value}")
            self._steps.append(replace(step, loss=value))
        self._waiting.clear()


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
    before = max((end for end in ends if end <= num_done), default=0)
    after = next((end for end in ends if end > num_done), before)
    return GradientSums(state.split, after - before)


def _diverged(what: str) -> AutoFreezeError:
    return AutoFreezeError(
        f"{what}: training diverged. Lower training.learning_rate, or set training.precision to "
        "fp32."
    )


def _decide(
    done: TrainedEpoch,
    state: TrainingState,
    epoch: int,
    total_steps: int,
    validation_losses: tuple[float, ...],
    group: WorkerGroup,
    sums: GradientSums,
    policy: FreezePolicy,
) -> None:
    steps = done.steps[-sums.num_steps :]
    losses = [step.loss for step in steps]
    statistics = IntervalStatistics(
        **sums.finish(),
        num_steps=len(steps),
        step=state.step,
        total_steps=total_steps,
        learning_rate=float(np.mean([step.learning_rate for step in steps])),
        epoch=epoch,
        train_loss=float(np.mean(losses)),
        train_loss_error=float(np.std(losses, ddof=1) / math.sqrt(len(losses)))
        if len(losses) > 1
        else 0.0,
        validation_losses=validation_losses,
    )
    if not all(map(math.isfinite, statistics.gradient_norms)):
        raise _diverged("gradients are not finite")
    before = state.freeze.boundary
    state.freeze, decision = policy(state.freeze, statistics)
    done.intervals.append(Interval(epoch, time.time(), statistics, decision))
    group.check_same("freeze decision", state.freeze.boundary)
    if decision is not None:
        _log.info(
            "decision at step %d: boundary %d -> %d, threshold %.3g, eta %s",
            *(state.step, before, state.freeze.boundary, decision.threshold),
            " ".join(f"{eta:.3g}" for eta in decision.eta),
        )
