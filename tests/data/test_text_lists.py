"""Lists of texts, however a file holds them."""

from typing import Any

import datasets
import pytest

from afcore.data.sources import is_blank
from afcore.data.table import Places, Table
from afcore.data.text_lists import read_text_lists
from afcore.data.typed_formats import class_names, read_parquet
from afcore.errors import DataError


def read(values: list[Any], separator: str | None = None) -> list[list[str]]:
    table = Table(["words"], {"words": values}, Places("row", range(len(values))))
    return read_text_lists("here", "text", "words", table, separator)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a  b", "", "[c"], [["a", "b"], [], ["[c"]]),
        ([["a", "b c"], None, [7]], [["a", "b c"], [], ["7"]]),
        (['["a", "b"]', "['c']", ""], [["a", "b"], ["c"], []]),
        (["[ 1 ]", "a b"], [["[", "1", "]"], ["a", "b"]]),
        (["[a] of [b]", "['a', 'b']", "c"], [["[a]", "of", "[b]"], ["['a',", "'b']"], ["c"]]),
        (["[1 2]", "a b"], [["[1", "2]"], ["a", "b"]]),
        ([f"[{'2024 ' * 30}x ]", "a"], [["[2024", *["2024"] * 29, "x", "]"], ["a"]]),
        (['["\\ud83d\\ude00", 1.5]'], [["\U0001f600", "1.5"]]),
    ],
)
def test_lists(values: list[Any], expected: list[list[str]]) -> None:
    assert read(values) == expected


def test_a_separator() -> None:
    assert read(["a b,c"], ",") == [["a b", "c"]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([["a"], "b"], "holds lists, and 'b' in row 1"),
        ([["a"], [["b"]]], "holds a list in row 1"),
        (
            ["['a', 'b']", "['a' 'b']"],
            r"holds \"\['a' 'b'\]\" in row 1, .* no list that can be read",
        ),
        (["['a'\n \"it's\" ... 'c']"], "in row 0, counted from 0, which is no list that can be"),
        (["[0 1 0]", ""], r"holds '\[0 1 0\]' in row 0, counted from 0, which is no list"),
        (["['a', 'b']", "", "['a', nan]"], r"'a', nan\]\" in row 2, counted from 0, which is no l"),
    ],
)
def test_what_is_no_list_is_refused(values: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(values)


def test_blank() -> None:
    assert all(is_blank(value) for value in (None, "", " ", [], {}, float("nan"), b" "))
    assert not any(is_blank(value) for value in ("a", ["a"], {"a": 1}, 0, b"\xff"))


def test_classes_in_lists_are_named(tmp_path: Any) -> None:
    kind = datasets.List(datasets.ClassLabel(names=["O", "B-X"]))
    assert class_names("here", "tags", [[0, 1], [], None], kind) == [["O", "B-X"], [], None]
    with pytest.raises(DataError, match="has 2 in row 1, counted from 0, which is none"):
        class_names("here", "tags", [[0], [2]], kind)
    data = datasets.Dataset.from_dict(
        {"tags": [[0, 1], [1]]}, features=datasets.Features({"tags": kind})
    )
    path = tmp_path / "some.parquet"
    data.to_parquet(path)
    (table,) = read_parquet("here", path, None)
    assert table.columns["tags"] == [["O", "B-X"], ["B-X"]]
    assert table.types is not None
    assert str(table.types["tags"]).startswith("list<")
