"""Several labels a text: how rows say which, and what is refused."""

from typing import Any

import pytest

from afcore.data.formats import Number
from afcore.data.sources import Rows
from afcore.data.table import Places, Table
from afcore.errors import DataError
from afcore.tasks.multi_label_classification import MultiLabelClassification


def learned(values: list[Any], beyond: list[Any] | None = None) -> list[str]:
    """Names of the labels of a column."""

    def read(some: list[Any]) -> Any:
        table = Table(["tags"], {"tags": some}, Places("line", range(2, len(some) + 2)))
        return MultiLabelClassification.read_label("here", "label", "tags", table)

    places = Places("line", range(2, len(values) + 2))
    left_out = {} if beyond is None else {"label": read(beyond)}
    texts = {"text": [f"text {row}" for row in range(len(values))]}
    rows = Rows("here", texts, {"label": read(values)}, places=places, beyond=left_out)
    tokenizer = type("Tokenizer", (), {"pad_token_id": 0})
    return MultiLabelClassification.learn({"train": rows}, rows, tokenizer).label_names


@pytest.mark.parametrize(
    ("values", "first"),
    [
        ([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]], 2),
        ([[Number("0"), Number("1")], [Number("1"), Number("1")]], 2),
        (["", "[0.0, 1.0, 0.0]", "[0.0, 1.0, 1.0]"], 3),
        (["0,1,0", "1,1,1"], 2),
        ([[False, True, False]], 2),
    ],
)
def test_a_flag_for_each_label_is_refused(values: list[Any], first: int) -> None:
    message = (
        rf"column 'tags' holds a 0 or 1 for each of \d labels .*first is line {first}\), and t"
    )
    with pytest.raises(DataError, match=message):
        learned(values)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([[1, 0], [0, 1]], ["0", "1"]),  # two labels
        ([[0], [1], [0]], ["0", "1"]),
        ([["0", "0"], ["1"]], ["0", "1"]),
        ([[0, 1, 2], [1, 1, 2]], ["0", "1", "2"]),
    ],
)
def test_labels_that_are_numbers(values: list[Any], names: list[str]) -> None:
    assert learned(values) == names


@pytest.mark.parametrize(
    ("values", "beyond", "message"),
    [
        ([[], []], None, "data 'here': no row has a label. Is it the column"),
        ([[], []], [["a"]], "data 'here': no row has a label. Raise data.limit, or leave it out."),
        ([["x"], ["a, b", "x"]], None, "the label 'a, b' in line 3 has a comma, which stands betw"),
    ],
)
def test_labels_that_cannot_be_learned(
    values: list[Any], beyond: list[Any] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        learned(values, beyond)
