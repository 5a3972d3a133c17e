"""What a study will take, predicted from one measurement: with sharing, and each trial alone.

Trials whose proposals depend on no score are predicted as they will be tried; for other samplers
random ones stand in. Of what may be decided, each trial is taken to stop as early as it may, or
not at all: the ends of a band. With sharing, a trial is spared the sets and the first epochs of
those before it, and what its process has looked at.
"""

import itertools
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from afcore.activations.materialize import PrefixRunner
from afcore.config import Config, SearchConfig
from afcore.digest import RecipeDigest
from afcore.errors import ConfigError
from afcore.planning.forecast import Forecast
from afcore.planning.profile import Profile
from afcore.runs.batches import run_schedule
from afcore.runs.cache import RunCache
from afcore.runs.common_inputs import CommonInputs
from afcore.runs.decide import RunPlanner, possible_traces
from afcore.runs.identify import identify_run, looked_at_digest
from afcore.runs.run import Run
from afcore.search.common_epochs import LATE_KEYS, beginning_digest
from afcore.search.conduct_study import PreparedStudy, prepare_study
from afcore.search.label_studies import label_configs
from afcore.search.sampling import asks_beforehand, listed_proposals
from afcore.search.sharing_order import in_sharing_order, sharing_of
from afcore.search.space import trial_config, winner_config
from afcore.search.trial_run import member_configs
from afcore.storage.objects import Storage

__all__ = ["StudyForecast", "TrialForecast", "forecast_study"]

_BUDGET_SECONDS = 6.0
_DATA_AND_MODEL = {"data", "model", "task"}
_MEASURED = {
    "adapter",
    "cache.dtype",
    "task_settings",
    "training.augmentation",
    "training.compile",
    "training.gradient_checkpointing",
    "training.pooled_last_block",
    "training.precision",
    "workers",
}
"""Further sections and keys that decide how long a step takes, or how large a set is."""


class TrialForecast(BaseModel):
    """A trial, of all its trainings, with sharing and alone; seconds with what surrounds epochs.

    Epochs are those that are trained.
    """

    model_config = ConfigDict(frozen=True)

    values: dict[str, Any]
    epochs: int
    epochs_alone: int
    seconds: float
    seconds_alone: float
    set_bytes: int
    set_bytes_alone: int
    cost_usd: float
    cost_usd_alone: float


class StudyForecast(BaseModel):
    """A study: every trial at both ends of what may be decided; of label columns all together.

    Attributes:
        shortest: trials, each stopped as early as it may.
        longest: trials, none stopped.
        winners: what follows for the best trial, of each label column: its test, after a training
            of all rows where there are folds, and as configured where there is a proxy. Which one
            is the best is not known; a usual one stands in.
        are_stand_ins: whether the sampler will propose others.
    """

    model_config = ConfigDict(frozen=True)

    shortest: list[TrialForecast]
    longest: list[TrialForecast]
    winners: list[TrialForecast]
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
    prepared = [prepare_study(one) for one in label_configs(config).values()]
    _check_keys(prepared[0].search)
    studies: list[_Forecaster] = []
    for one in prepared:
        studies.append(_Forecaster(one, studies[0].measured if studies else None))
    shortest, _ = _all_trials(studies, min, num_epochs or {})
    longest, winners = _all_trials(studies, max, num_epochs or {})
    return StudyForecast(
        shortest=shortest,
        longest=longest,
        winners=winners,
        are_stand_ins=not asks_beforehand(prepared[0].search),
    )


def _check_keys(search: SearchConfig) -> None:
    """Refuse keys of which the measurement, which is of one training, says nothing."""
    refused = _DATA_AND_MODEL | _MEASURED
    changed = [*search.vary, *search.proxy]
    found = [key for key in changed if {key, key.partition(".")[0]} & refused]
    if found:
        where = "search.vary" if found[0] in search.vary else "search.proxy"
        raise ConfigError(
            f"{where}: a study over data, model or task cannot be predicted from one "
            "measurement, nor one over other keys that decide how long a step takes; got "
            f"{', '.join(found)}. Plan one for each value"
        )


def _all_trials(
    studies: Sequence["_Forecaster"], end: Any, num_epochs: Mapping[int, Sequence[int]]
) -> tuple[list[TrialForecast], list[TrialForecast]]:
    """(trials, winners) of studies one after the other, which read the same sets."""
    rows, winners = list[TrialForecast](), list[TrialForecast]()
    existing, first = set[int](), 0
    for study in studies:
        known = {place - first: lengths for place, lengths in num_epochs.items()}
        found = study.trials(end, known, existing)
        winners += study.winner(found, end, existing)
        rows += found
        first += study.num_trials
    return rows, winners


