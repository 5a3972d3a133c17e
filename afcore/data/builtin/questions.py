"""The built-in data set ``questions``: of which type is it, and what is returned?

Questions to the documentation of functions of installed packages, in
:mod:`afcore.data.builtin.parameter_sections`; an answer is what stands there as the type. One of
four asks for a parameter that the function does not have, and has no answer.
"""

import hashlib
from functools import cache
from typing import Any

from afcore.data.builtin.parameter_sections import DocumentedFunction, documented_functions
from afcore.data.builtin.python_files import in_split

__all__ = ["question_rows"]

_FUNCTIONS_PER_PACKAGE = 160
_QUESTIONS_PER_FUNCTION = 4
_DESCRIPTION_WORDS = 12


def question_rows(split: str) -> list[dict[str, Any]]:
    """Rows ``{"question", "context", "answers": {"text", "answer_start"}, "function"}``.

    Args:
        split: ``train`` or ``test``; all questions to a context are in one of them.

    Raises:
        DataError: for another split, or when a package is not installed.
    """
    return [row for rows in in_split("questions", split, _all_rows()) for row in rows]


@cache
def _all_rows() -> dict[str, list[dict[str, Any]]]:
    """By their context."""
    functions = list(documented_functions("questions", _FUNCTIONS_PER_PACKAGE))
    names = sorted({entry.names for function in functions for entry in function.parameters})
    found = {}
    for function in functions:
        context, types = _context(function)
        answers = list(types.items())[: _QUESTIONS_PER_FUNCTION - 1]
        if answers:
            asked = [_row(function, name, context, [place]) for name, place in answers]
            missing = names[int(hashlib.sha256(context.encode()).hexdigest(), 16) % len(names)]
            if missing not in types:
                asked.append(_row(function, missing, context, []))
            found[context] = asked
    return found


def _context(function: DocumentedFunction) -> tuple[str, dict[str, tuple[str, int]]]:
    """The text, and by the name of each parameter (blank: what is returned) its type, and where."""
    text, types = f"{function.name}. {function.summary}", {}
    entries = [(one.names, one) for one in function.parameters]
    entries += [("", one) for one in function.returns[:1]]
    for name, entry in entries:
        if not name:
            text += " Returns"
        text += f" {entry.names} : "
        if entry.type:
            types[name] = (entry.type, len(text))
        words = entry.description.split()[:_DESCRIPTION_WORDS]
        text += " ".join([entry.type, *words])
    return text, types


def _row(
    function: DocumentedFunction, name: str, context: str, answers: list[tuple[str, int]]
) -> dict[str, Any]:
    asked = f"What is the type of {name}?" if name else f"What does {function.name} return?"
    texts, starts = [text for text, _ in answers], [start for _, start in answers]
    return {
        "question": asked,
        "context": context,
        "answers": {"text": texts, "answer_start": starts},
        "function": function.name,
    }
