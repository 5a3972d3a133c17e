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
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.activations.sets import HiddenDtype
from afcore.blocks import Batch, SplitModel
from afcore.compute import Compute, round_hidden
from afcore.data.prepare import Examples
from afcore.errors import AutoFreezeError
from afcore.feed import HiddenFeed
from afcore.freezing import FreezeDecision, FreezePolicy, FreezeState, IntervalStatistics
from afcore.gradients import GradientSums
from afcore.optimizer import SuffixOptimizer
from afcore.tasks.text_classification import classification_loss, collate

__all__ = ["Interval", "StepLog", "TrainedEpoch", "TrainingState", "interval_ends", "train_epoch"]

_PROGRESS_SECONDS = 5.0
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


def interval_ends(num_steps: int, intervals: int) -> set[int]:
    """Steps (1-based, within the epoch) after which a decision is due; the last always is one."""
    return {round((i + 1) * num_steps / intervals) for i in range(intervals)} - {0}


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
    learning_rate_factor: Callable[[int, int], float],
    max_grad_norm: float,
    hidden_dtype: HiddenDtype,
    read_boundary: int = 0,
    feed: HiddenFeed | None = None,
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
        learning_rate_factor: from (step counted from 0, total steps).
        max_grad_norm: clipping; 0 for none.
        hidden_dtype: hidden states at the boundary are rounded to it.
        read_boundary: boundary of the feed's set, at most the state's; 0 for tokens.
        feed: hidden states at ``read_boundary``.

    Raises:
        AutoFreezeError: when the loss is no longer finite.
    """
    done = TrainedEpoch()
    split, total_steps = state.split, num_epochs * len(batches)
    ends = interval_ends(len(batches), intervals_per_epoch)
    compute.seed(seed, epoch)
    split.set_training(state.freeze.boundary)
    sums = GradientSums(split)
    hidden_states = feed.batches(batches) if feed is not None else itertools.repeat(None)
    began = shown = time.monotonic()
    for number, ids in enumerate(batches, start=1):
        boundary = state.freeze.boundary
        clock = time.perf_counter()
        batch, labels = collate(examples, ids, pad_token_id, compute.device)
        hidden = next(hidden_states)
        if feed is not None:
            done.activation_bytes_read += feed.batch_bytes(ids)
        clock = _lap(done, "read_seconds", clock, compute)
        if boundary:
            hidden = _run_prefix(
                split, batch, boundary, read_boundary, hidden, hidden_dtype, compute
            )
        clock = _lap(done, "prefix_seconds", clock, compute)
        loss = _backward(split, batch, labels, boundary, hidden, compute)
        if policy is not None:
            sums.add()
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_(state.optimizer.parameters, max_grad_norm)
        rate = state.optimizer.step(learning_rate_factor(state.step, total_steps))
        state.step += 1
        done.steps.append(StepLog(state.step, time.time(), loss, rate, boundary))
        num_tokens = int(examples.lengths[ids].sum())
        done.prefix_block_tokens += num_tokens * (boundary - read_boundary)
        done.suffix_block_tokens += num_tokens * (split.num_blocks - boundary)
        if policy is not None and number in ends:
            _decide(done, state, sums, policy, epoch, total_steps)
        _lap(done, "suffix_seconds", clock, compute)
        if time.monotonic() - shown > _PROGRESS_SECONDS or number == len(batches):
            shown = time.monotonic()
            left = (shown - began) / number * (len(batches) - number)
            _log.info(
                "epoch %d/%d  step %d/%d  loss %.3f  boundary %d of %d  %.0f s left",
                *(epoch, num_epochs, number, len(batches)),
                *(np.mean([step.loss for step in done.steps[-20:]]), state.freeze.boundary),
                *(split.num_blocks, left),
            )
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
        return round_hidden(split.hidden(batch, boundary, read_boundary, hidden), dtype)


def _backward(
    split: SplitModel,
    batch: Batch,
    labels: Tensor,
    boundary: int,
    hidden: Tensor | None,
    compute: Compute,
) -> float:
    with compute.autocast():
        logits = split.logits(batch, boundary, hidden)
    loss = classification_loss(logits, labels)
    loss.backward()
    value = float(loss.detach())
    if not math.isfinite(value):
        raise _diverged(f"the loss is {value}")
    return value


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
) -> None:
    statistics = IntervalStatistics(sums.norms(), sums.num_steps, state.step, total_steps)
    if not all(map(math.isfinite, statistics.gradient_norms)):
        raise _diverged("gradients are not finite")
    before = state.freeze.boundary
    state.freeze, decision = policy(state.freeze, statistics)
    sums.reset()
    done.intervals.append(Interval(epoch, time.time(), statistics, decision))
    if decision is not None:
        _log.info(
            "decision at step %d: boundary %d -> %d, threshold %.3g, eta %s",
            *(state.step, before, state.freeze.boundary, decision.threshold),
            " ".join(f"{eta:.3g}" for eta in decision.eta),
        )
    if state.freeze.boundary > before:
        state.split.set_training(state.freeze.boundary)
        state.optimizer.drop_frozen()


def _lap(done: TrainedEpoch, name: str, since: float, compute: Compute) -> float:
    compute.synchronize()
    now = time.perf_counter()
    setattr(done, name, getattr(done, name) + now - since)
    return now
