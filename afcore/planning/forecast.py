"""What a training would take for given boundaries: epoch after epoch of :mod:`.timing`.

A **trace** says which boundary is in force in each interval of each epoch. What a policy will
decide is not known beforehand, so a forecast is made for the two ends of what it may: nothing
freezes, and all but the last block freeze at the first decision. No I/O, no torch.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from afcore.cost import Prices, Usage, cost_usd
from afcore.freezing.choose import resolve_depth
from afcore.planning.source import SourceDecision, choose_source
from afcore.planning.timing import (
    Profile,
    Reading,
    Work,
    build_seconds,
    forecast_epoch,
)
from afcore.report import RunReport

__all__ = [
    "BoundaryForecast",
    "RunForecast",
    "RunWork",
    "Trace",
    "forecast_boundaries",
    "forecast_run",
    "possible_traces",
    "recorded_trace",
]

Trace = Sequence[Sequence[int]]
_BYTES_OF_WEIGHT, _BYTES_OF_MOMENTS = 4, 8


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class BoundaryForecast(_Record):
    """An epoch at one boundary from its first step to its last.

    ``read_seconds`` of the epoch as a whole when it reads the set at its boundary (None at 0), and
    ``build_seconds`` of that set from tokens.
    """

    boundary: int
    compute_seconds: float
    read_seconds: float | None
    build_seconds: float | None
    set_bytes: int


class PlannedEpoch(_Record):
    """One epoch of a forecast; ``read_boundary`` is 0 for tokens."""

    epoch: int
    boundary_start: int
    boundary_end: int
    read_boundary: int
    train_seconds: float
    materialize_seconds: float
    other_seconds: float
    activation_bytes_written: int
    cost_usd: float


class RunForecast(_Record):
    """A training in one mode along one trace.

    ``other_seconds`` are checkpoints and evaluation, the test included. What surrounds the epochs
    (loading, orchestration, tracking, publishing) is not predicted.
    """

    mode: str
    case: str
    epochs: list[PlannedEpoch]
    train_seconds: float
    materialize_seconds: float
    other_seconds: float
    activation_bytes_written: int
    cost_usd: float

    @property
    def seconds(self) -> float:
        """All that is predicted."""
        return self.train_seconds + self.materialize_seconds + self.other_seconds


@dataclass(frozen=True)
class RunWork:
    """What a training goes through.

    Attributes:
        epoch: every epoch's.
        reading: of an epoch that reads a set.
        validation_tokens: scored after each epoch.
        test_tokens: scored once.
        statistics: whether a policy decides.
        existing: boundaries of sets that the store has from the start.
    """

    epoch: Work
    reading: Reading
    validation_tokens: int
    test_tokens: int
    statistics: bool
    existing: Collection[int] = ()


def forecast_boundaries(profile: Profile, work: RunWork) -> list[BoundaryForecast]:
    """An epoch at each boundary, 0 to L - 1."""

    def seconds(boundary: int, read_boundary: int) -> float:
        return forecast_epoch(
            profile,
            work.epoch,
            [boundary],
            read_boundary=read_boundary,
            reading=work.reading,
            statistics=work.statistics,
        ).train_seconds

    return [
        BoundaryForecast(
            boundary=k,
            compute_seconds=seconds(k, 0),
            read_seconds=seconds(k, k) if k else None,
            build_seconds=build_seconds(profile, work.epoch, k, 0) if k else None,
            set_bytes=work.epoch.set_bytes if k else 0,
        )
        for k in range(profile.compute.num_blocks)
    ]


def forecast_run(
    profile: Profile,
    work: RunWork,
    trace: Trace,
    *,
    mode: str,
    case: str,
    cache_mode: Literal["auto", "on", "off"],
    prices: Prices,
) -> RunForecast:
    """Follow a trace; before each epoch its source is chosen as a run would choose it.

    Args:
        profile: as measured.
        work: of the training.
        trace: boundaries by epoch and interval.
        mode: ``full``, ``freeze`` or ``cached``.
        case: what the trace is, in words.
        cache_mode: ``on`` has every set, ``off`` none, ``auto`` those that pay.
        prices: in dollars.
    """
    caches = mode == "cached" and cache_mode != "off"
    epochs: list[PlannedEpoch] = []
    decision: SourceDecision | None = None
    for number, boundaries in enumerate(trace, start=1):
        if caches:
            decision = _choose(
                profile,
                work,
                boundaries[0],
                read_boundary=decision.read_boundary if decision else 0,
                epochs_left=len(trace) - number + 1,
                # Sets of another training hold what was frozen before the first step.
                exists=boundaries[0] == trace[0][0] and boundaries[0] in work.existing,
                always=cache_mode == "on",
            )
        epochs.append(
            _planned_epoch(
                profile,
                work,
                number,
                boundaries,
                decision,
                last=number == len(trace),
                statistics=work.statistics and mode != "full",
                prices=prices,
            )
        )
    return RunForecast(
        mode=mode,
        case=case,
        epochs=epochs,
        train_seconds=sum(epoch.train_seconds for epoch in epochs),
        materialize_seconds=sum(epoch.materialize_seconds for epoch in epochs),
        other_seconds=sum(epoch.other_seconds for epoch in epochs),
        activation_bytes_written=sum(epoch.activation_bytes_written for epoch in epochs),
        cost_usd=sum(epoch.cost_usd for epoch in epochs),
    )


def possible_traces(
    policy: str,
    *,
    num_blocks: int,
    depth: int | None,
    patience: int,
    epochs: int,
    intervals: int,
) -> dict[str, list[list[int]]]:
    """Traces by what they are: one where the policy leaves no choice, else both ends.

    Args:
        policy: ``freezing.policy``; one that is not known here may freeze anything after its second
            interval.
        num_blocks: L.
        depth: ``freezing.depth``.
        patience: ``freezing.patience``.
        epochs: of the training.
        intervals: of an epoch.
    """
    count = epochs * intervals
    never = [0] * count
    if policy == "none":
        return {"nothing freezes": _by_epoch(never, intervals)}
    if policy == "static":
        boundary = resolve_depth(policy, num_blocks, depth)
        return {"as configured": _by_epoch([boundary] * count, intervals)}
    deepest = num_blocks - 1
    if policy == "linear":
        deepest = resolve_depth(policy, num_blocks, depth)
        schedule = [math.floor(deepest * done / count) for done in range(count)]
        return {"as scheduled": _by_epoch(schedule, intervals)}
    # `guarded` counts intervals from the second on; the paper's rule compares the second with it.
    undecided = min(count, 1 + (patience if policy == "guarded" else 1))
    earliest = [0] * undecided + [deepest] * (count - undecided)
    return {
        "nothing freezes": _by_epoch(never, intervals),
        "all freezes at once": _by_epoch(earliest, intervals),
    }


def recorded_trace(report: RunReport) -> list[list[int]]:
    """The trace that a run had."""
    after = {decision.step: decision.boundary_after for decision in report.decisions}
    trace = []
    for epoch in report.epochs:
        boundary, boundaries = epoch.boundary_start, []
        for interval in report.intervals:
            if interval.epoch == epoch.epoch:
                boundaries.append(boundary)
                boundary = after.get(interval.step, boundary)
        trace.append(boundaries or [boundary])
    return trace


def _choose(
    profile: Profile,
    work: RunWork,
    boundary: int,
    *,
    read_boundary: int,
    epochs_left: int,
    exists: bool,
    always: bool,
) -> SourceDecision:
    """As a run would; ``always``: the set at the boundary, whatever it costs."""
    decision = choose_source(
        profile,
        work.epoch,
        boundary=boundary,
        read_boundary=read_boundary,
        exists=exists,
        epochs_left=epochs_left,
        reading=work.reading,
        statistics=work.statistics,
    )
    if not always or "set" not in decision.totals:
        return decision
    build = 0.0 if exists else build_seconds(profile, work.epoch, boundary, read_boundary)
    return decision.model_copy(
        update={"source": "set", "read_boundary": boundary, "build_seconds": build}
    )


def _planned_epoch(
    profile: Profile,
    work: RunWork,
    number: int,
    boundaries: Sequence[int],
    decision: SourceDecision | None,
    *,
    last: bool,
    statistics: bool,
    prices: Prices,
) -> PlannedEpoch:
    read_boundary = decision.read_boundary if decision else 0
    build = decision.build_seconds if decision else 0.0
    written = decision.set_bytes if decision and build else 0
    train = forecast_epoch(
        profile,
        work.epoch,
        boundaries,
        read_boundary=read_boundary,
        reading=work.reading,
        statistics=statistics,
    ).train_seconds
    other = _other_seconds(profile, work, boundaries, first=number == 1, last=last)
    objects = 2 * (profile.compute.num_blocks + 2)
    usage = Usage(
        worker_seconds=train + build + other,
        bytes_stored=written,
        puts=_objects(profile, written) + objects,
        gets=_objects(profile, work.epoch.set_bytes if read_boundary else 0) + objects,
    )
    return PlannedEpoch(
        epoch=number,
        boundary_start=boundaries[0],
        boundary_end=boundaries[-1],
        read_boundary=read_boundary,
        train_seconds=train,
        materialize_seconds=build,
        other_seconds=other,
        activation_bytes_written=written,
        cost_usd=cost_usd(usage, prices),
    )


def _other_seconds(
    profile: Profile, work: RunWork, boundaries: Sequence[int], *, first: bool, last: bool
) -> float:
    """Writing the checkpoint (all weights at first, later what trained), and scoring."""
    compute = profile.compute
    trained = compute.num_parameters[0 if first else boundaries[0]]
    checkpoint = (
        _BYTES_OF_WEIGHT * trained + _BYTES_OF_MOMENTS * compute.num_parameters[boundaries[-1]]
    )
    tokens = work.validation_tokens + (work.test_tokens if last else 0)
    per_token = compute.inference_token + compute.num_blocks * compute.inference_block_token
    return profile.bandwidths.write_seconds(checkpoint) + tokens * per_token


def _objects(profile: Profile, num_bytes: int) -> int:
    """Of a set: two for each shard and for the index, and the manifest."""
    num_shards = math.ceil(num_bytes / profile.bandwidths.shard_bytes)
    return 2 * num_shards + 3 if num_bytes else 0


def _by_epoch(boundaries: list[int], intervals: int) -> list[list[int]]:
    return [boundaries[i : i + intervals] for i in range(0, len(boundaries), intervals)]
