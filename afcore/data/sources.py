"""Rows of text and label from anywhere, through the ``datasets`` library.

Leaves tokens to :mod:`afcore.data.prepare`.
"""

import re
from dataclasses import dataclass
from typing import Any

import datasets

from afcore.data.docstrings import docstring_rows
from afcore.data.split import sampled
from afcore.errors import DataError

__all__ = ["Rows", "load_rows"]

_FORMATS = {"csv": "csv", "tsv": "csv", "json": "json", "jsonl": "json", "parquet": "parquet"}
_FILE = re.compile(rf"\.({'|'.join(_FORMATS)})(\.(gz|bz2|xz|zst))?$")


@dataclass(frozen=True)
class Rows:
    """Texts, their labels and groups (as strings), in the source's order; or no groups."""

    source: str
    texts: list[str]
    labels: list[str]
    groups: list[str] | None = None


def load_rows(
    source: str,
    split: str,
    text_column: str,
    label_column: str,
    limit: int | None = None,
    group_column: str | None = None,
) -> Rows:
    """Load a data set.

    Args:
        source: a file (path or fsspec URL ending in one of csv, tsv, json, jsonl, parquet, perhaps
            compressed), ``docstrings``, or the name of a hub data set; the last two may end in
            ``:SPLIT``.
        split: the split to take when ``source`` does not name one.
        text_column: column of the texts.
        label_column: column of the labels: strings, integers or a ``ClassLabel``.
        limit: at most so many rows, a sample by :func:`afcore.data.split.sampled`.
        group_column: column of the groups: strings or integers.

    Raises:
        DataError: when the source cannot be read, is empty, or lacks a column, text, label or
            group.
    """
    table = _load(source, split)
    if table.num_rows == 0:
        raise DataError(f"data {source!r} has no rows")
    for key, column in (("text", text_column), ("label", label_column), ("group", group_column)):
        if column is not None and column not in table.column_names:
            raise DataError(
                f"data {source!r} has no column {column!r}, only {', '.join(table.column_names)}. "
                f"Name the column with data.{key}."
            )
    if limit is not None and limit < table.num_rows:
        table = table.select(sampled(_strings(table, text_column), limit))
    rows = Rows(
        source,
        _strings(table, text_column),
        _strings(table, label_column),
        None if group_column is None else _strings(table, group_column),
    )
    _refuse_blank(source, text_column, rows.texts)
    _refuse_blank(source, label_column, rows.labels)
    if group_column is not None and rows.groups is not None:
        _refuse_blank(source, group_column, rows.groups)
    return rows


def _load(source: str, split: str) -> Any:
    datasets.disable_progress_bars()
    try:
        if match := _FILE.search(source):
            return _load_file(source, match[1])
        if "://" in source and not source.startswith("hf://"):
            raise DataError(
                f"cannot tell the format of the data {source!r}: its name must end in "
                f".{', .'.join(_FORMATS)}, perhaps compressed (.gz, .bz2, .xz, .zst)."
            )
        name, colon, named_split = source.rpartition(":")
        if not colon or named_split.startswith("//"):
            name, named_split = source, split
        if name == "docstrings":
            return datasets.Dataset.from_list(docstring_rows(named_split))
        return datasets.load_dataset(name, split=named_split)
    except DataError:
        raise
    except Exception as error:
        if "corresponds to no data" in str(error):  # a header and nothing below it
            raise DataError(f"data {source!r} has no rows") from error
        raise DataError(
            f"cannot load the data {source!r}: {_reason(error)}. Give a CSV, JSON lines or "
            "Parquet file with a header, the name of a hub data set, or 'docstrings'."
        ) from error


def _load_file(source: str, suffix: str) -> Any:
    options: dict[str, Any] = {}
    if _FORMATS[suffix] == "csv":
        # A text may well be the word "None" or "NA".
        options = {"keep_default_na": False, "sep": "\t" if suffix == "tsv" else ","}
    return datasets.load_dataset(
        _FORMATS[suffix], data_files={"rows": source}, split="rows", **options
    )


def _reason(error: BaseException) -> str:
    """The innermost cause, on one line: the outer ones only say that something went wrong."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def _strings(table: Any, column: str) -> list[str]:
    names = getattr(table.features[column], "names", None)
    return [_string(value, names) for value in table[column]]


def _string(value: Any, names: list[str] | None) -> str:
    """What is missing is blank, and a ``ClassLabel`` is its name."""
    if value is None:
        return ""
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)


def _refuse_blank(source: str, column: str, values: list[str]) -> None:
    blank = [row for row, value in enumerate(values) if not value.strip()]
    if blank:
        raise DataError(
            f"data {source!r}: column {column!r} is empty in {len(blank)} of {len(values)} rows "
            f"(the first is row {blank[0]}, counted from 0). Fill or remove them."
        )
