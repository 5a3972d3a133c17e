"""What is in a file: texts, labels, encodings, and what is none of them."""

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afcore.errors import DataError
from tests.data.source_files import FORMATS, load, load_rows, packed, write

TYPED = ["007", "1.50", "TRUE", "NA", "2024-01-01", "1e3", "01", "1A", "0.0", "0", "-1", "nan"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_text_is_text_whatever_it_looks_like(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": value, "label": value, "of": value} for value in TYPED]
    path = write(tmp_path / f"rows.{suffix}", rows)
    assert load(path) == [(value, value) for value in TYPED]
    assert load_rows(str(path), "train", "text", "label", group="of").groups == TYPED


@pytest.mark.parametrize("values", [["007", "008"], ["TRUE", "FALSE"], ["0.0", "1.0"]])
def test_a_column_of_one_type_is_text(tmp_path: Path, values: list[str]) -> None:
    rows = [{"text": value, "label": value} for value in values]
    assert load(write(tmp_path / "rows.csv", rows)) == [(value, value) for value in values]


def test_numbers_of_typed_files_are_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"text": "x", "label": 0}\n{"text": "y", "label": 0.0}\n{"text": "z", "label": "a"}\n'
    )
    assert load(path) == [("x", "0"), ("y", "0.0"), ("z", "a")]
    table = pa.table({"text": ["x", "y"], "label": pa.array([1, 0], pa.int8())})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert load(tmp_path / "rows.parquet") == [("x", "1"), ("y", "0")]


def test_a_number_as_text_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "x", "label": "a"}\n\n{"text": 2.50, "label": "b"}\n')
    assert load(path) == [("x", "a"), ("2.50", "b")]
    assert "column 'text' is a number in 1 of 2 rows (the first is line 3, 2.50)" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": ["a", "b"], "label": "x"},
            "column 'text' holds a list in line 3, \"['a', 'b']\"",
        ),
        ({"text": {"a": 1}, "label": "x"}, "column 'text' holds an object in line 3"),
        ({"text": "a", "label": ["x"]}, "column 'label' holds a list in line 3"),
        ({"text": "a", "label": {"x": 1}}, "column 'label' holds an object in line 3"),
        ({"text": "a\ud83d", "label": "x"}, "'text' holds a text that is not Unicode"),
        (
            {"text": None, "label": "x"},
            "column 'text' is empty in 1 of 3 rows (the first is line 3)",
        ),
        ({"text": "a"}, "column 'label' is empty in 1 of 3 rows (the first is line 3)"),
        ({"text": "a", "label": float("nan")}, "column 'label' is empty in 1 of 3"),
        (["a", "x"], "line 3 holds"),
    ],
)
@pytest.mark.parametrize("form", ["lines", "list"])
def test_values_that_are_no_text(tmp_path: Path, row: Any, message: str, form: str) -> None:
    rows = [{"text": "t", "label": "x"}, row, {"text": "u", "label": "y"}]
    path = tmp_path / "rows.json"
    lines = [json.dumps(row) for row in rows]
    path.write_text(
        "[\n" + ",\n".join(lines) + "\n]" if form == "list" else "\n" + "\n".join(lines)
    )
    with pytest.raises(DataError) as caught:
        load(path)
    assert message in str(caught.value)


def test_values_of_parquet_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["x", "y"], "label": [["a"], ["b", "c"]]}), path)
    with pytest.raises(DataError, match=r"'label' holds a list in row 0, counted from 0"):
        load(path)
    pq.write_table(pa.table({"text": [b"x", b"\xff"], "label": ["a", "b"]}), path)
    with pytest.raises(DataError, match=r"'text' holds bytes that are not UTF-8 in row 1"):
        load(path)
    pq.write_table(pa.table({"text": [b"x", b"y"], "label": ["a", "b"]}), path)
    assert load(path) == [("x", "a"), ("y", "b")]


def test_white_space_around_a_label_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label,of\n x ,warm,g\ny,warm ,g \nz,\tcold,h\n")
    rows = load_rows(str(path), "train", "text", "label", group="of")
    assert rows.inputs["text"] == [" x ", "y", "z"]
    assert rows.targets["label"] == ["warm", "warm", "cold"]
    assert rows.groups == ["g", "g", "h"]
    assert "around the label is left out in 2 of 3 rows (the first is line 3)" in caplog.text
    caplog.clear()
    caplog.set_level(logging.INFO)
    path.write_text("text,label,of\nx,a b,c d\n")
    load(path)
    assert not caplog.messages


