"""The data sets that a source may name without a file: a line each."""

from collections.abc import Callable
from typing import Any

from afcore.data.builtin.digits import digit_rows
from afcore.data.builtin.docstring_choices import docstring_choice_rows
from afcore.data.builtin.docstring_summaries import summary_rows
from afcore.data.builtin.docstrings import docstring_rows
from afcore.data.builtin.parameters import parameter_rows
from afcore.data.builtin.questions import question_rows

__all__ = ["BUILT_IN"]

BUILT_IN: dict[str, Callable[[str], list[dict[str, Any]]]] = {
    "docstrings": docstring_rows,  # a line each
    "digits": digit_rows,
    "parameters": parameter_rows,
    "docstring-choices": docstring_choice_rows,
    "docstring-summaries": summary_rows,
    "questions": question_rows,
}
"""Rows of a split, by the data set's name; each raises :class:`DataError` for another split."""
