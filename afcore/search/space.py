"""What a search varies: keys of the configuration with Optuna's distributions, checked beforehand.

A key of ``freezing`` that only some of the varied policies have is proposed with these alone.
"""

import itertools
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from afcore.config import PEER_MODES, Config, Range, SearchConfig, change_keys, parse_config
from afcore.errors import ConfigError
from afcore.freezing.known_policies import Policy

__all__ = [
    "POLICY_KEY",
    "Dimension",
    "Space",
    "check_space",
    "parse_over",
    "search_of",
    "trial_config",
]

POLICY_KEY = "freezing.policy"
_ELSEWHERE = ("search", "store", "tracking", "prices", "retrain")
"""Sections and keys that change nothing of what is trained."""


@dataclass(frozen=True)
class Dimension:
    """One key that is varied.

    Attributes:
        key: dotted.
        varied: its values, or their range.
        policies: with which it is proposed; None: always.
    """

    key: str
    varied: list[Any] | Range
    policies: frozenset[str] | None = None

    @property
    def distribution(self) -> BaseDistribution:
        """Optuna's."""
        varied = self.varied
        if isinstance(varied, list):
            return CategoricalDistribution(tuple(_label(value) for value in varied))
        if varied.is_whole:
            step = int(varied.step or 1)
            return IntDistribution(int(varied.low), int(varied.high), log=varied.log, step=step)
        return FloatDistribution(varied.low, varied.high, log=varied.log, step=varied.step)

    @property
    def ends(self) -> list[Any]:
        """All values of a list, both ends of a range."""
        varied = self.varied
        return varied if isinstance(varied, list) else [varied.low, varied.high]

    @property
    def grid(self) -> list[Any] | None:
        """All values; None of a range without steps."""
        varied, distribution = self.varied, self.distribution
        if isinstance(varied, list):
            return varied
        if isinstance(distribution, IntDistribution) and not varied.log:
            return list(range(distribution.low, distribution.high + 1, distribution.step))
        if isinstance(distribution, FloatDistribution) and varied.step is not None:
            count = round((distribution.high - varied.low) / varied.step) + 1
            return [varied.low + number * varied.step for number in range(count)]
        return None

    def value_of(self, label: Any) -> Any:
        """The value that a label of Optuna's stands for."""
        if isinstance(self.varied, list):
            return next(value for value in self.varied if _label(value) == label)
        return label

    def label_of(self, value: Any) -> Any:
        """The reverse."""
        return _label(value) if isinstance(self.varied, list) else value


