"""Entities in labels of words: runs of words that are one thing, as seqeval counts them.

Labels such as ``B-PER``, ``I-PER``, ``O`` say where an entity begins (IOB1, IOB2, IOBES, BILOU);
of plain labels (``noun``, ``verb``) each maximal run is one, and ``O`` is none. Source: conlleval
(Tjong Kim Sang and De Meulder 2003) as seqeval 1.2 has it in its default mode, which takes an
entity that begins with ``I-`` for one. seqeval reads plain labels by their first letter, ``ORG``
as ``O``; here they are read whole.
"""

import re
from collections.abc import Iterable, Sequence

__all__ = ["Entity", "Tag", "are_plain", "entities", "read_tags"]

Tag = tuple[str, str]
"""B, I, E, S or O; and the kind of the entity."""
Entity = tuple[str, int, int]
"""Its kind, its first and its last word, counted from 0."""

_OUTSIDE: Tag = ("O", "")
_PREFIXED = re.compile(r"([BIESLUM])(?:-(.*))?")
# Of BILOU and BMES.
_SAME_AS = {"L": "E", "U": "S", "M": "I"}


def are_plain(label_names: Sequence[str]) -> bool:
    """Whether they have no scheme: not all of them have a prefix, or are ``O``."""
    return not all(_PREFIXED.fullmatch(name) for name in label_names if name != "O")


def read_tags(label_names: Sequence[str]) -> list[Tag]:
    """What each label says; as plain ones unless all of them have a prefix, or are ``O``."""
    found = [_PREFIXED.fullmatch(name) for name in label_names]
    plain = are_plain(label_names)
    tags = []
    for name, one in zip(label_names, found, strict=True):
        if name == "O":
            tags.append(_OUTSIDE)
        elif plain or one is None:
            tags.append(("I", name))
        else:
            tags.append((_SAME_AS.get(one[1], one[1]), one[2] or ""))
    return tags


def entities(tags: Iterable[Tag]) -> set[Entity]:
    """Those of a row.

    Args:
        tags: of its words, in order.
    """
    found: set[Entity] = set()
    begin, previous = 0, _OUTSIDE
    for word, tag in enumerate([*tags, _OUTSIDE]):
        outside = tag[0] == "O"
        begins = not outside and (tag[0] in "BS" or previous[0] in "ESO" or previous[1] != tag[1])
        if (begins or outside) and previous[0] != "O":
            found.add((previous[1], begin, word - 1))
        if begins:
            begin = word
        previous = tag
    return found
