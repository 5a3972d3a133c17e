"""Which files a source is: names, patterns, folders, addresses."""

import gzip
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow as pa
import pytest

from afcore.data.files import read_files, stream_file
from afcore.errors import DataError
from tests.data.source_files import (
    FORMATS,
    OTHERS,
    ROWS,
    SAVED,
    WANTED,
    load,
    load_rows,
    write,
)


def test_csv_jsonl_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(ROWS)
    csv, jsonl, parquet = (tmp_path / f"rows.{suffix}" for suffix in ("csv", "jsonl", "parquet"))
    csv.write_text('text,label\nNone,a\n"two, with comma",b\n')
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    table.to_parquet(parquet)
    packed = tmp_path / "rows.csv.gz"
    packed.write_bytes(gzip.compress(csv.read_bytes()))
    expected = [("None", "a"), ("two, with comma", "b")]
    for path in (csv, jsonl, parquet, packed):
        assert load(path) == expected


def test_any_fsspec_url(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\nx,1\ny,0\n")
    assert load(f"file://{path}") == [("x", "1"), ("y", "0")]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("name", "also_matched"),
    [("reviews[2024]", "reviews2"), ("what?", "whats"), ("all*", "all of them"), ("a::b", "a")],
)
def test_a_file_that_exists_is_no_pattern(
    tmp_path: Path, suffix: str, name: str, also_matched: str
) -> None:
    write(tmp_path / f"{also_matched}.{suffix}", OTHERS)
    path = write(tmp_path / f"{name}.{suffix}", WANTED)
    assert load(path) == [("wanted", "yes")]


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_packed_file_is_no_pattern_either(tmp_path: Path, suffix: str, compression: str) -> None:
    write(tmp_path / f"reviews2.{suffix}", OTHERS, compression)
    path = write(tmp_path / f"reviews[2024].{suffix}", WANTED, compression)
    assert load(path) == [("wanted", "yes")]


def test_a_url_of_a_file_that_exists_is_no_pattern(tmp_path: Path) -> None:
    write(tmp_path / "reviews2.csv", OTHERS)
    path = write(tmp_path / "reviews[2024].csv", WANTED)
    assert load(f"file://{path}") == [("wanted", "yes")]


def test_where_no_file_has_the_name_it_is_a_pattern(tmp_path: Path) -> None:
    write(tmp_path / "b.csv", OTHERS)
    write(tmp_path / "a.csv", WANTED)
    assert load(tmp_path / "*.csv") == [("wanted", "yes"), ("other", "no")]
    with pytest.raises(DataError, match="the pattern matches none"):
        load(tmp_path / "*.tsv")
    (tmp_path / "b.csv").write_text("text,label\nx,1\ny,\n")
    with pytest.raises(DataError, match=r"the first is line 3, of '.*b\.csv'"):
        load(tmp_path / "*.csv")


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_of_elsewhere_are_read_as_they_are_there(tmp_path: Path, suffix: str) -> None:
    fs, folder = fsspec.filesystem("memory"), f"/{tmp_path.name}"
    names = {"reviews2": OTHERS, "reviews[2024]": WANTED}
    for name, rows in names.items():
        fs.pipe_file(
            f"{folder}/{name}.{suffix}", write(tmp_path / f"x.{suffix}", rows).read_bytes()
        )
    assert load(f"memory:/{folder}/reviews[2024].{suffix}") == [("wanted", "yes")]
    assert load(f"memory:/{folder}/reviews*.{suffix}") == [("other", "no"), ("wanted", "yes")]
    changed = write(tmp_path / f"x.{suffix}", [{"text": "behind", "label": "b"}])
    fs.pipe_file(f"{folder}/reviews2.{suffix}", changed.read_bytes())
    assert load(f"memory:/{folder}/reviews2.{suffix}") == [("behind", "b")]
    with pytest.raises(DataError, match="there is no such file or object"):
        load(f"memory:/{folder}/none.{suffix}")


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_read_is_what_is_there(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"rows.{suffix}", [{"text": "before", "label": "a"}])
    time = path.stat().st_mtime_ns
    assert load(path) == [("before", "a")]
    write(path, [{"text": "behind", "label": "b"}])
    os.utime(path, ns=(time, time))
    assert load(path) == [("behind", "b")]
    assert load(f"file://{path}") == [("behind", "b")]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_changes_between_two_columns_is_refused(tmp_path: Path, suffix: str) -> None:
    """Or a row would have the text of one version and the label of another."""
    path = write(tmp_path / f"rows.{suffix}", [*WANTED, *OTHERS])
    table = read_files([str(path)], ["text", "label"], "utf-8")
    assert list(table.columns["text"]) == ["wanted", "other"]
    write(path, [*OTHERS, *WANTED])
    later = path.stat().st_mtime_ns + 1
    os.utime(path, ns=(later, later))
    with pytest.raises(DataError, match=rf"'.*rows\.{suffix}' was changed while it was read"):
        list(table.columns["label"])


