"""The built-in data set ``docstring-choices``: which sentence describes this function?

The first sentence of a function's own docstring and those of three others of the same package, as
:mod:`afcore.data.builtin.docstrings` reads them.
"""

import ast
import hashlib
from functools import cache
from typing import Any

from afcore.data.builtin.docstrings import PACKAGES
from afcore.data.builtin.python_files import in_split, parsed_files

__all__ = ["docstring_choice_rows"]

_NAME = "docstring-choices"
NUM_CHOICES = 4
ROWS_PER_PACKAGE = 400
_SHORTEST, _LONGEST = 20, 200


def docstring_choice_rows(split: str) -> list[dict[str, Any]]:
    """Rows ``{"text": signature, "choices": four sentences, "label": "0" to "3"}``.

    Args:
        split: ``train`` or ``test``; each function is in one of them.

    Raises:
        DataError: for another split, or when a package is not installed.
    """
    return in_split(_NAME, split, _all_rows())


@cache
def _all_rows() -> dict[str, dict[str, Any]]:
    """By their texts."""
    rows: dict[str, dict[str, Any]] = {}
    for package in PACKAGES:
        found = sorted(_described(package).items(), key=lambda pair: _digest(pair[0]))
        for number, (signature, sentence) in enumerate(found):
            label = _digest(signature)[0] % NUM_CHOICES
            others = [found[(number + i) % len(found)][1] for i in range(1, 9)]
            wrong = [other for other in dict.fromkeys(others) if other != sentence]
            choices = wrong[: NUM_CHOICES - 1]
            choices.insert(label, sentence)
            if len(choices) == NUM_CHOICES:
                rows[signature] = {"text": signature, "choices": choices, "label": str(label)}
    return rows


def _described(package: str) -> dict[str, str]:
    """Sentences by signatures, one each."""
    found: dict[str, str] = {}
    for tree in parsed_files(package, _NAME):
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            sentence = " ".join((ast.get_docstring(node) or "").split()).partition(". ")[0]
            if _SHORTEST <= len(sentence) <= _LONGEST and sentence not in found.values():
                found.setdefault(f"{node.name}({ast.unparse(node.args)})", sentence)
        if len(found) >= ROWS_PER_PACKAGE:
            break
    return dict(list(found.items())[:ROWS_PER_PACKAGE])


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
