"""Which book of the Unix program fortune is a saying from: computers, people, politics, songs, ...?

Partly a question of topic, partly one of form (definitions, verses), and sayings are short and do
not mean what they say. Those of Debian's packages ``fortunes`` and ``fortunes-min``.
"""

from collections.abc import Iterator
from pathlib import Path

from bench.recipes.fetched import debian_package
from bench.recipes.rows import (
    MissingSourceError,
    Row,
    Split,
    first_of_each_label,
    split_rows,
    unambiguous,
)

__all__ = ["fortunes"]

_BOOKS = (
    "computers",
    "definitions",
    "men-women",
    "people",
    "politics",
    "science",
    "songs-poems",
    "work",
)
"""The largest, but for those that have a bit of everything."""
_INSTALLED = Path("/usr/share/games/fortunes")
_OTHERWISE = (
    "there are no fortunes here: install the Debian package fortunes, or give the folder of its "
    "files with --fortunes"
)
_TRAIN_ROWS_PER_BOOK, _TEST_ROWS_PER_BOOK = 320, 200
_TEST_SHARE = 0.375


def fortunes(folder: Path | None) -> Split:
    """Sayings of the largest books, as many of each; split by text.

    Args:
        folder: of the books; None: that of the Debian package, installed or, with apt, fetched into
            a temporary folder.

    Raises:
        MissingSourceError: when there is none.
    """
    split = split_rows(unambiguous(_rows(folder)), _TEST_SHARE)
    return Split(
        first_of_each_label(split.train, _TRAIN_ROWS_PER_BOOK),
        first_of_each_label(split.test, _TEST_ROWS_PER_BOOK),
    )


def _rows(folder: Path | None) -> list[Row]:
    given = folder or (_INSTALLED if _INSTALLED.is_dir() else None)
    if given is not None:
        return list(_sayings(given))
    with debian_package("fortunes", _OTHERWISE) as package:
        return list(_sayings(package / _INSTALLED.relative_to("/")))


def _sayings(folder: Path) -> Iterator[Row]:
    for book in _BOOKS:
        try:
            text = (folder / book).read_text(encoding="utf-8")
        except OSError as error:
            raise MissingSourceError(f"there is no {book} in {folder}: {_OTHERWISE}") from error
        for saying in text.split("\n%\n"):
            if words := saying.split():
                yield Row(" ".join(words), book)
