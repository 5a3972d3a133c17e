"""Rows of a data set: ambiguous ones dropped, ordered and split by hashes, written as CSV."""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "MissingSourceError",
    "Row",
    "Split",
    "first_of_each_label",
    "read_rows",
    "split_rows",
    "unambiguous",
    "write_rows",
]


class MissingSourceError(Exception):
    """What a recipe reads is not on this machine; the message says how to get it."""


@dataclass(frozen=True)
class Row:
    """A text, its class, and what it is a part of (empty where texts stand alone)."""

    text: str
    label: str
    group: str = ""


@dataclass(frozen=True)
class Split:
    """Rows to train on (validation included) and to test on."""

    train: list[Row]
    test: list[Row]


def unambiguous(rows: Iterable[Row]) -> list[Row]:
    """Each text once, in the order of its sha256; a text with two labels not at all.

    Of the groups that a text stands in it is in the first by name.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.text, []).append(row)
    single = [
        min(copies, key=lambda row: row.group)
        for copies in found.values()
        if len({row.label for row in copies}) == 1
    ]
    return sorted(single, key=lambda row: hashlib.sha256(row.text.encode()).digest())


def split_rows(rows: Iterable[Row], test_share: float) -> Split:
    """Split by the hash of the group, else of the text; the order stays.

    The hash is of ``test``, a line feed and that, so it says nothing about which rows a training
    holds out for validation, nor about the order of :func:`unambiguous`.
    """
    split = Split([], [])
    for row in rows:
        digest = hashlib.sha256(f"test\n{row.group or row.text}".encode()).digest()
        is_test = int.from_bytes(digest[:8], "big") < test_share * 2**64
        (split.test if is_test else split.train).append(row)
    return split


def first_of_each_label(rows: Iterable[Row], count: int) -> list[Row]:
    """At most ``count`` rows of each label; the order stays."""
    taken: Counter[str] = Counter()
    chosen = []
    for row in rows:
        taken[row.label] += 1
        if taken[row.label] <= count:
            chosen.append(row)
    return chosen


def write_rows(path: Path, rows: list[Row]) -> None:
    """CSV with the columns text, label and, if rows have one, group: the same bytes everywhere."""
    columns = ["text", "label", *(["group"] if any(row.group for row in rows) else [])]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([getattr(row, column) for column in columns] for row in rows)


def read_rows(path: Path) -> list[Row]:
    """What :func:`write_rows` wrote, or any CSV with the columns text and label."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(row["text"], row["label"], row.get("group", "")) for row in csv.DictReader(file)
        ]
