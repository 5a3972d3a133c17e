"""Which installed package is a docstring, or a long piece of source code, from?"""

import hashlib
import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path

from afcore.data.builtin.docstrings import PACKAGES, docstring_rows
from afcore.errors import DataError
from bench.recipes.rows import (
    MissingSourceError,
    Row,
    Split,
    first_of_each_label,
    split_rows,
    unambiguous,
)

__all__ = ["docstrings", "pieces", "sources_long"]

_DOCSTRINGS_TRAIN_ROWS = 2500
_PIECE_CHARACTERS = 1500
_LONGEST_LINE = 200
_PIECES_PER_FILE = 3
_PIECES_PER_PACKAGE = 600
_TEST_SHARE = 0.4
_TRAIN_ROWS_PER_PACKAGE, _TEST_ROWS_PER_PACKAGE = 188, 125


def docstrings(question: str) -> Split:
    """The built-in data set, some of its training rows, and its test rows.

    Args:
        question: the column that is asked for, ``label`` (the package) or ``kind``.

    Raises:
        MissingSourceError: when a package is not installed.
    """
    try:
        train, test = docstring_rows("train"), docstring_rows("test")
    except DataError as error:
        raise MissingSourceError(str(error)) from error
    # They come in the order of their sha256.
    return Split(
        [Row(row["text"], row[question]) for row in train[:_DOCSTRINGS_TRAIN_ROWS]],
        [Row(row["text"], row[question]) for row in test],
    )


def sources_long() -> Split:
    """Pieces of code of 256 tokens and more, by package; split by file.

    Raises:
        MissingSourceError: when a package is not installed.
    """
    rows = [row for package in PACKAGES for row in _package_rows(package)]
    split = split_rows(unambiguous(rows), _TEST_SHARE)
    return Split(
        first_of_each_label(split.train, _TRAIN_ROWS_PER_PACKAGE),
        first_of_each_label(split.test, _TEST_ROWS_PER_PACKAGE),
    )


def _package_rows(package: str) -> list[Row]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingSourceError(
            f"the package {package!r} is not installed: install the project's requirements.lock"
        )
    folder = Path(spec.submodule_search_locations[0])
    files = {f"{package}/{file.relative_to(folder).as_posix()}": file for file in _sources(folder)}
    rows: list[Row] = []
    for path in sorted(files, key=lambda path: hashlib.sha256(path.encode()).digest()):
        text = files[path].read_text(encoding="utf-8", errors="replace")
        some = itertools.islice(pieces(text, package), _PIECES_PER_FILE)
        rows += [Row(piece, package, path) for piece in some]
        if len(rows) >= _PIECES_PER_PACKAGE:
            break
    return rows


def _sources(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*.py"):
        if not {"tests", "test", "testing"} & set(file.relative_to(folder).parts):
            yield file


def pieces(text: str, package: str) -> Iterator[str]:
    """Whole lines that have 1,500 characters together, blanks not counted; not the file's rest.

    What would give the answer away is left out: comments at the head of the file, imports, and
    lines with the package's name. Its habits remain: names of its functions, its style, and which
    other packages it uses.
    """
    lines = itertools.dropwhile(lambda line: not line or line.startswith("#"), text.splitlines())
    piece: list[str] = []
    num_characters = 0
    for line in lines:
        told = package in line.lower() or line.lstrip().startswith(("import ", "from "))
        if told or not line.strip() or len(line) > _LONGEST_LINE:
            continue
        piece.append(line.rstrip())
        num_characters += len("".join(line.split()))
        if num_characters >= _PIECE_CHARACTERS:
            yield "\n".join(piece)
            piece, num_characters = [], 0
