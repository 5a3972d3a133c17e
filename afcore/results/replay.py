"""What another policy would have decided on a recorded run, and how noisy its statistics are.

The statistics are those of the run as it was trained: a policy that would have frozen other blocks
would, from then on, have seen somewhat other ones. A run in mode ``freeze`` with the policy
``none`` trains everything and records everything, so any policy can be replayed on it. On a run
that froze, a replay ends where it would need the statistics of a block that had been frozen there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from afcore.freezing.gradient_norm import relative_change
from afcore.freezing.guarded import coherence
from afcore.freezing.policy import PER_BLOCK, FreezePolicy, IntervalStatistics
from afcore.results.report import RunReport

__all__ = ["EtaNoise", "Replay", "ReplayedInterval", "eta_noise", "replay"]


@dataclass(frozen=True)
class ReplayedInterval:
    """One interval of a replay.

    Attributes:
        step: steps done at its end.
        epoch: it belongs to.
        eta: L numbers, the change to the interval before; NaN where there is none.
        half_eta: L numbers, the change from the first half of this interval to its second.
        coherence: L numbers, of its gradients; 1 is noise, 0 where there are none.
        recorded: boundary after it, in the recorded run.
        replayed: boundary after it, by the policy.
        settled: whether training would have ended there, were a cycle of the learning rate over.
    """

    step: int
    epoch: int
    eta: tuple[float, ...]
    half_eta: tuple[float, ...]
    coherence: tuple[float, ...]
    recorded: int
    replayed: int
    settled: bool


@dataclass(frozen=True)
class Replay:
    """A replay; ``ended_early`` says why it stopped before the run's end, if it did."""

    intervals: list[ReplayedInterval]
    ended_early: str | None


@dataclass(frozen=True)
class EtaNoise:
    """How much of eta is noise.

    Attributes:
        num_values: etas looked at, all intervals and blocks.
        median_eta: their median.
        median_half_eta: median of the changes between the halves of one interval.
        share_within_noise: share of etas that are no larger than the change between the halves of
            their own interval.
        first_coherence: median over blocks in the first interval.
        later_coherence: median over blocks and later intervals.
    """

    num_values: int
    median_eta: float
    median_half_eta: float
    share_within_noise: float
    first_coherence: float
    later_coherence: float


def replay(report: RunReport, policy: FreezePolicy) -> Replay:
    """Run a policy over the recorded intervals.

    Args:
        report: of the recorded run.
        policy: to replay.

    Raises:
        ValueError: where the policy leaves no block of the run's model to train.
    """
    state = policy.begin(report.num_blocks)
    after = {decision.step: decision.boundary_after for decision in report.decisions}
    recorded = report.epochs[0].boundary_start
    previous: IntervalStatistics | None = None
    rows: list[ReplayedInterval] = []
    last_steps = {interval.epoch: interval.step for interval in report.intervals}
    for interval in report.intervals:
        if policy.keeps_statistics and state.boundary < recorded:
            return Replay(
                rows,
                f"from step {interval.step - interval.num_steps} on the run had "
                f"{recorded} blocks frozen and the policy {state.boundary}: there are no "
                "statistics of the blocks between. Record a run with --set mode=freeze --set "
                "freezing.policy=none to replay to the end.",
            )
        statistics = _unfrozen(interval, state.boundary)
        coherences = coherence(statistics)
        ends_epoch = interval.step == last_steps[interval.epoch]
        if policy.decides and (policy.keeps_statistics or ends_epoch):
            state, _ = policy.decide(state, statistics)
        recorded = after.get(interval.step, recorded)
        rows.append(
            ReplayedInterval(
                interval.step,
                interval.epoch,
                _eta(previous, interval),
                _half_eta(interval),
                coherences,
                recorded,
                state.boundary,
                state.settled,
            )
        )
        previous = interval
    return Replay(rows, None)


def _half_eta(interval: IntervalStatistics) -> tuple[float, ...]:
    """As eta, of the halves of one interval; the first has a step less when their number is odd."""
    steps = interval.num_steps // 2
    rest = interval.num_steps - steps
    return tuple(
        relative_change(first / steps, second / rest) if first else math.nan
        for first, second in zip(interval.first_half_norms, interval.second_half_norms, strict=True)
    )


def eta_noise(intervals: Sequence[ReplayedInterval]) -> EtaNoise:
    """Compare the change between intervals with the change inside of them."""
    eta = np.array([row.eta for row in intervals], dtype=float)
    half = np.array([row.half_eta for row in intervals], dtype=float)
    known = np.isfinite(eta) & np.isfinite(half)
    if not known.any():
        return EtaNoise(0, *(math.nan,) * 5)
    eta, half = eta[known], half[known]
    coherences = np.array([row.coherence for row in intervals])
    later = coherences[1:]
    return EtaNoise(
        num_values=eta.size,
        median_eta=float(np.median(eta)),
        median_half_eta=float(np.median(half)),
        share_within_noise=float((eta <= half).mean()),
        first_coherence=float(np.median(coherences[0])),
        later_coherence=float(np.median(later[later > 0])),
    )


def _unfrozen(interval: IntervalStatistics, boundary: int) -> IntervalStatistics:
    """As the policy would have seen them: nothing of what it has frozen."""
    shown = {name: (0.0,) * boundary + getattr(interval, name)[boundary:] for name in PER_BLOCK}
    return interval.model_copy(update=shown)


def _eta(previous: IntervalStatistics | None, now: IntervalStatistics) -> tuple[float, ...]:
    if previous is None:
        return (math.nan,) * len(now.gradient_norms)
    return tuple(
        relative_change(before / previous.num_steps, after / now.num_steps)
        if before and after
        else math.nan
        for before, after in zip(previous.gradient_norms, now.gradient_norms, strict=True)
    )
