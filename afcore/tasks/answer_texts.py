"""Columns of answers: texts that stand in another text, perhaps with the place where."""

from collections.abc import Iterator, Sequence
from typing import Any

from afcore.data.sources import Field, read_texts
from afcore.data.stored_values import StoredValues
from afcore.data.table import ReadColumn, Table
from afcore.data.text_lists import read_inner
from afcore.data.written_values import written_value
from afcore.errors import DataError

__all__ = ["KnownAnswer", "read_answers"]

KnownAnswer = tuple[str, int | None]
"""Its text, and the number of its first character in the context where it is known."""


def read_answers(source: str, key: str, column: str, table: Table) -> Sequence[list[KnownAnswer]]:
    """Of each row the right answers, none of a question that has none.

    A value is an object ``{"text": [...], "answer_start": [...]}`` as hub data sets have it, a list
    of objects with one of each, a list of texts, or a text; nothing is no answer. A CSV has objects
    as JSON, or as pandas writes them.

    Raises:
        DataError: for another value.
    """

    def known() -> Iterator[list[tuple[Any, int | None]]]:
        for row, value in enumerate(table.columns[column]):
            try:
                pairs = _pairs(value)
                found = [(text, None if start is None else int(start)) for text, start in pairs]
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"data {source!r}: column {column!r} holds {str(value)[:40]!r} in "
                    f"{table.places.name(row)}. Write a text that stands in the context, nothing, "
                    'or an object like {"text": ["..."], "answer_start": [0]}'
                ) from error
            yield found

    given = ReadColumn(lambda: ([text for text, _ in pairs] for pairs in known()), len(table))
    texts = read_inner(Field(key, column, read_texts), source, given, table.places)
    return StoredValues(
        [(text, start) for text, (_, start) in zip(some, pairs, strict=True) if text.strip()]
        for some, pairs in zip(texts, known(), strict=True)
    )


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = written_value(value)
    if isinstance(value, dict):
        texts = list(value["text"]) if not isinstance(value["text"], str) else [value["text"]]
        starts = value.get("answer_start")
        if starts is None:
            return [(text, None) for text in texts]
        starts = list(starts) if isinstance(starts, list | tuple) else [starts]
        return list(zip(texts, starts, strict=True))
    if isinstance(value, list | tuple):
        return [pair for one in value for pair in _pairs(one)]
    return [] if value is None else [(value, None)]
