"""Optuna's samplers and pruners, so that a study that was killed proposes what it would have.

Optuna stores no random state. So the sampler is made anew for each trial, from the study's seed and
the trial's number; and a list that depends on no score (grid, random, qmc) is made as a whole.
"""

import copy
import hashlib
import itertools
import json
import warnings
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from afcore.config import SearchConfig
from afcore.search.space import Dimension, Space

__all__ = [
    "PerTrialSampler",
    "ask_pruner",
    "asks_beforehand",
    "listed_proposals",
    "make_pruner",
    "suggest",
]


class PerTrialSampler(BaseSampler):
    """A sampler that is made anew for each trial, and for each key that is drawn alone.

    Args:
        kind: ``tpe``, ``gp`` or ``random``.
        seed: of the study.
    """

    def __init__(self, kind: str, seed: int) -> None:
        self._kind = kind
        self._seed = seed

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Keys that are drawn together."""
        return self._made(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Their values; those that were drawn before a kill."""
        drawn = self._drawn(trial)
        if drawn is not None:
            return {key: value for key, value in drawn.items() if key in search_space}
        return self._made(trial).sample_relative(study, trial, search_space)

    def _drawn(self, trial: FrozenTrial) -> dict[str, Any] | None:
        """TPE and GP store them before each key's own, and GP keeps away from what it finds."""
        names = (f"{self._kind}:relative_params:{number}" for number in itertools.count())
        parts = itertools.takewhile(bool, map(trial.system_attrs.get, names))
        try:
            found: dict[str, Any] = json.loads("".join(map(str, parts)))
        except json.JSONDecodeError:  # nothing, or not all of it
            return None
        return found

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Of a key alone: whichever were drawn before a kill, it comes out the same."""
        sampler = self._made(trial, param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _made(self, trial: FrozenTrial, name: str = "") -> BaseSampler:
        text = f"{self._seed} {trial.number} {name}".encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
        if self._kind == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if self._kind == "gp":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
        return optuna.samplers.TPESampler(seed=seed)


def asks_beforehand(search: SearchConfig) -> bool:
    """Whether no proposal depends on a score."""
    return search.sampler in ("grid", "random", "qmc")


def listed_proposals(search: SearchConfig, space: Space, count: int) -> list[dict[str, Any]]:
    """The first ``count`` proposals of a sampler that looks at no score."""
    if search.sampler == "grid":
        return space.grid(search.seed, count)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler: BaseSampler = PerTrialSampler("random", search.seed)
        if search.sampler == "qmc":
            sampler = optuna.samplers.QMCSampler(seed=search.seed, warn_independent_sampling=False)
        study = optuna.create_study(sampler=sampler)
        found = []
        for _ in range(count):
            trial = study.ask()
            found.append(space.propose(lambda dimension, trial=trial: suggest(trial, dimension)))  # type: ignore[misc]
            study.tell(trial, 0.0)
    return found


def suggest(trial: Trial, dimension: Dimension) -> Any:
    """A trial's value of a key: known, or drawn and stored."""
    key, wanted = dimension.key, dimension.distribution
    if isinstance(wanted, IntDistribution):
        return trial.suggest_int(key, wanted.low, wanted.high, step=wanted.step, log=wanted.log)
    if isinstance(wanted, FloatDistribution):
        return trial.suggest_float(key, wanted.low, wanted.high, step=wanted.step, log=wanted.log)
    assert isinstance(wanted, CategoricalDistribution)
    return dimension.value_of(trial.suggest_categorical(key, wanted.choices))


def make_pruner(search: SearchConfig, num_epochs: int) -> BasePruner:
    """Optuna's, whose resource is the epoch."""
    if search.pruner == "median":
        return optuna.pruners.MedianPruner()
    if search.pruner == "successive_halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1)
    if search.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=num_epochs)
    return optuna.pruners.NopPruner()


def ask_pruner(study: Study, trial: FrozenTrial) -> tuple[bool, dict[str, Any]]:
    """Whether a trial ends, and attributes by which the pruner will know it, to be written.

    They are not written here. A pruner that finds those of a step takes the step for done, and
    answers otherwise when it is asked again.
    """
    noting = _NotingStorage(study._storage)
    asked: Any = copy.copy(study)
    asked._storage = noting
    return bool(study.pruner.prune(asked, trial)), noting.noted


class _NotingStorage:
    """Optuna's storage, but for what a pruner writes of a trial."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage
        self.noted: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def set_trial_system_attr(self, _trial_id: int, key: str, value: Any) -> None:
        self.noted[key] = value