@dataclass(frozen=True)
class _Measured:
    """What was measured of one study, and serves those of the other label columns.

    Attributes:
        profile: of the model.
        look_seconds: of looking at data and model, before a training's first epoch.
        again_seconds: the same where the process has done it.
    """

    profile: Profile
    look_seconds: float
    again_seconds: float


@dataclass(frozen=True)
class _Trial:
    """A trial to be predicted.

    Attributes:
        values: of the varied keys.
        config: of it.
        looks: names of what each of its trainings looks at.
        beginnings: names of its epochs, as far as another trial may have them in common.
    """

    values: dict[str, Any]
    config: Config
    looks: list[RecipeDigest]
    beginnings: list[str]

    def ways(self, member: int, trace: list[list[int]]) -> list[tuple[Any, ...]]:
        """Names of a training's epochs, with what is decided until the end of each."""
        after = [*(boundaries[0] for boundaries in trace[1:]), trace[-1][-1]]
        return [
            (member, beginning, str(trace[:epoch]), after[epoch - 1])
            for epoch, beginning in enumerate(self.beginnings[: len(trace)], start=1)
        ]


class _Forecaster:
    """Predicts the trials of one study, one after the other.

    Attributes:
        measured: see there.
        num_trials: that are wanted, those that will fail among them.

    Args:
        prepared: the study.
        measured: of a study that trains alike; None: measure now.
    """

    def __init__(self, prepared: PreparedStudy, measured: _Measured | None) -> None:
        self._prepared = prepared
        storage, record = Storage(prepared.config.store), prepared.record
        first = member_configs(record.config, prepared.search)[0]
        self._looked = {looked_at_digest(record.config), looked_at_digest(first)}
        whole = self._run = Run(storage, record)
        if prepared.search.folds is not None:
            self._run = Run(storage, identify_run(first, storage))
        split = self._run.pretrained()
        self._cache = RunCache(self._run, self._run.trainee(split, self._run.data().train))
        self._whole = whole, PrefixRunner(whole.trainee(split, whole.data().train))
        self.measured = measured or _Measured(
            self._cache.planner.measure(_BUDGET_SECONDS, budget_share=None, record=False),
            *_look_seconds(record.config, storage, prepared.inputs),
        )
        self.num_trials = 0
        self._trials = dict(self._proposed())

    def _proposed(self) -> Iterator[tuple[int, _Trial]]:
        """By their place; without those whose values do not go together, which will fail."""
        prepared, record = self._prepared, self._prepared.record
        search, is_known = prepared.search, asks_beforehand(prepared.search)
        sampling = search if is_known else search.model_copy(update={"sampler": "random"})
        proposals = listed_proposals(sampling, prepared.space, prepared.num_trials)
        if is_known:
            sharing = sharing_of(prepared.config, record.num_blocks, record.num_pretrained)
            proposals = in_sharing_order(proposals, sharing)
        self.num_trials = len(proposals)
        late = {f"training.{key}" for key in LATE_KEYS} & set(search.vary)
        for place, values in enumerate(proposals):
            try:
                config = trial_config(prepared.config, values)
            except ConfigError:
                continue
            looks = [looked_at_digest(one) for one in member_configs(config, search)]
            yield place, _Trial(values, config, looks, self._beginnings(config) if late else [])

    def _beginnings(self, config: Config) -> list[str]:
        run = _as_configured(self._run, config)
        schedule = run_schedule(run, self._cache.trainee.examples)
        epochs = range(1, config.training.num_epochs + 1)
        found = (beginning_digest(run, schedule, epoch) for epoch in epochs)
        return [digest for digest in found if digest is not None]

    def trials(
        self, end: Any, num_epochs: Mapping[int, Sequence[int | None]], existing: set[int]
    ) -> list[TrialForecast]:
        """All of them.

        Args:
            end: chooses the shortest trace or the longest.
            num_epochs: of trials that are known to end there, by their place.
            existing: boundaries of sets that are there; gets those that the trials leave.
        """
        measured, weights = self.measured, self._run.record.weights
        blocks = range(1, self._run.record.num_blocks)
        existing |= {k for k in blocks if self._cache.has(k, weights)}
        looked, seen, reached = set(self._looked), list[Config](), set[tuple[Any, ...]]()
        rows = []
        for place, trial in self._trials.items():
            lengths = num_epochs.get(place, [None] * len(trial.looks))
            alone, shared, seconds = list[Forecast](), list[Forecast](), 0.0
            for member, (look, most) in enumerate(zip(trial.looks, lengths, strict=False)):
                trace = self._trace(trial.config, end, most)
                alone += self._epochs(trial.config, trace, ())
                seconds += measured.again_seconds if look in looked else measured.look_seconds
                looked.add(look)
                if trial.config in seen:
                    continue
                ways = trial.ways(member, trace)
                num_common = len(list(itertools.takewhile(reached.__contains__, ways)))
                reached.update(ways)
                epochs = self._epochs(trial.config, trace, existing)
                existing |= _left_sets(epochs, trace)
                shared += epochs[num_common:]
            seen.append(trial.config)
            around = len(lengths) * (measured.look_seconds + measured.profile.seconds)
            totals = _totals(shared, seconds) | _totals(alone, around, "_alone")
            rows.append(TrialForecast(values=trial.values, **totals))
        return rows

    def winner(
        self, rows: Sequence[TrialForecast], end: Any, existing: Collection[int]
    ) -> list[TrialForecast]:
        """What follows for the best trial, as of the one in the middle of all; none of none.

        Args:
            rows: what :meth:`trials` gave.
            end: chooses the shortest trace or the longest.
            existing: boundaries of sets that are there.
        """
        if not rows:
            return []
        order = sorted(range(len(rows)), key=lambda number: rows[number].seconds_alone)
        trial = list(self._trials.values())[order[len(rows) // 2]]
        search = self._prepared.search
        config = winner_config(self._prepared.config, trial.values)
        trace, totals = self._trace(config, end, None), dict[str, Any]()
        for suffix, sets in (("", existing), ("_alone", ())):
            tested = self._epochs(config, trace, sets, tested=True)
            # Without folds or proxy, its run is one of the trial's.
            is_new = search.folds is not None or config != trial.config
            trained = [] if is_new else self._epochs(config, trace, sets)
            known = _totals(trained, 0.0, suffix)
            whole = _totals(tested, self.measured.look_seconds, suffix)
            totals |= {name: whole[name] - known[name] for name in whole}
        return [TrialForecast(values=trial.values, **totals)]

    def _trace(self, config: Config, end: Any, most: int | None) -> list[list[int]]:
        traces = possible_traces(config, self._run.record.num_blocks)
        if traces is None:
            raise ConfigError(
                f"there is no forecast for freezing.policy {config.freezing.policy!r}: what it may "
                "decide is not known beforehand"
            )
        trace: list[list[int]] = end(traces.values(), key=len)
        return trace[:most]

    def _epochs(
        self,
        config: Config,
        trace: list[list[int]],
        existing: Collection[int],
        *,
        tested: bool = False,
    ) -> list[Forecast]:
        """Of a training of a trial; tested: of the one that is published, with the test."""
        run, runner = self._whole if tested else (self._run, self._cache.runner)
        planner = RunPlanner(_as_configured(run, config), runner)
        planner.profile = self.measured.profile
        start, traces = planner.start(trace[0][0]), {"": trace}
        (found,) = planner.forecasts(traces, config.mode, start, existing, tested=tested)
        return found.epochs


def _look_seconds(config: Config, storage: Storage, inputs: CommonInputs) -> tuple[float, float]:
    """Of looking at data and model: (for the first time, once more in the same process)."""
    found = []
    for common in (None, inputs):
        clock = time.perf_counter()
        identify_run(config, storage, common=common)
        found.append(time.perf_counter() - clock)
    return found[0], found[1]


def _as_configured(run: Run, config: Config) -> Run:
    return Run(run.storage, run.record.model_copy(update={"config": config}))


def _left_sets(epochs: Sequence[Forecast], trace: list[list[int]]) -> set[int]:
    """Boundaries of the sets that a training leaves for others: nothing below has been trained."""
    lowest = itertools.accumulate(map(min, trace), min)
    reads = (epoch.setup.read_boundary for epoch in epochs)
    return {read for read, low in zip(reads, lowest, strict=True) if 0 < read <= low}


def _totals(epochs: Sequence[Forecast], around_seconds: float, suffix: str = "") -> dict[str, Any]:
    """Of a row of a table, by the names of its fields."""
    return {
        f"epochs{suffix}": len(epochs),
        f"seconds{suffix}": around_seconds + sum(one.seconds for one in epochs),
        f"set_bytes{suffix}": sum(one.activation_bytes_written for one in epochs),
        f"cost_usd{suffix}": sum(one.cost_usd for one in epochs),
    }
