"""What a search varies: keys of the configuration with Optuna's distributions, checked beforehand.

A key of ``freezing`` that only some of the varied policies have is proposed with these alone.
"""

import itertools
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, get_args

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from afcore.config import PEER_MODES, Config, Range, SearchConfig, change_keys, parse_config
from afcore.errors import ConfigError
from afcore.freezing.known_policies import Policy
from afcore.tasks.known_tasks import find_score, task_class
from afcore.tasks.scores import Score
from afcore.yaml_files import read_value

__all__ = [
    "POLICY_KEY",
    "Dimension",
    "Space",
    "check_space",
    "parse_over",
    "search_of",
    "sought_score",
    "trial_config",
    "winner_config",
]

POLICY_KEY = "freezing.policy"
_MOST_TRIED = 300
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
        low, high = self.ends
        if varied.is_whole:
            return IntDistribution(low, high, log=varied.log, step=int(varied.step or 1))
        return FloatDistribution(low, high, log=varied.log, step=varied.step)

    @property
    def num_values(self) -> int | None:
        """None of a range without steps."""
        varied = self.varied
        if isinstance(varied, list):
            return len(varied)
        step = varied.step or (1 if varied.is_whole and not varied.log else None)
        if step is None:
            return None
        low, high, by = (Decimal(str(number)) for number in (varied.low, varied.high, step))
        return int((high - low) // by) + 1

    def value_at(self, place: int) -> Any:
        """One of :attr:`num_values`, counted from 0."""
        varied = self.varied
        if isinstance(varied, list):
            return varied[place]
        if varied.is_whole:
            return int(varied.low) + place * int(varied.step or 1)
        return float(Decimal(str(varied.low)) + place * Decimal(str(varied.step)))

    @property
    def ends(self) -> list[Any]:
        """All values of a list; the lowest of a range, and the highest that its steps reach."""
        varied = self.varied
        if isinstance(varied, list):
            return varied
        if self.num_values is None:
            return [varied.low, varied.high]
        return [self.value_at(0), self.value_at(self.num_values - 1)]

    @property
    def grid(self) -> list[Any] | None:
        """All values; None of a range without steps."""
        if self.num_values is None:
            return None
        return [self.value_at(place) for place in range(self.num_values)]

    @property
    def tried(self) -> list[Any]:
        """All values, where they are some hundred at most; else the ends."""
        is_short = self.num_values is not None and self.num_values <= _MOST_TRIED
        return (is_short and self.grid) or self.ends

    def given(self, value: Any) -> list[dict[str, Any]]:
        """What a trial is given with a value: once for each policy that it is proposed with."""
        if self.policies is None:
            return [{self.key: value}]
        return [{POLICY_KEY: policy, self.key: value} for policy in sorted(self.policies)]

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

    def grid_size(self) -> int:
        """Combinations of all values.

        Raises:
            ConfigError: where a range has no steps.
        """
        return sum(size for _, size in self._products())

    def grid(self, seed: int, count: int | None = None) -> list[dict[str, Any]]:
        """Every combination once, shuffled; of these the first ``count``.

        Raises:
            ConfigError: where a range has no steps.
        """
        products = self._products()
        order = list(range(sum(size for _, size in products)))
        random.Random(seed).shuffle(order)
        return [_combination(products, number) for number in order[:count]]

    def _products(self) -> list[tuple[Sequence[Dimension], int]]:
        """What is combined, and how often: all keys, or those that go with each policy."""
        for dimension in self.dimensions:
            if dimension.num_values is None:
                raise ConfigError(
                    f"search.vary: {dimension.key}: a grid needs a list, or a range with a step. "
                    "Give one, or another search.sampler"
                )
        products: list[Sequence[Dimension]] = [self.dimensions]
        if self.dimensions and self.dimensions[0].key == POLICY_KEY:
            first, *others = self.dimensions
            products = [
                [
                    replace(first, varied=[policy]),
                    *(one for one in others if one.policies is None or policy in one.policies),
                ]
                for policy in first.ends
            ]
        return [(one, math.prod(d.num_values or 0 for d in one)) for one in products]

    def labels(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """As Optuna keeps them."""
        return {d.key: d.label_of(values[d.key]) for d in self.dimensions if d.key in values}


def _combination(
    products: Sequence[tuple[Sequence[Dimension], int]], number: int
) -> dict[str, Any]:
    """One of all, counted from 0 with the last key changing first."""
    values: dict[str, Any] = {}
    for dimensions, size in products:
        if number < size:
            for dimension in reversed(dimensions):
                number, place = divmod(number, dimension.num_values or 1)
                values[dimension.key] = dimension.value_at(place)
            break
        number -= size
    return dict(reversed(values.items()))


def search_of(config: Config) -> SearchConfig:
    """The section ``search``; its defaults where there is none."""
    return config.search or SearchConfig()


def sought_score(config: Config) -> Score:
    """What a search seeks the best of.

    Raises:
        ConfigError: when the task has no such score.
    """
    wanted = search_of(config).score
    return _score_of(config.task, wanted) if wanted else config.main_score


def _score_of(task: str, name: str) -> Score:
    try:
        return find_score(task, name)
    except ConfigError as error:
        raise ConfigError(str(error).replace("training.score", "search.score", 1)) from error


def check_space(config: Config) -> Space:
    """The space of a search, after each value has been tried in the configuration.

    Raises:
        ConfigError: for a key that does not exist, a value that it refuses, nothing to vary, and a
            score that not every trial computes.
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
    _check_proxy(config)
    owners = _owners(search)
    dimensions = []
    for key in sorted(search.vary, key=lambda key: (key != POLICY_KEY, key)):
        _check_key(key, "search.vary")
        dimension = Dimension(key, search.vary[key], owners.get(key))
        for value in dimension.tried:
            _try(config, dimension, value)
        dimensions.append(dimension)
    _check_score(config, dimensions)
    space = Space(tuple(dimensions))
    if search.sampler == "grid":
        space.grid_size()
    return space


def trial_config(config: Config, values: Mapping[str, Any]) -> Config:
    """Of a trial, as ``search.proxy`` makes it cheaper.

    Raises:
        ConfigError: for values that do not go together.
    """
    return _changed(config, {"search.proxy": search_of(config).proxy, "search.vary": values})


def winner_config(config: Config, values: Mapping[str, Any]) -> Config:
    """Of what is published with the values of a trial.

    Raises:
        ConfigError: for values that do not go together.
    """
    return _changed(config, {"search.vary": values})


def _changed(config: Config, changes: Mapping[str, Mapping[str, Any]]) -> Config:
    """Of a run, with what each key of ``search`` says, the last one last."""
    tree, source = config.model_dump(exclude={"search"}), ""
    for source, changed in changes.items():
        change_keys(tree, changed, source=source)
    return parse_config(tree, source=source)


def _check_proxy(config: Config) -> None:
    """That trials can be of it, and that nothing in it is varied."""
    search = search_of(config)
    for key, value in search.proxy.items():
        _check_key(key, "search.proxy")
        if key in search.vary:
            raise ConfigError(f"search.proxy: {key} is varied, too. Give it once")
        _check_mode(key, value, "search.proxy")
    _changed(config, {"search.proxy": search.proxy})


def _check_key(key: str, where: str) -> None:
    """That trials may have another value of it than the configuration."""
    if key.partition(".")[0] in _ELSEWHERE:
        raise ConfigError(f"{where}: {key} changes nothing of what is trained. Leave it out")
    if key.startswith("data.fold"):
        raise ConfigError(f"{where}: {key}: for folds, give search.folds")


def _check_mode(key: str, value: Any, where: str) -> None:
    if key == "mode" and value in PEER_MODES:
        raise ConfigError(f"{where}: mode {value} is for comparison, and no trial can be of it")


def _try(config: Config, dimension: Dimension, value: Any) -> None:
    _check_mode(dimension.key, value, "search.vary")
    for changes in dimension.given(value):
        trial_config(config, changes)
        if search_of(config).proxy:  # else they are the same
            winner_config(config, changes)


def _owners(search: SearchConfig) -> dict[str, frozenset[str]]:
    """Where the policy is varied, the policies that have a key of ``freezing``, by the key.

    All of them where none has it: they say so when it is tried.
    """
    varied = search.vary.get(POLICY_KEY)
    if not isinstance(varied, list):
        return {}
    kinds = {kind.model_fields["policy"].default: kind for kind in get_args(Policy)}
    kinds = {name: kind for name, kind in kinds.items() if name in varied}
    owners = {}
    for key in search.vary:
        section, _, leaf = key.partition(".")
        if section == "freezing" and leaf not in ("", "policy"):
            having = [name for name, kind in kinds.items() if leaf in kind.model_fields]
            owners[key] = frozenset(having or kinds)
    return owners


def _check_score(config: Config, dimensions: Sequence[Dimension]) -> None:
    """That trials of every task compute it: one that generates does not for a loss."""
    score = sought_score(config)
    deciding = [one for one in dimensions if one.key in ("task", "training.score")]
    for values in itertools.product(*(one.tried for one in deciding)):
        try:
            trial = trial_config(config, {d.key: v for d, v in zip(deciding, values, strict=True)})
        except ConfigError:
            continue  # such a trial fails
        task, main = task_class(trial.task), trial.main_score
        if task.is_asked(_score_of(trial.task, score.name)) and not task.is_asked(main):
            raise ConfigError(
                f"search.score: task {trial.task} generates nothing where training.score is "
                f"{main.name}, so that there is no {score.name} of it. Set search.score to "
                f"{main.name}, or training.score to {score.name}"
            )


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
        values = given.split(",")
        if not all(map(str.strip, values)):
            raise ConfigError(
                f"--over {text!r}: a value beside a comma is empty. Give it, null if that is meant"
            )
        return key.strip(), [_value(one, text) for one in values]
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
    return read_value(text, f"--over {of!r}: {text!r}")


def _label(value: Any) -> Any:
    """Optuna's choices are plain values."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return json.dumps(value, sort_keys=True)
