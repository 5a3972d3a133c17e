"""The built-in data set ``docstring-summaries``: what a docstring says first, from what follows.

Real text that every machine has, from the files of :mod:`afcore.data.builtin.python_files`: the
first paragraph of a docstring is a person's summary of the others.
"""

import ast
from functools import cache

from afcore.data.builtin.docstrings import PACKAGES
from afcore.data.builtin.python_files import documented, in_split, parsed_files

__all__ = ["summary_rows"]

_NAME = "docstring-summaries"
_SUMMARY_CHARACTERS = (15, 120)
_DOCUMENT_CHARACTERS = (100, 2000)
ROWS_PER_PACKAGE = 500


def summary_rows(split: str) -> list[dict[str, str]]:
    """Rows ``{"document": the rest, "summary": first paragraph}`` of a split, in a fixed order.

    About :data:`ROWS_PER_PACKAGE` a package; each document occurs once.

    Args:
        split: ``train`` or ``test``.

    Raises:
        DataError: for another split, or when a package is not installed.
    """
    return in_split(_NAME, split, _all_rows())


@cache
def _all_rows() -> dict[str, dict[str, str]]:
    """By their documents."""
    found: dict[str, dict[str, str]] = {}
    for package in PACKAGES:
        enough = len(found) + ROWS_PER_PACKAGE
        for tree in parsed_files(package, _NAME):
            for node, _ in documented(tree, "module"):
                summary, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
                row = {"document": " ".join(rest.split()), "summary": " ".join(summary.split())}
                if _is_of(row["summary"], _SUMMARY_CHARACTERS) and _is_of(
                    row["document"], _DOCUMENT_CHARACTERS
                ):
                    found.setdefault(row["document"], row)
            if len(found) >= enough:
                break
    return found


def _is_of(text: str, characters: tuple[int, int]) -> bool:
    return characters[0] <= len(text) <= characters[1]
