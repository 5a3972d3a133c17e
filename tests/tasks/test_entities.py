"""Against seqeval."""

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from afcore.tasks.entities import entities, read_tags

SCHEMES = {
    "IOB2": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    "IOBES": ["O", "B-X", "I-X", "E-X", "S-X", "B-Y-Z", "I-Y-Z", "E-Y-Z", "S-Y-Z"],
    "inside alone": ["O", "I-PER", "I-LOC"],
    "no kinds": ["O", "B", "I"],
    "plain": ["noun", "verb", "O"],
}


@pytest.mark.parametrize("scheme", SCHEMES)
@given(data=st.data())
def test_entities_are_those_of_seqeval(scheme: str, data: st.DataObject) -> None:
    names = SCHEMES[scheme]
    labels = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=12))
    tags = dict(zip(names, read_tags(names), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of labels without a prefix
        expected = get_entities(labels)
    found = entities(tags[label] for label in labels)
    assert {(first, last) for _, first, last in found} == {(a, b) for _, a, b in expected}
    if scheme not in ("plain", "no kinds"):  # of which seqeval cuts a letter off, or says "_"
        assert found == set(expected)


def test_plain_labels_are_read_whole() -> None:
    tags = dict(zip(["ORG", "BOOK"], read_tags(["ORG", "BOOK"]), strict=True))
    row = ["ORG", "ORG", "BOOK", "BOOK"]
    assert entities(tags[label] for label in row) == {("ORG", 0, 1), ("BOOK", 2, 3)}


def test_bilou() -> None:
    names = ["O", "B-X", "I-X", "L-X", "U-X"]
    tags = dict(zip(names, read_tags(names), strict=True))
    row = ["B-X", "L-X", "U-X", "O", "B-X", "I-X", "L-X"]
    assert entities(tags[label] for label in row) == {("X", 0, 1), ("X", 2, 2), ("X", 4, 6)}