def test_a_row_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n\n"over\ntwo lines",a\n   \nx,b\ny, \n')
    with pytest.raises(DataError, match=r"'label' is empty in 1 of 3 rows \(the first is line 7\)"):
        load(path)
    many = "".join(f"t{i:03d},{i % 2}\n" for i in range(100))
    path.write_text(f"text,label\n{many}")
    texts = [text for text, _ in load(path, limit=20)]
    line = 2 + int(texts[7][1:])
    path.write_text(
        f"text,label\n{many}".replace(f"{texts[7]},{int(texts[7][1:]) % 2}", f"{texts[7]},")
    )
    with pytest.raises(DataError, match=rf"1 of 20 rows \(the first is line {line}\)"):
        load(path, limit=20)


LATIN = "text,label\nx,a\ncaf\xe9,b\n"


def test_an_encoding_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(LATIN.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(caught.value).endswith(
        "is not UTF-8: line 3 has the byte 0xe9. Save it as UTF-8 or give data.encoding, e.g. "
        "latin-1 or cp1252"
    )
    expected = ["x", "caf\xe9"]
    assert (
        load_rows(str(path), "train", "text", "label", encoding="latin-1").inputs["text"]
        == expected
    )
    with pytest.raises(DataError, match=r"data\.encoding: unknown encoding 'latin-x'"):
        load_rows(str(path), "train", "text", "label", encoding="latin-x")
    path.write_bytes(LATIN.encode("utf-8-sig"))
    with pytest.raises(DataError, match=r"is not CP1252, but UTF-8 by .* Leave data\.encoding out"):
        load_rows(str(path), "train", "text", "label", encoding="cp1252")
    zst = tmp_path / "rows.csv.zst"
    zst.write_bytes(packed("zst", LATIN.encode("latin-1")))
    with pytest.raises(DataError, match=r"is not UTF-8: line 3 has the byte 0xe9"):
        load(zst)
    path.write_bytes(LATIN.encode("utf-16"))
    with pytest.raises(DataError, match=r"give data\.encoding: utf-16"):
        load(path)
    assert (
        load_rows(str(path), "train", "text", "label", encoding="utf-16").inputs["text"] == expected
    )
    path.write_bytes(LATIN.encode("utf-8-sig"))
    assert [text for text, _ in load(path)] == expected
    lines = tmp_path / "rows.jsonl"
    lines.write_bytes('{"text": "caf\xe9", "label": "b"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"line 1 has the byte 0xe9.*data\.encoding"):
        load(lines)
    assert (
        load_rows(str(lines), "train", "text", "label", encoding="latin-1").inputs["text"]
        == expected[1:]
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text,label\nx,a,\ny,b,\n", [("x", "a"), ("y", "b")]),
        ("text,label,\nx,a,\ny,b,\n", [("x", "a"), ("y", "b")]),
        ("text,label,more\nx,a\ny,b\n", [("x", "a"), ("y", "b")]),
        (",text,label\n0,x,a\n1,y,b\n", [("x", "a"), ("y", "b")]),
        ("text, label \nx,a\n", [("x", "a")]),
        ("text, text,label\nx,y,a\n", [("x", "a")]),
        ("\ufefftext,label\nx,a\n", [("x", "a")]),
        ('text,label\r\n"x ""y"" z",a\r\n', [('x "y" z', "a")]),
        ('text,label\n"two\r\nlines",a', [("two\r\nlines", "a")]),
    ],
)
def test_csv_as_people_write_it(
    tmp_path: Path, content: str, expected: list[tuple[str, str]]
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode())
    assert load(path) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "text,label\nx,a\ny,z,b\n", "line 3 has 3 values, and the header has 2"),
        ("rows.csv", 'text,label\nx,a\n"y,b\nz,a\n', "opens in the row at line 3 is never closed"),
        ("rows.csv", "text,label,text\nx,a,y\n", "2 columns with the name 'text'"),
        ("rows.jsonl", '{"text": "x", "label": "a"}\n{"text": ', "line 2 is not JSON"),
        ("rows.json", '[{"text": "x"},\n {"text" "y"}]', "line 2 is not JSON"),
        ("rows.json", '[{"text": "x"}', "line 1 is not JSON"),
        ("rows.json", '\n[{"text": "x"}]\n[{"text": "y"}]', "line 3 is not JSON (Something foll"),
        ("rows.json", '[{"text": "x"}] y', "line 1 is not JSON (Something follows the list, at"),
        ("rows.json", "[]\n{}", "line 2 is not JSON (Something follows"),
        ("rows.json", "[" * 99_999, "line 1 holds lists or objects nested deeper than can be read"),
        ("rows.jsonl", '{}\n{"text": ' + "[" * 99_999, "line 2 holds lists or objects nested de"),
        ("rows.csv", "text;label\nx, y;a\n", "'text;label', by ',', and looks separated by ';'"),
        ("rows.csv", "text\tlabel\nx\ta\n", "looks separated by '\\t'. If so, name it .tsv"),
        ("rows.tsv", "text,label\nx,a\n", "looks separated by ','. If so, name it .csv"),
        ("rows.csv", "PK\x03\x04\n", "is no text, but a ZIP archive or an Excel workbook"),
        ("rows.jsonl", "PAR1\n", "is no text, but Parquet by its first bytes. Name it .parquet"),
        ("rows.parquet", "text,label\nx,a\n", "cannot load the data"),
        ("rows.parquet", "text,label\nx,a\n", "it is damaged, cut off, or not what its name says"),
        ("rows.txt", "text,label\nx,a\n", "cannot tell the format"),
    ],
)
def test_files_that_are_not_what_their_names_say(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path / name)
    assert message in str(caught.value)


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_packed_file_that_is_cut_off(tmp_path: Path, suffix: str, packing: str) -> None:
    rows = [{"text": f"t{number}", "label": str(number % 7)} for number in range(2000)]
    path = write(tmp_path / f"rows.{suffix}", rows, packing)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(caught.value).startswith(f"cannot load the data '{path}': it is damaged, cut off, ")
    assert str(caught.value).endswith("). Write it again, or get another copy.")


