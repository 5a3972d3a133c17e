"""The loop of one epoch: prefix or feed, suffix, statistics, decisions. Commits nothing.

The prefix runs in eval mode under ``no_grad`` (not ``inference_mode``: its outputs enter a
backward pass); the suffix is trained. At the end of every interval the policy decides, and when
the boundary grew the optimizer drops what froze and keeps the rest's moments.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable
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
from afcore.optimizer import SuffixOptimizer
from afcore.stopwatch import Stopwatch
from afcore.tasks.text_classification import classification_loss, collate

__all__ = ["Interval", "StepLog", "TrainedEpoch", "TrainingState", "interval_ends", "train_epoch"]

_PROGRESS_SECONDS = 5.0
_STEPS_PER_READING = 50
_log = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """What an epoch changes."""

    split: SplitModel
    optimizer: SuffixOptimizer
    freeze: FreezeState
    step: int = 0


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
    """What an epoch of training gives, beside the changed state.

    ``*_block_tokens`` count tokens times blocks, without padding.
    """

    prefix_seconds: float = 0.0
    suffix_seconds: float = 0.0
    read_seconds: float = 0.0
    train_seconds: float = 0.0
    prefix_block_tokens: int = 0
    suffix_block_tokens: int = 0
    activation_bytes_read: int = 0
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
) -> TrainedEpoch:
    """Train on ``batches`` in their order.

    Args:
        state: changed in place.
        examples: the training split.
        batches: of example ids, as :func:`afcore.data.order.epoch_batches` gives them.
        epoch: 1-based.
        num_epochs: of the whole training.
        seed: of the training; dropout depends on it and the epoch alone.
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

    Raises:
        AutoFreezeError: when the loss is no longer finite.
    """
    done = TrainedEpoch()
    losses = _Losses(done)
    split, total_steps = state.split, num_epochs * len(batches)
    ends = interval_ends(len(batches), intervals_per_epoch)
    compute.seed(seed, epoch)
    split.set_training(state.freeze.boundary)
    compiler = SuffixCompiler(split, compile_backend)
    compiler.compile(state.freeze.boundary)
    sums = GradientSums(split, ends[0])
    watch = Stopwatch(compute.device)
    hidden_states = feed.batches(batches) if feed is not None else itertools.repeat(None)
    began = shown = time.monotonic()
    for number, ids in enumerate(batches, start=1):
        boundary = state.freeze.boundary
        watch.start()
        batch, labels = collate(examples, ids, pad_token_id, compute.device)
        hidden = next(hidden_states)
        if feed is not None:
            done.activation_bytes_read += feed.batch_bytes(ids)
        watch.lap("read")
        if boundary:
            hidden = _run_prefix(
                split, batch, boundary, read_boundary, hidden, hidden_dtype, compute
            )
        watch.lap("prefix")
        loss = _backward(split, batch, labels, boundary, hidden, compute)
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
        num_tokens = int(examples.lengths[ids].sum())
        done.prefix_block_tokens += num_tokens * (boundary - read_boundary)
        done.suffix_block_tokens += num_tokens * (split.num_blocks - boundary)
        if number in ends or number % _STEPS_PER_READING == 0:
            losses.read()
        if policy is not None and number in ends:
            _decide(done, state, sums, policy, epoch, total_steps, validation_losses)
            sums.begin(next((end for end in ends if end > number), number) - number)
            if state.freeze.boundary != boundary:
                _change_boundary(state, compiler, compute)
        watch.lap("suffix")
        if time.monotonic() - shown > _PROGRESS_SECONDS or number == len(batches):
            losses.read()
            shown = time.monotonic()
            left = (shown - began) / number * (len(batches) - number)
            _log.info(
                "epoch %d/%d  step %d/%d  loss %.3f  boundary %d of %d  %.0f s left",
                *(epoch, num_epochs, number, len(batches)),
                *(np.mean([step.loss for step in done.steps[-20:]]), state.freeze.boundary),
                *(split.num_blocks, left),
            )
    compiler.release()
    seconds = watch.seconds()
    done.read_seconds, done.prefix_seconds = seconds["read"], seconds["prefix"]
    done.suffix_seconds = seconds["suffix"]
    done.train_seconds = done.read_seconds + done.prefix_seconds + done.suffix_seconds
    return done


def _run_prefix(
    split: SplitModel,
    batch: Batch,
    boundary: int,
    read_boundary: int,
    hidden: Tensor | None,
    dtype: HiddenDtype,
    compute: Compute,
) -> Tensor:
    if hidden is not None and boundary == read_boundary:
        return hidden
    with torch.no_grad(), compute.autocast():
        rounding = partial(round_block, dtype=dtype)
        hidden = split.hidden(batch, boundary, read_boundary, hidden, rounding)
        return round_hidden(hidden, dtype)


def _backward(
    split: SplitModel,
    batch: Batch,
    labels: Tensor,
    boundary: int,
    hidden: Tensor | None,
    compute: Compute,
) -> Tensor:
    """Leave gradients behind; the loss stays on the device."""
    with compute.autocast():
        logits = split.logits(batch, boundary, hidden)
    loss = classification_loss(logits, labels)
    loss.backward()
    return loss.detach()


class _Losses:
    """Losses on their way to the log; they are read together, as each reading waits."""

    def __init__(self, done: TrainedEpoch) -> None:
        self._steps = done.steps
        self._waiting: list[tuple[StepLog, Tensor]] = []

    def add(self, step: StepLog, loss: Tensor) -> None:
        self._waiting.append((step, loss))

    def read(self) -> None:
        """Complete the log of the steps so far."""
        if not self._waiting:
            return
        values = torch.stack([loss for _, loss in self._waiting]).tolist()
        for (step, _), value in zip(self._waiting, values, strict=True):
            if not math.isfinite(value):
                raise _diverged(f"the loss at step {step.step} is {value}")
            self._steps.append(replace(step, loss=value))
        self._waiting.clear()


def _diverged(what: str) -> AutoFreezeError:
    return AutoFreezeError(
        f"{what}: training diverged. Lower training.learning_rate, or set training.precision to "
        "fp32."
    )


def _decide(
    done: TrainedEpoch,
    state: TrainingState,
    sums: GradientSums,
    policy: FreezePolicy,
    epoch: int,
    total_steps: int,
    validation_losses: tuple[float, ...],
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
    if decision is not None:
        _log.info(
            "decision at step %d: boundary %d -> %d, threshold %.3g, eta %s",
            *(state.step, before, state.freeze.boundary, decision.threshold),
            " ".join(f"{eta:.3g}" for eta in decision.eta),
        )


def _change_boundary(state: TrainingState, compiler: SuffixCompiler, compute: Compute) -> None:
    """Train what is above the new boundary; let go of what was kept for the rest."""
    state.split.set_training(state.freeze.boundary)
    state.optimizer.drop_frozen()
    compiler.compile(state.freeze.boundary)
    compute.release_memory()
