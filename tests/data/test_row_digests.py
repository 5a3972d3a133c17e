"""Rows by what they say."""

import numpy as np

from afcore.data.row_digests import digest_of_rows, row_digests
from afcore.data.sources import Rows


def rows(*pairs: tuple[str, str]) -> Rows:
    return Rows("r", {"text": [a for a, _ in pairs]}, {"label": [b for _, b in pairs]})


ONE, TWO, THREE = ("a", "x"), ("b", "x"), ("a", "y")


def test_the_order_of_rows_does_not_count_but_how_often_they_stand_there_does() -> None:
    digest = digest_of_rows(row_digests(rows(ONE, TWO, THREE)))
    assert digest_of_rows(row_digests(rows(THREE, ONE, TWO))) == digest
    assert digest_of_rows(row_digests(rows(ONE, TWO))) != digest
    assert digest_of_rows(row_digests(rows(ONE, TWO, THREE, THREE))) != digest


def test_a_row_is_what_all_its_fields_say() -> None:
    found = row_digests(rows(ONE, TWO, THREE))
    assert len(set(found.tolist())) == 3
    moved = Rows("r", {"label": ["x"]}, {"text": ["a"]})
    assert row_digests(moved)[0] not in found
    assert np.isin(row_digests(rows(TWO, ("c", "x"))), found).tolist() == [True, False]