@dataclass(frozen=True)
class Space:
    """All keys that are varied, the policy first."""

    dimensions: tuple[Dimension, ...]

    def propose(self, suggest: Callable[[Dimension], Any]) -> dict[str, Any]:
        """A value of each key, asked for one after the other; keys of other policies left out."""
        values: dict[str, Any] = {}
        for dimension in self.dimensions:
            if dimension.policies is None or values.get(POLICY_KEY) in dimension.policies:
                values[dimension.key] = suggest(dimension)
        return values

    def grid(self, seed: int) -> list[dict[str, Any]]:
        """Every combination once, shuffled.

        Raises:
            ConfigError: where a range has no steps.
        """
        values = {}
        for dimension in self.dimensions:
            if dimension.grid is None:
                raise ConfigError(
                    f"search.vary: {dimension.key}: a grid needs a list, or a range with a step. "
                    "Give one, or another search.sampler"
                )
            values[dimension.key] = dimension.grid
        found: list[dict[str, Any]] = []
        for combination in itertools.product(*values.values()):
            given = dict(zip(values, combination, strict=True))
            proposed = self.propose(lambda dimension, given=given: given[dimension.key])  # type: ignore[misc]
            if proposed not in found:
                found.append(proposed)
        random.Random(seed).shuffle(found)
        return found

    def labels(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """As Optuna keeps them."""
        return {d.key: d.label_of(values[d.key]) for d in self.dimensions if d.key in values}


def search_of(config: Config) -> SearchConfig:
    """The section ``search``; its defaults where there is none."""
    return config.search or SearchConfig()


def check_space(config: Config) -> Space:
    """The space of a search, after each value has been tried in the configuration.

    Raises:
        ConfigError: for a key that does not exist, a value that it refuses, and nothing to vary.
    """
    search = search_of(config)
    if search.folds is not None and config.data.fold is not None:
        raise ConfigError("search.folds: give data.fold or search.folds, not both")
    if not search.varies:
        raise ConfigError(
            "search.vary: nothing is varied. Give keys with values, here or as --over "
            "training.learning_rate=1e-5..3e-4:log, or --seeds, --folds or --labels"
        )
    if config.mode in PEER_MODES:
        raise ConfigError(
            f"search: mode {config.mode} is for comparison, and no trial can be of it"
        )
    plain = config.model_copy(update={"search": None})
    owners = _owners(search, config)
    dimensions = []
    for key in sorted(search.vary, key=lambda key: (key != POLICY_KEY, key)):
        section = key.partition(".")[0]
        if section in _ELSEWHERE:
            raise ConfigError(
                f"search.vary: {key} changes nothing of what is trained. Leave it out"
            )
        if key.startswith("data.fold"):
            raise ConfigError(f"search.vary: {key}: for folds, give search.folds")
        dimension = Dimension(key, search.vary[key], owners.get(key))
        for value in dimension.ends:
            _try(plain, dimension, value)
        dimensions.append(dimension)
    if search.sampler == "grid":
        Space(tuple(dimensions)).grid(search.seed)
    return Space(tuple(dimensions))


def trial_config(config: Config, values: Mapping[str, Any]) -> Config:
    """Of a trial.

    Raises:
        ConfigError: for values that do not go together.
    """
    tree = config.model_dump(exclude={"search"})
    change_keys(tree, values, source="search.vary")
    return parse_config(tree, source="search.vary")


def _try(config: Config, dimension: Dimension, value: Any) -> None:
    changes = {dimension.key: value}
    if dimension.key == "mode" and value in PEER_MODES:
        raise ConfigError(f"search.vary: mode {value} is for comparison, and no trial can be of it")
    if dimension.policies is not None:
        changes = {POLICY_KEY: min(dimension.policies), **changes}
    trial_config(config, changes)


def _owners(search: SearchConfig, config: Config) -> dict[str, frozenset[str]]:
    """The varied policies that have a key, for those keys of ``freezing`` that not all have."""
    kinds = {kind.model_fields["policy"].default: kind for kind in get_args(Policy)}
    varied = search.vary.get(POLICY_KEY)
    policies = varied if isinstance(varied, list) else [config.freezing.policy]
    owners = {}
    for key in search.vary:
        section, _, leaf = key.partition(".")
        having = {name for name in policies if name in kinds and leaf in kinds[name].model_fields}
        if section == "freezing" and having and len(having) < len(policies):
            owners[key] = frozenset(having)
    return owners


def parse_over(texts: list[str]) -> dict[str, Any]:
    """``KEY=A,B,C`` and ``KEY=LOW..HIGH[:log][:step=S]``, as the section has them.

    Raises:
        ConfigError: for anything else.
    """
    found: dict[str, Any] = {}
    for key, varied in map(_parse_one, texts):
        if key in found:
            raise ConfigError(f"--over {key}: is given twice. Give all its values at once")
        found[key] = varied
    return found


def _parse_one(text: str) -> tuple[str, Any]:
    key, separator, given = text.partition("=")
    if not separator or not key.strip() or not given.strip():
        raise ConfigError(
            f"--over {text!r} is not of the form key.path=1,2,3 or key.path=LOW..HIGH[:log|:step=S]"
        )
    low, dots, rest = given.partition("..")
    high, *options = rest.split(":")
    # Paths have dots, too: ../a.csv,../b.csv
    if not dots or not _is_number(low.strip() or high):
        return key.strip(), [_value(one, text) for one in given.split(",")]
    found = {"low": _value(low, text), "high": _value(high, text)}
    for option in options:
        name, _, value = option.partition("=")
        if name not in ("log", "step") or (name == "step" and not value):
            raise ConfigError(f"--over {text!r}: after the range may follow :log or :step=S")
        found[name] = _value(value, text) if value else True
    return key.strip(), found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _value(text: str, of: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--over {of!r}: {text!r} is not YAML") from error


def _label(value: Any) -> Any:
    """Optuna's choices are plain values."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return json.dumps(value, sort_keys=True)
