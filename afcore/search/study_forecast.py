"""What a study will take, predicted from one measurement: with sharing, and each trial alone.

Trials whose proposals depend on no score are predicted as they will be tried; for other samplers
random ones stand in. Of what may be decided, each trial is taken to stop as early as it may, or
not at all: the ends of a band.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from afcore.config import Config
from afcore.errors import ConfigError
from afcore.planning.run_forecast import RunForecast
from afcore.runs.cache import RunCache
from afcore.runs.decide import RunPlanner, possible_traces
from afcore.runs.identify import identify_run
from afcore.runs.run import Run
from afcore.search.conduct_study import PreparedStudy, prepare_study
from afcore.search.sampling import asks_beforehand, listed_proposals
from afcore.search.sharing_order import in_sharing_order, sharing_of
from afcore.search.space import trial_config
from afcore.search.trial_run import member_configs
from afcore.storage.objects import Storage

__all__ = ["StudyForecast", "TrialForecast", "forecast_study"]

_BUDGET_SECONDS = 6.0


class TrialForecast(BaseModel):
    """A trial, of all its trainings, with sharing and alone; seconds with what surrounds epochs."""

    model_config = ConfigDict(frozen=True)

    values: dict[str, Any]
    epochs: int
    seconds: float
    seconds_alone: float
    set_bytes: int
    set_bytes_alone: int
    cost_usd: float
    cost_usd_alone: float


class StudyForecast(BaseModel):
    """A study: every trial at both ends of what may be decided.

    Attributes:
        shortest: trials, each stopped as early as it may.
        longest: trials, none stopped.
        are_stand_ins: whether the sampler will propose others.
    """

    model_config = ConfigDict(frozen=True)

    shortest: list[TrialForecast]
    longest: list[TrialForecast]
    are_stand_ins: bool


def forecast_study(
    config: Config, num_epochs: Mapping[int, Sequence[int]] | None = None
) -> StudyForecast:
    """Measure the model once, and predict every trial.

    Args:
        config: with its section ``search``.
        num_epochs: of each training of trials that are known to end there, by their place.

    Raises:
        UserError: for what cannot be searched, or predicted.
    """
    prepared = prepare_study(config)
    if {key.partition(".")[0] for key in prepared.search.vary} & {"data", "model", "task"}:
        raise ConfigError(
            "search.vary: a study over data, model or task cannot be predicted from one "
            "measurement. Plan one for each value"
        )
    record, search = prepared.record, prepared.search
    proposals = listed_proposals(search.model_copy(update=_listed(search)), prepared.space,
                                 prepared.num_trials)  # fmt: skip
    if asks_beforehand(search):
        sharing = sharing_of(config, record.num_blocks, record.num_pretrained)
        proposals = in_sharing_order(proposals, sharing)
    forecaster = _Forecaster(prepared, _seconds_around(config))
    ends = [forecaster.trials(proposals, end, num_epochs or {}) for end in (min, max)]
    return StudyForecast(
        shortest=ends[0], longest=ends[1], are_stand_ins=not asks_beforehand(search)
    )


def _seconds_around(config: Config) -> float:
    """Of a trial, before its first epoch: opening the data, loading and checking the model."""
    plain, clock = config.model_copy(update={"search": None}), time.perf_counter()
    identify_run(plain, Storage(config.store))
    return time.perf_counter() - clock


def _listed(search: Any) -> dict[str, str]:
    return {} if asks_beforehand(search) else {"sampler": "random"}


class _Forecaster:
    """Predicts trials, one after the other, from the profile of one of them."""

    def __init__(self, prepared: PreparedStudy, around_seconds: float) -> None:
        self._prepared = prepared
        self._around_seconds = around_seconds
        storage, record = Storage(prepared.config.store), prepared.record
        if prepared.search.folds is not None:
            record = identify_run(member_configs(record.config, prepared.search)[0], storage)
        self._run = Run(storage, record)
        self._cache = RunCache(
            self._run, self._run.trainee(self._run.pretrained(), self._run.data().train)
        )
        self._profile = self._cache.planner.measure(
            _BUDGET_SECONDS, budget_share=None, record=False
        )

    def trials(
        self,
        proposals: Sequence[dict[str, Any]],
        end: Any,
        num_epochs: Mapping[int, Sequence[int | None]],
    ) -> list[TrialForecast]:
        """All of them; ``end`` chooses the shortest trace or the longest."""
        weights, count = self._run.record.weights, self._prepared.record.num_blocks
        existing = [k for k in range(1, count) if self._cache.has(k, weights)]
        found, seen = [], list[Config]()
        for number, values in enumerate(proposals):
            try:
                config = trial_config(self._prepared.config, values)
            except ConfigError:
                continue  # it will fail
            lengths = num_epochs.get(number, [None] * self._prepared.search.num_members)
            traces = [self._trace(config, end, most) for most in lengths]
            alone = [self._forecast(config, trace, []) for trace in traces]
            shared = []
            for trace in traces if config not in seen else ():
                shared.append(self._forecast(config, trace, existing))
                reads = {one.setup.read_boundary for one in shared[-1].epochs}
                existing += sorted(reads - {0, *existing})
            seen.append(config)
            found.append(self._row(values, alone, shared))
        return found

    def _trace(self, config: Config, end: Any, most: int | None) -> list[list[int]]:
        traces = possible_traces(config, self._run.record.num_blocks)
        if traces is None:
            raise ConfigError(
                f"there is no forecast for freezing.policy {config.freezing.policy!r}: what it may "
                "decide is not known beforehand"
            )
        trace: list[list[int]] = end(traces.values(), key=len)
        return trace[:most]

    def _forecast(self, config: Config, trace: list[list[int]], existing: list[int]) -> RunForecast:
        run = Run(self._run.storage, self._run.record.model_copy(update={"config": config}))
        planner = RunPlanner(run, self._cache.runner)
        planner.profile = self._profile
        start = planner.start(trace[0][0])
        return planner.forecasts({"": trace}, config.mode, start, existing, tested=False)[0]

    def _row(
        self, values: dict[str, Any], alone: list[RunForecast], shared: list[RunForecast]
    ) -> TrialForecast:
        around = len(alone) * self._around_seconds
        measuring = len(alone) * self._profile.seconds
        return TrialForecast(
            values=values,
            epochs=sum(len(one.epochs) for one in alone),
            seconds=around + sum(one.seconds for one in shared),
            seconds_alone=around + measuring + sum(one.seconds for one in alone),
            set_bytes=sum(one.activation_bytes_written for one in shared),
            set_bytes_alone=sum(one.activation_bytes_written for one in alone),
            cost_usd=sum(one.cost_usd for one in shared),
            cost_usd_alone=sum(one.cost_usd for one in alone),
        )
