"""What does a definition in WordNet 3.0 define: an animal, an artifact, an act, food, ...?

The classes are lexicographer files, in which the makers of WordNet keep nouns and verbs by subject.
The largest are all of nouns.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
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

__all__ = ["gloss_rows", "wordnet_glosses"]

# Of data.noun and data.verb, by the number in their second column: lexnames(5WN).
_LEXICOGRAPHER_FILES = {
    3: "noun.Tops",
    4: "noun.act",
    5: "noun.animal",
    6: "noun.artifact",
    7: "noun.attribute",
    8: "noun.body",
    9: "noun.cognition",
    10: "noun.communication",
    11: "noun.event",
    12: "noun.feeling",
    13: "noun.food",
    14: "noun.group",
    15: "noun.location",
    16: "noun.motive",
    17: "noun.object",
    18: "noun.person",
    19: "noun.phenomenon",
    20: "noun.plant",
    21: "noun.possession",
    22: "noun.process",
    23: "noun.quantity",
    24: "noun.relation",
    25: "noun.shape",
    26: "noun.state",
    27: "noun.substance",
    28: "noun.time",
    29: "verb.body",
    30: "verb.change",
    31: "verb.cognition",
    32: "verb.communication",
    33: "verb.competition",
    34: "verb.consumption",
    35: "verb.contact",
    36: "verb.creation",
    37: "verb.emotion",
    38: "verb.motion",
    39: "verb.perception",
    40: "verb.possession",
    41: "verb.social",
    42: "verb.stative",
    43: "verb.weather",
}
_INSTALLED = Path("/usr/share/wordnet")
_OTHERWISE = (
    "there is no WordNet here: install the Debian package wordnet-base, or give the "
    "folder of WordNet 3.0's data.noun and data.verb with --wordnet"
)
_NUM_CLASSES = 13
_TRAIN_ROWS_PER_CLASS, _TEST_ROWS_PER_CLASS = 192, 115
_TEST_SHARE = 0.375


def wordnet_glosses(wordnet: Path | None) -> Split:
    """Definitions of the largest classes, as many of each; split by text.

    Args:
        wordnet: folder with ``data.noun`` and ``data.verb``; None: that of the Debian package
            ``wordnet-base``, installed or, with apt, fetched into a temporary folder.

    Raises:
        MissingSourceError: when there is none.
    """
    rows = unambiguous(gloss_rows(_lines(wordnet)))
    sizes = Counter(row.label for row in rows)
    largest = sorted(sizes, key=lambda label: (-sizes[label], label))[:_NUM_CLASSES]
    split = split_rows([row for row in rows if row.label in largest], _TEST_SHARE)
    return Split(
        first_of_each_label(split.train, _TRAIN_ROWS_PER_CLASS),
        first_of_each_label(split.test, _TEST_ROWS_PER_CLASS),
    )


def gloss_rows(lines: Iterable[str]) -> Iterator[Row]:
    """(definition, lexicographer file) of each synset; examples, in quotes, are left out."""
    for line in lines:
        if line.startswith("  "):  # the licence
            continue
        columns, _, gloss = line.partition(" | ")
        definition = re.split(r'[;:]\s*"', gloss, maxsplit=1)[0].strip()
        if definition:
            yield Row(definition, _LEXICOGRAPHER_FILES[int(columns.split()[1])])


def _lines(wordnet: Path | None) -> list[str]:
    folder = wordnet or _INSTALLED
    if wordnet is not None or folder.is_dir():
        return _read(folder)
    with debian_package("wordnet-base", _OTHERWISE) as package:
        return _read(package / _INSTALLED.relative_to("/"))


def _read(folder: Path) -> list[str]:
    lines: list[str] = []
    for name in ("data.noun", "data.verb"):
        try:
            lines += (folder / name).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise MissingSourceError(
                f"there is no {name} in {folder}: give the folder of WordNet 3.0 with --wordnet"
            ) from error
    return lines