def test_damaged_bytes_are_told_from_a_disk_that_fails(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", [{"text": "x", "label": "a"}] * 999, "gz")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the checksum
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"BadGzipFile: CRC check failed .* Write it again, or"):
        load(path)
    path.unlink()
    with pytest.raises(DataError, match=r"no such file \(from the folder .*\)\. Check its name\.$"):
        load(path)


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_two_columns_of_one_name(tmp_path: Path, suffix: str) -> None:
    table = pa.table([["x"], ["a"], ["b"]], names=["text", "label", "label"])
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(DataError, match=r"has 2 columns with the name 'label'\. Give each its own"):
        load(path)


@pytest.mark.parametrize("source", ["", ":", "::", " "])
def test_a_name_of_nothing(source: str) -> None:
    with pytest.raises(DataError, match="that is no name of a file, folder or data set"):
        load(source)


@pytest.mark.parametrize("number", [-1, 2])
def test_a_number_of_no_class_is_refused(tmp_path: Path, number: int) -> None:
    """-1 is how the test sets of GLUE say that a row has no label."""
    label = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.Value("int64")}
    )
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, number]}, features=features)
    table = rows.data.table.replace_schema_metadata(
        datasets.Features({"text": datasets.Value("string"), "label": label}).arrow_schema.metadata
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError) as caught:
        load(tmp_path / "rows.parquet")
    assert (
        f"column 'label' has {number} in row 1, counted from 0, which is none of its 2 classes. "
        "-1 stands for no label"
    ) in str(caught.value)


def test_class_labels_become_their_names(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    table = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)
    table.to_parquet(tmp_path / "rows.parquet")
    assert load(tmp_path / "rows.parquet") == [("x", "yes"), ("y", "no")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot load the data"),
        ("text,label\n", "no rows"),
        ("body,label\nx,1\n", "no column 'text', only body, label"),
        (
            "text,label\nx,1\n ,0\n",
            r"column 'text' is empty in 1 of 2 rows \(the first is line 3\)",
        ),
        ("text,label\nx,1\ny,\n", "column 'label' is empty in 1 of 2"),
    ],
)
def test_files_that_are_not_as_they_should_be(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load(path)
