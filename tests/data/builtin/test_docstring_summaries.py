import pytest

from afcore.data.builtin.docstring_summaries import summary_rows
from afcore.errors import DataError


def test_real_summaries_of_texts_that_are_longer_and_each_there_once() -> None:
    train, test = summary_rows("train"), summary_rows("test")
    assert len(train) > 2000
    assert 0.15 < len(test) / len(train + test) < 0.35
    documents = [row["document"] for row in train + test]
    assert len(set(documents)) == len(documents)
    assert all(15 <= len(row["summary"]) <= 120 for row in train + test)
    assert min(map(len, documents)) >= 100
    returns = [row for row in train if row["summary"].startswith("Return")]
    assert 0.05 < len(returns) / len(train) < 0.5, "no summary begins like all others"


def test_other_splits_are_refused() -> None:
    with pytest.raises(DataError, match="'docstring-summaries' has the splits train and test, not"):
        summary_rows("dev")
