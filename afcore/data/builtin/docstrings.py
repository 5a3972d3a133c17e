"""The built-in data set ``docstrings``: which installed package does this docstring come from?

Another question on the same text is the column ``kind``: is it of a module, class, function or
method? Real text that every machine has. The packages' files are parsed with ``ast`` and never
imported. Files are taken in the order of their paths' sha256, until a package has enough, and rows
are sorted by their text's sha256: the pinned versions alone decide the rows, not the file system.
"""

import ast
import hashlib
import importlib.util
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from afcore.errors import DataError

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
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

MIN_CHARACTERS = 60
ROWS_PER_PACKAGE = 1000
TEST_SHARE = 0.25


def docstring_rows(split: str) -> list[dict[str, str]]:
    """Rows ``{"text": docstring, "label": package, "kind": ...}`` of a split, in a fixed order.

    A docstring that occurs more than once is kept once when all its copies are of one package and
    one kind, and not at all otherwise. About :data:`ROWS_PER_PACKAGE` a package.

    Args:
        split: ``train`` or ``test``; each docstring is in one of them.

    Raises:
        DataError: for another split, or when a package is not installed.
    """
    if split not in ("train", "test"):
        raise DataError(f"the data set 'docstrings' has the splits train and test, not {split!r}")
    return [
        {"text": text, "label": package, "kind": kind}
        for name, text, package, kind in _all_rows()
        if (name[-1] < 256 * TEST_SHARE) == (split == "test")
    ]


@cache
def _all_rows() -> list[tuple[bytes, str, str, str]]:
    """(sha256 of the text, text, package, kind), sorted.

    The last byte of the sha256 decides the split, the first ones the order.
    """
    origins: dict[str, set[tuple[str, str]]] = {}
    for package in PACKAGES:
        for text, kind in _some_docstrings(package):
            origins.setdefault(text, set()).add((package, kind))
    return sorted(
        (hashlib.sha256(text.encode()).digest(), text, *next(iter(found)))
        for text, found in origins.items()
        if len(found) == 1
    )


def _some_docstrings(package: str) -> set[tuple[str, str]]:
    folder = _folder(package)
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.py")}
    found: set[tuple[str, str]] = set()
    for path in sorted(files, key=lambda path: hashlib.sha256(path.encode()).digest()):
        if not {"tests", "test", "testing"} & set(path.split("/")):
            found.update(_docstrings(files[path]))
        if len(found) >= ROWS_PER_PACKAGE:
            break
    return found


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"the data set 'docstrings' reads the installed package {package!r}, which is missing. "
            "Install the project's requirements.lock."
        )
    return Path(spec.submodule_search_locations[0])


def _docstrings(file: Path) -> Iterator[tuple[str, str]]:
    """(text, kind)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node, kind in _documented(tree, "module"):
        text = " ".join((ast.get_docstring(node) or "").split())
        if len(text) >= MIN_CHARACTERS:
            yield text, kind


def _documented(node: ast.Module | ast.ClassDef, kind: str) -> Iterator[tuple[_Documented, str]]:
    """A module, its functions, its classes and their methods, each with its kind."""
    yield node, kind
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _documented(child, "class")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child, "function" if kind == "module" else "method"
