"""Texts to tokens, in parts, with progress; and tokens that know their place in the text."""

import logging
from collections.abc import Iterator
from typing import Any

from afcore.data.sources import Rows
from afcore.errors import DataError

__all__ = ["check_offsets", "check_tokens_of", "encodings"]

_ROWS_AT_ONCE = 1000
"""What a tokenizer gives of a row takes a hundred times the room of its tokens."""
_ROWS_PER_MESSAGE = 10_000
_log = logging.getLogger(__name__)


def encodings(
    processor: Any, source: str, texts: tuple[list[str], ...], **options: Any
) -> Iterator[tuple[int, Any]]:
    """What a tokenizer gives for some rows after others, with the number of the first.

    Args:
        processor: the tokenizer.
        source: of the rows.
        texts: [n], and the second ones of pairs, [n].
        options: of the tokenizer.
    """
    count = len(texts[0])
    for start in range(0, count, _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        yield start, processor(*(column[part] for column in texts), **options)
        done = min(part.stop, count)
        if count > _ROWS_PER_MESSAGE and (done % _ROWS_PER_MESSAGE == 0 or done == count):
            _log.info("tokenized %d of %d rows of %s", done, count, source)


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
