"""What a training would take for given boundaries: epoch after epoch of :mod:`.timing`.

A **trace** says which boundary is in force in each interval of each epoch. What a policy will
decide is not known beforehand, so a forecast is made for the ends of what it may, which the policy
itself knows (``possible_traces`` of :mod:`afcore.freezing.policy`). No I/O, no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from afcore.cost import Prices
from afcore.planning.resources import MemoryModel, ResourceDecision, choose_resources
from afcore.planning.scaling import (
    Build,
    RunWork,
    WorkersForecast,
    build_seconds_on,
    forecast_workers,
)
from afcore.planning.source import SourceDecision, choose_source
from afcore.planning.timing import Profile, build_seconds, forecast_epoch

__all__ = [
    "BoundaryForecast",
    "PlannedEpoch",
    "Resources",
    "RunForecast",
    "RunWork",
    "Trace",
    "forecast_boundaries",
    "forecast_run",
]

Trace = Sequence[Sequence[int]]


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
    """One epoch of a forecast.

    Attributes:
        epoch: its number.
        boundary_start: blocks frozen at its start.
        boundary_end: at its end.
        read_boundary: of the set that it reads; 0 for tokens.
        num_workers: it runs on.
        train_seconds: with ``allreduce_seconds``.
        allreduce_seconds: exchanging gradients.
        materialize_seconds: of the set that it reads, if it has to be built.
        other_seconds: start, checkpoint and evaluation.
        activation_bytes_written: of that set.
        worker_seconds: workers times seconds.
        cost_usd: of all of it.
        resources: why it has these workers; None where there was nothing to choose.
    """

    epoch: int
    boundary_start: int
    boundary_end: int
    read_boundary: int
    num_workers: int
    train_seconds: float
    allreduce_seconds: float
    materialize_seconds: float
    other_seconds: float
    activation_bytes_written: int
    worker_seconds: float
    cost_usd: float
    resources: ResourceDecision | None = None


class RunForecast(_Record):
    """A training in one mode along one trace.

    ``other_seconds`` are starts of workers, checkpoints and evaluation, the test included. What
    surrounds the epochs (loading, orchestration, tracking, publishing) is not predicted.
    """

    mode: str
    case: str
    epochs: list[PlannedEpoch]
    train_seconds: float
    materialize_seconds: float
    other_seconds: float
    activation_bytes_written: int
    worker_seconds: float
    cost_usd: float

    @property
    def seconds(self) -> float:
        """All that is predicted."""
        return self.train_seconds + self.materialize_seconds + self.other_seconds

    @property
    def feasible(self) -> bool:
        """Memory held every epoch, and a deadline or a budget was kept."""
        return all(epoch.resources is None or epoch.resources.feasible for epoch in self.epochs)


@dataclass(frozen=True)
class Resources:
    """What a training may use; the default is one worker, and nothing to choose.

    Attributes:
        max_workers: modes that do not choose have all of them.
        batch_size: examples of a step over all workers.
        min_workers: fewest.
        micro_batch: most examples of a worker in one pass.
        memory: of a worker's device.
        deadline_seconds: for the whole training.
        budget_usd: the same.
    """

    max_workers: int = 1
    batch_size: int = 1
    min_workers: int = 1
    micro_batch: int | None = None
    memory: MemoryModel | None = None
    deadline_seconds: float | None = None
    budget_usd: float | None = None


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
    resources: Resources | None = None,
) -> RunForecast:
    """Follow a trace; before each epoch its source and its workers are chosen as a run would.

    Args:
        profile: as measured.
        work: of the training.
        trace: boundaries by epoch and interval.
        mode: ``full``, ``freeze``, ``cached``, ``performance`` or ``efficiency``.
        case: what the trace is, in words.
        cache_mode: ``on`` has every set, ``off`` none, ``auto`` those that pay.
        prices: in dollars.
        resources: what may be used; None: one worker.
    """
    resources = resources or Resources()
    caches = mode in ("cached", "performance", "efficiency") and cache_mode != "off"
    epochs: list[PlannedEpoch] = []
    decision: SourceDecision | None = None
    for number, boundaries in enumerate(trace, start=1):
        builders = epochs[-1].num_workers if epochs else resources.max_workers
        before = decision.read_boundary if decision else 0
        first, last = number == 1, number == len(trace)
        choices: dict[str, Any] = {
            "mode": mode,
            "prices": prices,
            "epochs_left": len(trace) - number + 1,
            "first": first,
            "last": last,
            **_left(resources, epochs),
        }
        start = boundaries[0]
        if caches:
            decision = _choose(
                profile,
                work,
                start,
                read_boundary=before,
                epochs_left=len(trace) - number + 1,
                # Sets of another training hold what was frozen before the first step.
                exists=start == trace[0][0] and start in work.existing,
                always=cache_mode == "on",
                # As many as would be chosen if the set were there.
                num_workers=choose_resources(profile, work, start, start, **choices).num_workers,
                build_workers=builders,
            )
        read_boundary = decision.read_boundary if decision else 0
        build = None
        if decision and decision.build_seconds:
            build = Build(start, before, builders)
        chosen = choose_resources(profile, work, start, read_boundary, **choices)
        forecast = forecast_workers(
            profile,
            work,
            boundaries,
            num_workers=chosen.num_workers,
            read_boundary=read_boundary,
            statistics=work.statistics and mode != "full",
            prices=prices,
            accumulation=chosen.accumulation,
            build=build,
            first=first,
            last=last,
        )
        planned = _planned_epoch(number, boundaries, read_boundary, forecast)
        if resources.max_workers > 1:
            planned = planned.model_copy(update={"resources": chosen})
        epochs.append(planned)
    return RunForecast(
        mode=mode,
        case=case,
        epochs=epochs,
        train_seconds=sum(epoch.train_seconds for epoch in epochs),
        materialize_seconds=sum(epoch.materialize_seconds for epoch in epochs),
        other_seconds=sum(epoch.other_seconds for epoch in epochs),
        activation_bytes_written=sum(epoch.activation_bytes_written for epoch in epochs),
        worker_seconds=sum(epoch.worker_seconds for epoch in epochs),
        cost_usd=sum(epoch.cost_usd for epoch in epochs),
    )


def _choose(
    profile: Profile,
    work: RunWork,
    boundary: int,
    *,
    read_boundary: int,
    epochs_left: int,
    exists: bool,
    always: bool,
    num_workers: int,
    build_workers: int,
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
        num_workers=num_workers,
        build_workers=build_workers,
    )
    if not always or "set" not in decision.totals:
        return decision
    build = (
        0.0
        if exists
        else build_seconds_on(profile, work.epoch, boundary, read_boundary, build_workers)
    )
    return decision.model_copy(
        update={"source": "set", "read_boundary": boundary, "build_seconds": build}
    )


def _left(resources: Resources, epochs: Sequence[PlannedEpoch]) -> dict[str, Any]:
    """What may be used, less what was."""
    left = dict(vars(resources))
    if resources.deadline_seconds is not None:
        spent = sum(e.train_seconds + e.materialize_seconds + e.other_seconds for e in epochs)
        left["deadline_seconds"] = resources.deadline_seconds - spent
    if resources.budget_usd is not None:
        left["budget_usd"] = resources.budget_usd - sum(epoch.cost_usd for epoch in epochs)
    return left


def _planned_epoch(
    number: int, boundaries: Sequence[int], read_boundary: int, forecast: WorkersForecast
) -> PlannedEpoch:
    other = forecast.startup_seconds + forecast.checkpoint_seconds + forecast.evaluate_seconds
    return PlannedEpoch(
        epoch=number,
        boundary_start=boundaries[0],
        boundary_end=boundaries[-1],
        read_boundary=read_boundary,
        num_workers=forecast.num_workers,
        train_seconds=forecast.train_seconds,
        allreduce_seconds=forecast.allreduce_seconds,
        materialize_seconds=forecast.materialize_seconds,
        other_seconds=other,
        activation_bytes_written=forecast.set_bytes_written,
        worker_seconds=forecast.worker_seconds,
        cost_usd=forecast.cost_usd,
    )
