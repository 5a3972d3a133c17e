"""A recorded training on a described cluster: every mode, on one worker up to all. No I/O."""

from collections.abc import Sequence
from dataclasses import replace

from afcore.cost import Prices
from afcore.planning.choose_workers import Standing, worker_counts
from afcore.planning.described import Cluster, Workload, describe
from afcore.planning.profile import Record
from afcore.planning.run_forecast import RunForecast, Trace, forecast_run

__all__ = ["MODES", "SimulatedRun", "Simulation", "scale_trace", "simulate"]

MODES = ("full", "freeze", "cached", "performance", "efficiency")


class SimulatedRun(Record):
    """One mode with so many workers at most.

    Attributes:
        mode: of execution.
        max_workers: modes that do not choose have all of them.
        epoch_workers: by epoch.
        epoch_seconds: by epoch.
        read_boundaries: of the set that each epoch reads; 0 for tokens.
        seconds: of the training.
        cost_usd: the same.
        fits: every epoch is within the memory of its workers.
        speedup: over ``full`` on all workers.
        saving: dollars of ``full`` on all workers over its.
    """

    mode: str
    max_workers: int
    epoch_workers: list[int]
    epoch_seconds: list[float]
    read_boundaries: list[int]
    seconds: float
    cost_usd: float
    fits: bool
    speedup: float
    saving: float


class Simulation(Record):
    """``autofreeze simulate``: predicted, not measured.

    Attributes:
        cluster: its name.
        workload: its name.
        batch_size: global.
        gpu_hour_usd: that dollars are of.
        trace: boundaries by epoch and interval, in blocks of the workload.
        recorded_blocks: of the model that the trace was recorded on.
        runs: by mode, and by workers from one to all.
        notes: what a reader should know.
    """

    cluster: str
    workload: str
    batch_size: int
    gpu_hour_usd: float
    trace: list[list[int]]
    recorded_blocks: int
    runs: list[SimulatedRun]
    notes: list[str]

    def of(self, mode: str) -> SimulatedRun:
        """The run of a mode that may use all workers."""
        runs = [run for run in self.runs if run.mode == mode]
        return max(runs, key=lambda run: run.max_workers)


def simulate(
    cluster: Cluster,
    workload: Workload,
    trace: Trace,
    recorded_blocks: int,
    prices: Prices,
    batch_size: int | None = None,
) -> Simulation:
    """Follow the trace in every mode, with every number of workers that divides the batch.

    Args:
        cluster: as described.
        workload: the same.
        trace: boundaries by epoch and interval, as recorded.
        recorded_blocks: of the model that it was recorded on.
        prices: in dollars.
        batch_size: global; None: the workload's.

    Raises:
        ValueError: when no number of workers divides the batch.
    """
    batch_size = batch_size or workload.batch_size
    scaled = scale_trace(trace, recorded_blocks, workload.num_blocks)
    profile, work, allowed = describe(cluster, workload, batch_size, prices)
    counts = worker_counts(batch_size, cluster.num_workers)

    def forecast(mode: str, count: int) -> RunForecast:
        caches = mode not in ("full", "freeze")
        boundaries = [[0] * len(epoch) for epoch in scaled] if mode == "full" else scaled
        return forecast_run(
            profile,
            work,
            replace(allowed, mode=mode, max_workers=count, sets="auto" if caches else "off"),
            boundaries,
            case="as recorded",
            start=Standing(1, len(boundaries), boundaries[0][0], builders=count),
        )

    forecasts = {(mode, count): forecast(mode, count) for mode in MODES for count in counts}
    baseline = forecasts["full", counts[-1]]
    return Simulation(
        cluster=cluster.name,
        workload=workload.name,
        batch_size=batch_size,
        gpu_hour_usd=prices.gpu_hour_usd,
        trace=scaled,
        recorded_blocks=recorded_blocks,
        runs=[_run(found, count, baseline) for (_, count), found in forecasts.items()],
        notes=_notes(workload, recorded_blocks),
    )


def scale_trace(trace: Trace, recorded_blocks: int, num_blocks: int) -> list[list[int]]:
    """Boundaries of a model with other many blocks: the same share of those that may freeze."""
    most, recorded_most = num_blocks - 1, max(1, recorded_blocks - 1)  # the last never freezes
    return [[boundary * most // recorded_most for boundary in epoch] for epoch in trace]


def _run(found: RunForecast, max_workers: int, baseline: RunForecast) -> SimulatedRun:
    return SimulatedRun(
        mode=found.mode,
        max_workers=max_workers,
        epoch_workers=[epoch.setup.num_workers for epoch in found.epochs],
        epoch_seconds=[epoch.seconds for epoch in found.epochs],
        read_boundaries=[epoch.setup.read_boundary for epoch in found.epochs],
        seconds=found.seconds,
        cost_usd=found.cost_usd,
        fits=found.feasible,
        speedup=baseline.seconds / found.seconds,
        saving=baseline.cost_usd / found.cost_usd if found.cost_usd else 1.0,
    )


def _notes(workload: Workload, recorded_blocks: int) -> Sequence[str]:
    notes = []
    if recorded_blocks != workload.num_blocks:
        notes.append(
            f"The trace was recorded on {recorded_blocks} blocks; its boundaries were scaled to "
            f"the same share of {workload.num_blocks}, rounded down."
        )
    return notes
