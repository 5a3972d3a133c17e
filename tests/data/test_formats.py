"""Tables of so many rows at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afcore.data.files import stream_file
from afcore.data.formats import read_csv, read_json
from afcore.data.table import Table
from afcore.errors import DataError

CSV = ["text,n\n", *(f"t{i},{i}\n" for i in range(8))]
JSON = ["\n", *(f'{{"text": "t{i}", "n": {i}}}\n' for i in range(8))]


@pytest.mark.parametrize(
    ("lines", "read"),
    [
        (CSV, lambda lines: read_csv("x", lines, ",", None, 3)),
        (JSON, lambda lines: read_json("x", lines, None, 3)),
    ],
)
def test_a_file_is_read_as_far_as_its_tables_are_asked_for(
    lines: list[str], read: Callable[[Iterator[str]], Iterator[Table]]
) -> None:
    taken = []
    tables = read(taken.append(line) or line for line in lines)  # type: ignore[func-returns-value]
    first = next(tables)
    assert len(taken) <= 1 + 3 + 2, "the header, the rows, and what is needed to see their end"
    assert first.columns == {"text": ["t0", "t1", "t2"], "n": ["0", "1", "2"]}
    assert [len(table) for table in tables] == [3, 2]
    assert len(taken) == len(lines)


def test_equal_short_texts_are_one_object() -> None:
    """A label of a million rows takes a pointer in each."""
    label, text = "one of the labels", "longer than that: " * 3
    lines = ["text,label\n", *[f"{text},{label}\n" for _ in range(1200)]]
    (table,) = read_csv("x", iter(lines), ",", None)
    assert len({id(value) for value in table.columns["label"]}) == 1
    assert len({id(value) for value in table.columns["text"]}) == 1200
    different = ["label\n", *[f"{i}\n" for i in range(3000)]]
    (table,) = read_csv("x", iter(different), ",", None)
    assert table.columns["label"] == [str(i) for i in range(3000)]


def stream(path: Path, num_rows: int = 2) -> list[tuple[dict[str, list[Any]], list[str]]]:
    tables = stream_file(str(path), "utf-8", num_rows)
    return [(t.columns, [t.places.name(row) for row in range(len(t))]) for t in tables]


def test_rows_of_later_tables_know_where_they_stand(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b", "c"], "n": [1, 2, 3]})
    pq.write_table(table, tmp_path / "x.parquet")
    assert stream(tmp_path / "x.parquet") == [
        ({"text": ["a", "b"], "n": [1, 2]}, ["row 0, counted from 0", "row 1, counted from 0"]),
        ({"text": ["c"], "n": [3]}, ["row 2, counted from 0"]),
    ]
    (tmp_path / "x.csv").write_text("text,n,,\na,1,,\n\nb,2,,\nc\n")
    assert stream(tmp_path / "x.csv") == [
        ({"text": ["a", "b"], "n": ["1", "2"]}, ["line 2", "line 4"]),
        ({"text": ["c"], "n": [None]}, ["line 5"]),
    ]
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n{"n": 1, "text": "b"}\n{"m": 2}\n')
    assert stream(tmp_path / "x.jsonl") == [
        ({"text": ["a", "b"], "n": [None, "1"]}, ["line 1", "line 2"]),
        ({"m": ["2"]}, ["line 3"]),
    ]


def test_a_file_without_rows_still_has_its_columns(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,n\n")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "x.parquet")
    assert stream(tmp_path / "x.csv") == [({"text": [], "n": []}, [])]
    assert stream(tmp_path / "x.parquet") == [({"text": []}, [])]


def test_several_files_are_not_streamed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("text\nx\n")
    with pytest.raises(DataError, match="names 2 files; give one at a time"):
        stream(tmp_path / "*.csv")


def test_an_infinity_is_a_number_and_nan_is_a_value_that_is_missing() -> None:
    lines = ['{"n": Infinity}\n', '{"n": -Infinity}\n', '{"n": NaN}\n']
    (table,) = read_json("x", lines, None)
    assert table.columns["n"] == ["Infinity", "-Infinity", None]
