"""The section ``search`` of the configuration: what is varied, how often, and how it is chosen.

Nothing of it decides what a single training is: a trial's configuration has no such section.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from afcore.config.section import Section, Uri, absolute_sqlite
from afcore.number_texts import number_of

__all__ = ["Range", "SearchConfig"]

_PICKLING = ("cmaes", "cma_es")


class Range(BaseModel):
    """Numbers from ``low`` to ``high``, both included; whole ones where all that is given is."""

    model_config = ConfigDict(frozen=True)

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether whole numbers are wanted."""
        return all(isinstance(n, int) for n in (self.low, self.high, self.step or 1))


def _varied(value: object) -> Any:
    """A list of values, or a :class:`Range`."""
    if isinstance(value, Range):
        return value
    if isinstance(value, list):
        values = [number_of(one) for one in value]
        if not values:
            raise ValueError("an empty list leaves nothing to try. Give values, or leave it out")
        if any(values.count(one) > 1 for one in values):
            raise ValueError("a value stands in the list twice")
        for one in values:
            if isinstance(one, float) and not math.isfinite(one):
                raise ValueError(f"numbers must be finite; got {one!r}")
        return values
    if isinstance(value, dict):
        return _range(value)
    raise ValueError(
        f"got {value!r}; give a list of values, or a mapping with low and high, and if wanted log "
        "or step"
    )


def _range(given: dict[Any, Any]) -> Range:
    unknown = set(given) - set(Range.model_fields)
    if unknown or not {"low", "high"} <= set(given):
        raise ValueError(f"a range has low, high, log and step; got {', '.join(map(str, given))}")
    numbers = {name: number_of(value) for name, value in given.items()}
    for name in ("low", "high", "step"):
        value = numbers.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ValueError(f"{name} must be a number; got {value!r}")
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} must be finite; got {value!r}")
    log = numbers.setdefault("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"log must be true or false; got {log!r}")
    found = Range.model_validate(numbers)
    if found.low >= found.high:
        raise ValueError(f"low ({found.low}) must be less than high ({found.high})")
    if found.log and (found.low <= 0 or found.step is not None):
        raise ValueError("a range on a log scale begins above 0 and has no step")
    if found.step is not None and found.step <= 0:
        raise ValueError(f"step must be above 0; got {found.step}")
    return found


def _without_pickles(name: object) -> object:
    if name in _PICKLING:
        raise ValueError(
            "CMA-ES keeps pickles in the study's storage, which nobody should load. Take tpe or gp"
        )
    return name


def _listed(names: object) -> object:
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else names


def _different(names: list[str]) -> list[str]:
    if not names or not all(names) or len(set(names)) < len(names):
        raise ValueError("give names of columns, each once")
    return names


Varied = Annotated[Any, AfterValidator(_varied)]


class SearchConfig(Section):
    """What `autofreeze search` varies, and how; no other command reads it.

    Each trial is an ordinary run in the same store.
    """

    vary: dict[str, Varied] = Field(
        default_factory=dict,
        description="dotted keys of this tree, each with a list of values or with `low` and `high` "
        "(and `log: true`, or a `step`); whole numbers where both ends are. Of `freezing`, a key "
        "that only some policies have is varied together with these",
    )
    proxy: dict[str, Any] = Field(
        default_factory=dict,
        description="dotted keys of this tree, each with a value that trials have in place of its "
        "own, so that they cost less, as `freezing.tolerance: 2`; the best one is trained once "
        "more, as configured",
    )
    trials: int | None = Field(
        None,
        ge=1,
        description="how many, those of earlier calls among them; default: 20, or the whole grid",
    )
    sampler: Annotated[
        Literal["tpe", "random", "grid", "qmc", "gp"], BeforeValidator(_without_pickles)
    ] = Field("tpe", description="Optuna's, that proposes what to try")
    pruner: Literal["none", "median", "successive_halving", "hyperband"] = Field(
        "none", description="Optuna's, that ends a trial after an epoch; `none`: all go to the end"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of the sampler")
    seeds: int = Field(
        1,
        ge=1,
        description="each trial is trained with so many seeds, counted up from `training.seed`, "
        "and its score is the mean",
    )
    folds: int | None = Field(
        None,
        ge=2,
        description="cross-validation: each trial is trained on all but one of so many folds of "
        "the training rows and scored on that one, for each of them; its score is the mean. The "
        "best configuration is then trained, with `data.validation`, and tested as without folds",
    )
    labels: Annotated[list[str], BeforeValidator(_listed), AfterValidator(_different)] | None = (
        Field(
            None,
            description="columns, each of which is taken as `data.label` and searched for by "
            "itself: the trials of each are tried on it, and a best one is tested for each; sets "
            "hold texts alone, so that all columns share them",
        )
    )
    score: str | None = Field(
        None,
        description="what is sought to be best, on validation: one of the task's scores, which "
        "knows its direction; default: the main one",
    )
    max_seconds: float | None = Field(
        None, gt=0, description="no trial is begun once all together have taken so long"
    )
    max_usd: float | None = Field(
        None, gt=0, description="no trial is begun once all together have cost so much"
    )
    storage: Annotated[Uri, AfterValidator(absolute_sqlite)] = Field(
        "sqlite:///.autofreeze/optuna.db",
        description="Optuna's database: a URL of SQLAlchemy; several processes that are given the "
        "same one, and the same configuration, work on one study",
    )

    @property
    def num_members(self) -> int:
        """Trainings of a trial."""
        return self.folds or self.seeds

    @property
    def varies(self) -> bool:
        """Whether there is anything to vary: a section may only say where studies lie."""
        return bool(self.vary) or self.num_members > 1 or self.labels is not None

    @model_validator(mode="after")
    def _once(self) -> "SearchConfig":
        if self.seeds > 1 and "training.seed" in self.vary:
            raise ValueError("vary training.seed or give seeds, not both")
        if self.folds is not None and self.seeds > 1:
            raise ValueError("give seeds or folds, not both")
        if self.labels is not None and "data.label" in self.vary:
            raise ValueError("vary data.label or give labels, not both")
        return self