def test_a_folder_is_read_as_it_is_now(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    path = write(tmp_path / "set" / "train.csv", WANTED)
    time = path.stat().st_mtime_ns
    assert load(tmp_path / "set") == [("wanted", "yes")]
    write(path, [{"text": "behind", "label": "yes"}])
    os.utime(path, ns=(time, time))
    assert load(tmp_path / "set") == [("behind", "yes")]


def test_files_of_a_folder_are_text_as_single_ones_are(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "a.csv").write_text("text,label\n007,TRUE\nNA,01\n")
    (folder / "train" / "b.csv").write_text("text,label\n1.50,UNKNOWN\n")
    (folder / "test").mkdir()
    (folder / "test" / "c.csv").write_text("text,label\n008,TRUE\n")
    assert load(folder) == [("007", "TRUE"), ("NA", "01"), ("1.50", "UNKNOWN")]
    assert load(f"{folder}:test") == [("008", "TRUE")]
    with pytest.raises(DataError, match=r"Unknown split \"dev\".*'test'.*, as NAME:SPLIT\.$"):
        load(f"{folder}:dev")
    (folder / "train" / "b.csv").write_text("text,label\nx,a\ny,\n")
    with pytest.raises(DataError, match=r"'label' is empty in 1 of 4 .*line 3, of '.*b\.csv'"):
        load(folder)
    (folder / "train" / "b.csv").write_bytes("text,label\ncaf\xe9,a\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"b\.csv' is not UTF-8: line 2 has the byte 0xe9"):
        load(folder)
    folder.rename(tmp_path / "set[1]")
    with pytest.raises(DataError, match=r"taken for a pattern. Rename it"):
        load(tmp_path / "set[1]")


@pytest.mark.parametrize(
    ("read", "left_out", "message"),
    [
        ("2023.csv", "2024.jsonl", r"2023\.csv would be left out, as a folder's files have one fo"),
        ("a.csv", "b.ndjson", r"b\.ndjson would be left out"),
        ("a.csv", "b.feather", r"b\.feather would be left out"),
        ("a.csv", "B.CSV", r"B\.CSV would be left out, as in a folder, endings are in small"),
        ("a.csv", "x.zip", r"x\.zip would be left out, as a \.zip is read where it holds pictures"),
    ],
)
def test_files_that_a_folder_would_leave_out(
    tmp_path: Path, read: str, left_out: str, message: str
) -> None:
    folder = tmp_path / "set"
    for name in (read, left_out):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("c.csv", "text,label\nx,a\n")
        else:
            path.write_bytes(write(tmp_path / f"x{path.suffix.lower()}", WANTED).read_bytes())
    with pytest.raises(DataError, match=message):
        load(folder)
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- {{config_name: default, data_files: {read}}}\n---\n"
    )
    assert load(folder) == [("wanted", "yes")], "the README says which file is read"


@pytest.mark.parametrize(
    ("read", "left_out"),
    [
        (["train.csv", "test.csv"], "sample_submission.csv"),
        (["data/train-0.csv"], "deep/in/more.csv"),
        (["train/a.csv", "test/b.csv"], "raw/c.csv"),
        (["train.csv"], "statistics.json"),
    ],
)
def test_files_beside_the_splits_are_told(
    tmp_path: Path, read: list[str], left_out: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (*read, left_out):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = OTHERS if name.startswith("test") or name == left_out else WANTED
        path.write_bytes(write(tmp_path / f"x{path.suffix}", rows).read_bytes())
    assert load(tmp_path / "set") == [("wanted", "yes")]
    assert f"left out: {left_out}" in caplog.text


def test_files_that_a_folder_rightly_leaves_out(tmp_path: Path) -> None:
    names = ["README.md", ".gitattributes", "_SUCCESS", "config.json", ".a.csv.crc", ".old/b.jsonl"]
    (tmp_path / ".old").mkdir()
    for name in [*names, "notes.txt", "dataset_info.json"]:
        (tmp_path / name).write_text("{}")
    write(tmp_path / "train.csv", WANTED)
    write(tmp_path / "test.csv", OTHERS)
    assert load(tmp_path) == [("wanted", "yes")]


def test_a_folder_without_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the folder has no file of rows\. Name one with files"):
        load(tmp_path)
    write(tmp_path / "a.feather", WANTED)
    with pytest.raises(DataError, match=r"a\.feather would be left out"):
        load(tmp_path)


def test_splits_of_two_formats(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", WANTED)
    write(tmp_path / "test.jsonl", OTHERS)
    with pytest.raises(DataError, match=r"Give them one format, or name the files of each split"):
        load(tmp_path)


def test_a_folder_whose_readme_tells_the_types(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nx,1\ny,0\n")
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - {name: text, dtype: string}\n"
        "  - name: label\n    dtype: {class_label: {names: {'0': 'no', '1': 'yes'}}}\n---\n"
    )
    assert load(tmp_path) == [("x", "yes"), ("y", "no")]


def test_a_limit_is_a_fixed_sample_in_order(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"t{i:03d},{i % 2}\n" for i in range(100)))
    some = load(path, limit=20)
    assert len(some) == 20
    assert some == sorted(some) == load(path, limit=20)
    assert some != load(path)[:20]
    assert load(path, limit=1000) == load(path)


def test_a_sample_goes_by_text_and_keeps_its_rows_when_others_come(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"t{i:03d},{i % 2}\n" for i in range(100)))
    some, more = load(path, limit=20), load(path, limit=21)
    assert set(some) < set(more)
    path.write_text("text,label\nnew,0\n" + "".join(f"t{i:03d},{i % 2}\n" for i in range(100)))
    assert len(set(some) - set(load(path, limit=20))) <= 1


def test_groups_are_read_and_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label,file\nx,1,7\ny,0,8\n")
    assert load_rows(str(path), "train", "text", "label").groups is None
    rows = load_rows(str(path), "train", "text", "label", group="file")
    assert rows.groups == ["7", "8"]
    with pytest.raises(DataError, match=r"no column 'of'.* Name the column with data\.group"):
        load_rows(str(path), "train", "text", "label", group="of")
    path.write_text("text,label,file\nx,1,a\ny,0,\n")
    with pytest.raises(DataError, match="column 'file' is empty in 1 of 2"):
        load_rows(str(path), "train", "text", "label", group="file")


@pytest.mark.parametrize("source", ["nowhere.csv", "no/such-hub-data"])
def test_what_is_not_there(source: str) -> None:
    with pytest.raises(DataError, match="cannot load the data"):
        load(source)


def test_docstrings_with_a_named_split() -> None:
    train, test = (load_rows(f"docstrings:{s}", "x", "text", "label") for s in ("train", "test"))
    assert not set(train.identities) & set(test.identities)


@pytest.mark.parametrize(
    ("source", "name", "config", "revision", "split"),
    [
        ("ag_news", "ag_news", None, None, "train"),
        ("user/set:test", "user/set", None, None, "test"),
        ("user/set:train[:10%]", "user/set", None, None, "train[:10%]"),
        ("nyu-mll/glue[mrpc]:validation", "nyu-mll/glue", "mrpc", None, "validation"),
        ("swag[regular]", "swag", "regular", None, "train"),
        ("cnn_dailymail[3.0.0]@main:test", "cnn_dailymail", "3.0.0", "main", "test"),
        ("user/set@refs/pr/1:test", "user/set", None, "refs/pr/1", "test"),
        ("hf://datasets/user/set", "hf://datasets/user/set", None, None, "train"),
        ("hf://datasets/user/set@v1:test", "hf://datasets/user/set", None, "v1", "test"),
    ],
)
def test_what_the_hub_is_asked_for(
    source: str,
    name: str,
    config: str | None,
    revision: str | None,
    split: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    class Builder:
        hash = "0" * 40

        def download_and_prepare(self) -> None:
            pass

        def as_dataset(self, split: str) -> datasets.Dataset:
            asked.append(split)
            return datasets.Dataset.from_list(ROWS)

    def load_dataset_builder(path: str, name: str | None, revision: str | None) -> Builder:
        asked.extend([path, name, revision])
        return Builder()

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    load(source)
    assert asked == [name, config, revision, split]


def test_a_list_of_files_and_patterns(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / f"{name}.jsonl", [{"text": name, "label": "x"}], "gz")
    names = [str(tmp_path / "c.jsonl.gz"), str(tmp_path / "[ab].*")]
    rows = load_rows(names, "train", "text", "label")
    assert rows.inputs["text"] == ["c", "a", "b"]
    assert rows.place(1) == f"line 1, of {str(tmp_path / 'a.jsonl.gz')!r}"
    assert [text for text, _ in load(tmp_path / "*")] == ["a", "b", "c"]
    with pytest.raises(DataError, match="'user/set' is one of several, and no file by its name"):
        load_rows([*names, "user/set"], "train", "text", "label")
    with pytest.raises(DataError, match=r"the pattern matches none that ends in \.csv"):
        load(tmp_path / "d*")


def test_a_file_with_several_names_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.csv", WANTED)
    (tmp_path / "link.csv").symlink_to("a.csv")
    write(tmp_path / "b.csv", OTHERS)
    names = ["./a.csv", "*.csv", "~/a.csv", str(tmp_path / "a.csv"), f"file://{tmp_path}/b.csv"]
    rows = load_rows(names, "train", "text", "label")
    assert rows.inputs["text"] == ["wanted", "other"]
    assert rows.place(0) == "line 2, of './a.csv'"
    assert load(tmp_path) == [("wanted", "yes"), ("other", "no")], "of a folder as well"


@pytest.mark.parametrize("name", ["ROWS.CSV", "rows.Csv.GZ"])
def test_an_ending_in_capitals(tmp_path: Path, name: str) -> None:
    small = write(tmp_path / "rows.csv", WANTED, "gz" if name.endswith("GZ") else "")
    path = small.rename(tmp_path / name)
    (tmp_path / "rows.csv").unlink(missing_ok=True)
    assert load(path) == load(tmp_path / "*") == [("wanted", "yes")]
    with pytest.raises(DataError, match=f"{name} would be left out, as in a folder, endings are"):
        load(tmp_path)


def test_a_folder_that_is_named_like_a_file(tmp_path: Path) -> None:
    """As Spark and Dask write what they call a file."""
    folder = tmp_path / "out.parquet"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    for name, rows in (("a", WANTED), ("b", OTHERS)):
        write(folder / f"part-{name}.snappy.parquet", rows)
    for source in (folder, f"{folder}/", f"{folder}:train"):
        assert load(source) == [("wanted", "yes"), ("other", "no")]
    with pytest.raises(DataError, match=r"is a folder, .* by a pattern, as .*out\.parquet/\*\.par"):
        load(tmp_path / "*")
    with pytest.raises(DataError, match=r"is a folder, where files were expected"):
        list(stream_file(str(folder), "utf-8", 1))


def test_files_that_do_not_go_together(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", WANTED)
    write(tmp_path / "b.parquet", WANTED)
    with pytest.raises(DataError, match=r"several formats \('.*a.csv' is csv, '.*b.parquet' is"):
        load(tmp_path / "*")
    write(tmp_path / "c.csv", [{"text": "x", "lable": "y"}])
    with pytest.raises(DataError, match=r"c\.csv' has no column 'label', only text, lable, and o"):
        load(tmp_path / "*.csv")


@pytest.mark.parametrize("begin", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow_as_a_file_and_as_a_stream(tmp_path: Path, begin: Callable[..., Any]) -> None:
    path = tmp_path / "rows.arrow"
    table = pa.Table.from_pylist([*WANTED, *OTHERS])
    with begin(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    assert load(path) == [("wanted", "yes"), ("other", "no")]
    assert [len(part) for part in stream_file(str(path), "utf-8", 1)] == [1, 1]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match="is no Arrow file or stream"):
        load(path)


def test_what_datasets_saved_to_a_folder(tmp_path: Path) -> None:
    parts = {name: datasets.Dataset.from_list(rows) for name, rows in SAVED.items()}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "all")
    parts["train"].save_to_disk(tmp_path / "one")
    assert load(tmp_path / "all") == load(tmp_path / "one") == [("wanted", "yes")]
    assert load(f"{tmp_path / 'all'}:test") == [("other", "no")]
    with pytest.raises(DataError, match="has no split 'dev', only train, test"):
        load(f"{tmp_path / 'all'}:dev")


def test_a_folder_with_configurations(tmp_path: Path) -> None:
    for name, rows in (("mrpc", WANTED), ("rte", OTHERS)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train.csv", rows)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- {config_name: mrpc, data_dir: mrpc}\n"
        "- {config_name: rte, data_dir: rte}\n---\n"
    )
    assert load(f"{tmp_path}[mrpc]") == [("wanted", "yes")]
    assert load(f"{tmp_path}[rte]:train") == [("other", "no")]
    with pytest.raises(DataError, match="Config name is missing"):
        load(tmp_path)
