"""Python files of installed packages, parsed and never imported, in an order that versions decide.

Files are taken in the order of their paths' sha256, so that the file system has no say.
"""

import ast
import hashlib
import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from afcore.errors import DataError

__all__ = ["Documented", "documented", "in_split", "parsed_files"]

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
TEST_SHARE = 0.25
Row = TypeVar("Row")


def in_split(data_set: str, split: str, rows: Mapping[str, Row]) -> list[Row]:
    """The rows of a split: the sha256 of a row's text decides it by its last byte, and the order.

    Args:
        data_set: that they are of.
        split: ``train`` or ``test``.
        rows: by their texts.

    Raises:
        DataError: for another split.
    """
    if split not in ("train", "test"):
        raise DataError(f"the data set {data_set!r} has the splits train and test, not {split!r}")
    digests = sorted((hashlib.sha256(text.encode()).digest(), text) for text in rows)
    return [
        rows[text]
        for digest, text in digests
        if (digest[-1] < 256 * TEST_SHARE) == (split == "test")
    ]


def parsed_files(package: str, data_set: str) -> Iterator[ast.Module]:
    """The package's files but for its tests; one that is no Python is left out.

    Raises:
        DataError: when it is not installed, for the ``data_set`` that reads it.
    """
    folder = _folder(package, data_set)
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.py")}
    for path in sorted(files, key=lambda path: hashlib.sha256(path.encode()).digest()):
        if {"tests", "test", "testing"} & set(path.split("/")):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                tree = ast.parse(files[path].read_bytes())
        except (SyntaxError, ValueError):
            continue
        yield tree


def _folder(package: str, data_set: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"the data set {data_set!r} reads the installed package {package!r}, which is missing. "
            "Install the project's requirements.lock."
        )
    return Path(spec.submodule_search_locations[0])


def documented(node: ast.Module | ast.ClassDef, kind: str) -> Iterator[tuple[Documented, str]]:
    """A module, its functions, its classes and their methods, each with its kind."""
    yield node, kind
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from documented(child, "class")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child, "function" if kind == "module" else "method"
