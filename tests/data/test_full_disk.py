"""Rows for which the folder of temporary files has no room."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from afcore.data.column_file import file_array
from afcore.data.files import stream_file
from afcore.errors import StorageFullError
from tests.data.source_files import load
from tests.small_disk import SmallDisk, small_disk

MESSAGE = r"no space left.*: of 4\.2 MB on the disk at .*point TMPDIR elsewhere"


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    """That of temporary files."""
    with small_disk(tmp_path / "disk", megabytes=4) as mounted:
        monkeypatch.setattr(tempfile, "tempdir", str(mounted.path))
        yield mounted


def test_rows_that_do_not_fit(tmp_path: Path, disk: SmallDisk) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(3000)))
    assert len(load(path)) == 3000
    disk.fill()
    with pytest.raises(StorageFullError, match=MESSAGE):
        load(path)


def test_a_copy_that_does_not_fit(disk: SmallDisk) -> None:
    content = b"text,label\n" + b"x" * 2_000_000 + b",1\n"
    fsspec.filesystem("memory").pipe_file("/large/rows.csv", content)
    assert len(load("memory://large/rows.csv")[0][0]) == 2_000_000
    disk.fill(leave_bytes=65536)
    for read in (load, lambda source: list(stream_file(source, "utf-8", 10))):
        with pytest.raises(StorageFullError, match=MESSAGE):
            read("memory://large/rows.csv")


def test_numbers_of_rows_that_do_not_fit(disk: SmallDisk) -> None:
    """To write to the memory of a file with holes would end the process."""
    found = file_array(1000, np.int64)
    assert not found.any()
    assert len(file_array(0, np.int64)) == 0
    disk.fill()
    with pytest.raises(OSError, match="No space left on device"):
        file_array(100_000, np.int64)
