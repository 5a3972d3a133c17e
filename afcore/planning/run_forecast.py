"""A whole training, predicted: each epoch chosen as a run would choose it; and single epochs.

A **trace** says which boundary is in force in each interval of each epoch; it may fall, and end
before the last epoch. What a policy will decide is not known beforehand, so a forecast is made for
the ends of what it may, which the policy itself knows (``possible_traces`` of
:mod:`afcore.freezing.policy`). No I/O, no torch.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from afcore.planning.choose import EpochChoice, choose_epoch
from afcore.planning.choose_workers import Allowed, Standing, WorkersChoice, choose_workers
from afcore.planning.forecast import EpochSetup, Forecast, Work, forecast_epoch
from afcore.planning.profile import Profile, Record

__all__ = ["BoundaryForecast", "RunForecast", "Trace", "forecast_boundaries", "forecast_run"]

Trace = Sequence[Sequence[int]]
_SUMS = (
    "train_seconds",
    "materialize_seconds",
    "other_seconds",
    "activation_bytes_written",
    "worker_seconds",
    "cost_usd",
)


class RunForecast(Record):
    """A training in one mode along one trace.

    ``other_seconds`` are starts of workers, checkpoints and evaluation, the test included. What
    surrounds the epochs (loading, orchestration, tracking, publishing) is not predicted.
    """

    mode: str
    case: str
    epochs: list[Forecast]
    choices: list[EpochChoice]
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
        return all(choice.feasible for choice in self.choices)


def forecast_run(
    profile: Profile,
    work: Work,
    allowed: Allowed,
    trace: Trace,
    *,
    case: str,
    start: Standing,
    existing: Collection[int] = (),
) -> RunForecast:
    """Follow a trace.

    Args:
        profile: as measured.
        work: of every epoch.
        allowed: for the whole training.
        trace: boundaries by epoch and interval.
        case: what the trace is, in words.
        start: before the first epoch.
        existing: boundaries of sets that the store has, of the model as it was before training.
    """
    epochs: list[Forecast] = []
    choices: list[EpochChoice] = []
    at, lowest = start, start.boundary
    for number, boundaries in enumerate(trace, start=1):
        lowest = min(lowest, *boundaries)
        at = replace(
            at,
            epoch=number,
            boundary=boundaries[0],
            # Sets of other trainings hold what was frozen before the first step, and since.
            exists=boundaries[0] <= lowest and boundaries[0] in existing,
            solves_head=start.solves_head and number == 1,
        )
        choice = choose_epoch(profile, work, allowed, at)
        # The choice does not know what will freeze, or that this is the end.
        setup = choice.forecast.setup.model_copy(
            update={"boundaries": list(boundaries), "last": number == len(trace)}
        )
        seen = replace(work, statistics=work.statistics and allowed.mode != "full")
        epoch = forecast_epoch(profile, seen, setup, allowed.prices)
        epochs.append(epoch)
        choices.append(choice)
        at = replace(
            at,
            set_at_hand=setup.read_boundary,
            builders=setup.num_workers,
            spent_seconds=at.spent_seconds + epoch.seconds,
            spent_usd=at.spent_usd + epoch.cost_usd,
        )
    return RunForecast(
        mode=allowed.mode,
        case=case,
        epochs=epochs,
        choices=choices,
        **{name: sum(getattr(epoch, name) for epoch in epochs) for name in _SUMS},
    )


class BoundaryForecast(Record):
    """An epoch at one boundary from its first step to its last.

    Attributes:
        boundary: k.
        computed: from tokens, on one worker.
        read: from the set at k, which is built from tokens; None at 0.
        workers: what a mode that chooses would choose; reading that set where sets are allowed.
    """

    boundary: int
    computed: Forecast
    read: Forecast | None
    workers: dict[str, WorkersChoice]


def forecast_boundaries(profile: Profile, work: Work, allowed: Allowed) -> list[BoundaryForecast]:
    """Each boundary, 0 to L - 1, without a deadline or a budget."""
    allowed = replace(allowed, deadline_seconds=None, budget_usd=None)
    modes = ("performance", "efficiency") if allowed.max_workers > 1 else ()

    def row(k: int) -> BoundaryForecast:
        computed = EpochSetup(boundaries=[k])
        read = EpochSetup(boundaries=[k], read_boundary=k, built_from=0)
        between = Standing(epoch=2, num_epochs=3, boundary=k)
        reads = 0 if allowed.sets == "off" else k
        return BoundaryForecast(
            boundary=k,
            computed=forecast_epoch(profile, work, computed, allowed.prices),
            read=forecast_epoch(profile, work, read, allowed.prices) if k else None,
            workers={
                mode: choose_workers(profile, work, replace(allowed, mode=mode), between, reads)
                for mode in modes
            },
        )

    return [row(k) for k in range(profile.compute.num_blocks)]
