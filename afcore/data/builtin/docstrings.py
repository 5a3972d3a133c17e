"""The built-in data set ``docstrings``: which installed package does this docstring come from?

Another question on the same text is the column ``kind``: is it of a module, class, function or
method? Real text that every machine has. Files are read until a package has enough, and rows
are sorted by their text's sha256: the pinned versions alone decide the rows, not the file system.
"""

import ast
from collections.abc import Iterator
from functools import cache

from afcore.data.builtin.python_files import documented, in_split, parsed_files

__all__ = ["PACKAGES", "docstring_rows"]

PACKAGES = (
    "matplotlib",
    "networkx",
    "numpy",
    "pandas",
    "prefect",
    "scipy",
    "sqlalchemy",
    "torch",
)
MIN_CHARACTERS = 60
ROWS_PER_PACKAGE = 1000


def docstring_rows(split: str) -> list[dict[str, str]]:
    """Rows ``{"text": docstring, "label": package, "kind": ...}`` of a split, in a fixed order.

    A docstring that occurs more than once is kept once when all its copies are of one package and
    one kind, and not at all otherwise. About :data:`ROWS_PER_PACKAGE` a package.

    Args:
        split: ``train`` or ``test``; each docstring is in one of them.

    Raises:
        DataError: for another split, or when a package is not installed.
    """
    return [
        {"text": text, "label": package, "kind": kind}
        for text, package, kind in in_split("docstrings", split, _all_rows())
    ]


@cache
def _all_rows() -> dict[str, tuple[str, str, str]]:
    """(text, package, kind), by the text."""
    origins: dict[str, set[tuple[str, str]]] = {}
    for package in PACKAGES:
        for text, kind in _some_docstrings(package):
            origins.setdefault(text, set()).add((package, kind))
    return {text: (text, *next(iter(found))) for text, found in origins.items() if len(found) == 1}


def _some_docstrings(package: str) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for tree in parsed_files(package, "docstrings"):
        found.update(_docstrings(tree))
        if len(found) >= ROWS_PER_PACKAGE:
            break
    return found


def _docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(text, kind)."""
    for node, kind in documented(tree, "module"):
        text = " ".join((ast.get_docstring(node) or "").split())
        if len(text) >= MIN_CHARACTERS:
            yield text, kind
