"""Texts to tokens, in parts, with progress; and tokens that know their place in the text."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from afcore.data.sources import Rows
from afcore.errors import DataError

__all__ = ["check_offsets", "check_tokens_of", "encodings"]

_ROWS_AT_ONCE = 1000
_CHARACTERS_AT_ONCE = 500_000
"""What a tokenizer gives of a row takes a hundred times the room of its tokens."""
_ROWS_PER_MESSAGE = 10_000
_log = logging.getLogger(__name__)


def encodings(
    processor: Any, source: str, texts: tuple[Sequence[str], ...], **options: Any
) -> Iterator[tuple[int, Any]]:
    """What a tokenizer gives for some rows after others, with the number of the first.

    Args:
        processor: the tokenizer.
        source: of the rows.
        texts: [n], and the second ones of pairs, [n].
        options: of the tokenizer.
    """
    count, done = len(texts[0]), 0
    for part in _parts(zip(*texts, strict=True)):
        yield done, processor(*map(list, zip(*part, strict=True)), **options)
        before, done = done, done + len(part)
        if count > _ROWS_PER_MESSAGE and (
            done == count or done // _ROWS_PER_MESSAGE > before // _ROWS_PER_MESSAGE
        ):
            _log.info("tokenized %d of %d rows of %s", done, count, source)


def _parts(rows: Iterable[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    """At most so many rows, and characters unless it is one row."""
    part, characters = list[tuple[str, ...]](), 0
    for row in rows:
        size = sum(map(len, row))
        if len(part) == _ROWS_AT_ONCE or (part and characters + size > _CHARACTERS_AT_ONCE):
            yield part
            part, characters = [], 0
        part.append(row)
        characters += size
    if part:
        yield part


def check_tokens_of(rows: Rows, first: int, tokens: list[list[int]], what: str = "text") -> None:
    """Some rows must have tokens, those from ``first`` on.

    Raises:
        DataError: for the first that has none, of which ``what`` is tokenized.
    """
    for row, ids in enumerate(tokens, first):
        if not ids:
            raise DataError(
                f"data {rows.source!r}: the {what} in {rows.place(row)} has no tokens. Fill or "
                "remove the row."
            )


def check_offsets(processor: Any, task: str) -> None:
    """A tokenizer must know where in the text its tokens stand.

    Raises:
        DataError: when it does not.
    """
    if not getattr(processor, "is_fast", False):
        raise DataError(
            f"task {task} needs a tokenizer that knows where its tokens stand in the text, which "
            f"{type(processor).__name__} does not. Give a model with a tokenizer.json"
        )
