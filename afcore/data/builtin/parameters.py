"""The built-in data set ``parameters``: which words of a docstring are parameters and types?

Real text that every machine has, of the packages in
:mod:`afcore.data.builtin.parameter_sections`. A row has the words of two entries of a section, and
a label for each, in IOB2: ``NAME`` where a parameter of these is written, in the description too,
and ``TYPE`` where its type is said.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from afcore.data.builtin.parameter_sections import Entry, documented_functions
from afcore.data.builtin.python_files import in_split

__all__ = ["parameter_rows"]

_FUNCTIONS_PER_PACKAGE = 160
_ENTRIES = 2
_DESCRIPTION_WORDS = 15
_WORD = re.compile(r"\w+(?:\.\w+)*|\S")
_Labelled = list[tuple[str, str]]


def parameter_rows(split: str) -> list[dict[str, Any]]:
    """Rows ``{"tokens": words, "labels": one a word}`` of a split, in a fixed order.

    Args:
        split: ``train`` or ``test``; each row is in one of them.

    Raises:
        DataError: for another split, or when a package is not installed.
    """
    return [
        {"tokens": [word for word, _ in row], "labels": [label for _, label in row]}
        for row in in_split("parameters", split, _all_rows())
    ]


@cache
def _all_rows() -> dict[str, _Labelled]:
    """By their text."""
    found = {}
    for function in documented_functions("parameters", _FUNCTIONS_PER_PACKAGE):
        entries = [entry for entry in function.parameters if entry.type]
        for start in range(0, len(entries), _ENTRIES):
            row = list(_row(entries[start : start + _ENTRIES]))
            found[" ".join(word for word, _ in row)] = row
    return found


def _row(entries: list[Entry]) -> Iterator[tuple[str, str]]:
    words = [word for entry in entries for word in _WORD.findall(entry.names)]
    names = {word for word in words if word.isidentifier()}
    for entry in entries:
        yield from _named(_WORD.findall(entry.names), names)
        yield ":", "O"
        for number, word in enumerate(_WORD.findall(entry.type)):
            yield word, "I-TYPE" if number else "B-TYPE"
        yield from _named(_WORD.findall(entry.description)[:_DESCRIPTION_WORDS], names)


def _named(words: list[str], names: set[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        yield word, "B-NAME" if word in names else "O"
