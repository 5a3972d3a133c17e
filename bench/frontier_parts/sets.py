"""The data sets of the frontier. Which sets there are is said here alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["QUICK", "RATE_ROWS", "DataSet", "known_sets"]

RATE_ROWS = 3000
"""Most rows with which rates are chosen: for a large set, a sample of it."""
QUICK = {"data.limit": 1000, "data.test_limit": 1000}
"""Changes for a first look."""


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


def known_sets(
    agnews: Sequence[str] | None = None, csv: Sequence[Sequence[str]] = ()
) -> dict[str, DataSet]:
    """By name, those of one's own last.

    Args:
        agnews: paths of CSV files with the columns text and label, for training and test.
        csv: the same with a name before and the longest example in tokens after.
    """
    docstrings = {
        "data.train": "docstrings",
        "data.test": "docstrings",
        "data.limit": 2500,
        "data.max_length": 64,
    }
    sets = [
        DataSet("docstrings-package", {**docstrings, "data.label": "label"}),
        DataSet("docstrings-kind", {**docstrings, "data.label": "kind"}),
    ]
    if agnews:
        sets.append(DataSet("ag-news", {**_files(*agnews), "data.limit": 2500}))
    for name, train, test, max_length in csv:
        sets.append(DataSet(name, {**_files(train, test), "data.max_length": int(max_length)}))
    return {data_set.name: data_set for data_set in sets}


def _files(train: str, test: str) -> dict[str, str]:
    return {
        "data.train": str(Path(train).absolute()),
        "data.test": str(Path(test).absolute()),
    }
