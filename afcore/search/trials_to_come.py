"""Which trials still to come may begin as one that is trained: those that go on otherwise alone."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.distributions import FloatDistribution

from afcore.search.common_epochs import LATE_KEYS
from afcore.search.space import Dimension, Space

__all__ = ["late_settings_to_come", "may_share_epochs"]

_LATE = {f"training.{key}": key for key in LATE_KEYS}


def may_share_epochs(space: Space, values: Mapping[str, Any]) -> bool:
    """Whether a trial may have its first epochs in common with another one.

    Not where a key that decides them is drawn from a range without steps, as it is never drawn
    twice alike.

    Args:
        space: what is varied.
        values: of the trial.
    """
    varied = [one for one in space.dimensions if one.key in values]
    early = [one for one in varied if one.key not in _LATE]
    return len(early) < len(varied) and not any(map(_has_no_steps, early))


def late_settings_to_come(
    space: Space, values: Mapping[str, Any], listed: Iterable[Mapping[str, Any]] | None
) -> list[dict[str, Any]]:
    """How trials to come go on that begin as this one may.

    Args:
        space: what is varied.
        values: of this trial.
        listed: the others that are known to come, by Optuna's labels; None: any may.

    Returns:
        Of each, its value of every varied key of :data:`.common_epochs.LATE_KEYS`.
    """
    late = [one for one in space.dimensions if one.key in _LATE]
    own = {one.key: values[one.key] for one in late}
    if listed is None:
        choices = itertools.product(*map(_most_in_common, late))
        found = [dict(zip(own, choice, strict=True)) for choice in choices]
        found = [one for one in found if one != own]
    else:
        early = _early(space.labels(values))
        alike = [labels for labels in listed if _early(labels) == early]
        found = [{one.key: one.value_of(labels[one.key]) for one in late} for labels in alike]
    return [{_LATE[key]: value for key, value in one.items()} for one in found]


def _has_no_steps(dimension: Dimension) -> bool:
    drawn = dimension.distribution
    return isinstance(drawn, FloatDistribution) and drawn.step is None


def _most_in_common(dimension: Dimension) -> list[Any]:
    """All values of a list; of a range the last two at either end.

    Nobody between them has more epochs in common with another one: the longest training has most.
    """
    if isinstance(dimension.varied, list):
        return dimension.varied
    values = dimension.grid or dimension.ends
    return values[:2] + values[-2:]


def _early(labels: Mapping[str, Any]) -> dict[str, Any]:
    return {key: label for key, label in labels.items() if key not in _LATE}
