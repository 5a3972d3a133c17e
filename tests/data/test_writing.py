"""Tables that are written and read again."""

from pathlib import Path

import pytest

from afcore.data.files import stream_file
from afcore.data.writing import open_writer

TEXTS = ["old\rMac", "\r", "two\r\nlines", "two\nlines", 'a "quote"', "end\r\n", "plain"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_texts_come_back_whatever_ends_a_line_in_them(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    writer = open_writer(path, kind)
    for texts in (TEXTS[:3], TEXTS[3:]):
        writer.write({"text": (texts, None), "number": (["1"] * len(texts), None)})
    writer.close()
    (table,) = stream_file(str(path), "utf-8", 100)
    assert table.columns == {"text": TEXTS, "number": ["1"] * len(TEXTS)}


def test_lines_of_a_csv_end_with_a_line_feed(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    writer = open_writer(path, "csv")
    writer.write({"a": (["x", "y\r"], None), "b": ([1, None], None)})
    writer.close()
    assert path.read_bytes() == b'a,b\nx,1\n"y\r",\n'
