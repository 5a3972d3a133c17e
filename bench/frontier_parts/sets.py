"""The data sets of the frontier: those of the recipes, and a user's own CSV files."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.recipes.rows import MissingSourceError
from bench.recipes.sets import SETS, Sources, make_set

__all__ = ["QUICK", "RATE_ROWS", "DataSet", "make_sets", "set_names", "with_changes"]

RATE_ROWS = 3000
"""Most rows with which rates are chosen: for a large set, a sample of it."""
QUICK = {"data.limit": 1000, "data.test_limit": 1000}
"""Changes for a first look."""
_LARGE_ROWS = 10_000
_USUAL_ROWS = 2500


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        name: in files and tables.
        settings: of the section ``data``.
        most_seeds: of a set that is large; None for all.
    """

    name: str
    settings: Mapping[str, Any]
    most_seeds: int | None = None


def set_names(csv: Sequence[Sequence[str]] = ()) -> list[str]:
    """All there are, those of one's own last."""
    return [*SETS, *(one[0] for one in csv)]


def make_sets(
    names: Sequence[str],
    folder: Path,
    sources: Sources,
    csv: Sequence[Sequence[str]] = (),
) -> tuple[dict[str, DataSet], list[str]]:
    """Data sets by name, and why others are left out.

    Args:
        names: of :func:`set_names`.
        folder: where the recipes write.
        sources: where they read.
        csv: a name, paths of CSV files with the columns text and label for training and test, and
            the longest example in tokens.
    """
    made: dict[str, DataSet] = {}
    missing: list[str] = []
    for name, train, test, max_length in csv:
        settings = {
            "data.train": str(Path(train).absolute()),
            "data.test": str(Path(test).absolute()),
            "data.max_length": int(max_length),
        }
        if name in names:
            made[name] = DataSet(name, settings)
    for name in names:
        if name in made:
            continue
        try:
            files = make_set(name, folder, sources)
        except MissingSourceError as error:
            missing.append(f"{name} is left out: {error}")
            continue
        recipe = SETS[name]
        if recipe.is_as_measured(files) is False:
            missing.append(f"{name} is not the set that was measured: its sources have changed")
        with files.train.open("rb") as rows:
            is_large = sum(1 for _ in rows) > _LARGE_ROWS and recipe.limit is None
        settings = recipe.settings(files)
        if not is_large and settings["data.limit"] is None:
            settings["data.limit"] = _USUAL_ROWS
        made[name] = DataSet(name, settings, most_seeds=1 if is_large else None)
    return {name: made[name] for name in names if name in made}, missing


def with_changes(data_set: DataSet, changes: Mapping[str, Any]) -> DataSet:
    """A data set with further settings."""
    return dataclasses.replace(data_set, settings={**data_set.settings, **changes})
