import gzip
import json
from pathlib import Path

import datasets
import pytest

from afcore.data.sources import load_rows
from afcore.errors import DataError

ROWS = [{"text": "None", "label": "a"}, {"text": "two, with comma", "label": "b"}]


def load(source: str | Path, limit: int | None = None, text: str = "text") -> list[tuple[str, str]]:
    rows = load_rows(str(source), "train", text, "label", limit)
    return list(zip(rows.texts, rows.labels, strict=True))


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


def test_class_labels_become_their_names(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    table = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)
    table.to_parquet(tmp_path / "rows.parquet")
    assert load(tmp_path / "rows.parquet") == [("x", "yes"), ("y", "no")]


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
    rows = load_rows(str(path), "train", "text", "label", group_column="file")
    assert rows.groups == ["7", "8"]
    with pytest.raises(DataError, match=r"no column 'of'.* Name the column with data\.group"):
        load_rows(str(path), "train", "text", "label", group_column="of")
    path.write_text("text,label,file\nx,1,a\ny,0,\n")
    with pytest.raises(DataError, match="column 'file' is empty in 1 of 2"):
        load_rows(str(path), "train", "text", "label", group_column="file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot load the data"),
        ("text,label\n", "no rows"),
        ("body,label\nx,1\n", "no column 'text', only body, label"),
        ("text,label\nx,1\n ,0\n", r"column 'text' is empty in 1 of 2 rows \(the first is row 1"),
        ("text,label\nx,1\ny,\n", "column 'label' is empty in 1 of 2"),
    ],
)
def test_files_that_are_not_as_they_should_be(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load(path)


@pytest.mark.parametrize("source", ["nowhere.csv", "no/such-hub-data"])
def test_what_is_not_there(source: str) -> None:
    with pytest.raises(DataError, match="cannot load the data"):
        load(source)


def test_docstrings_with_a_named_split() -> None:
    train, test = (load_rows(f"docstrings:{s}", "x", "text", "label") for s in ("train", "test"))
    assert not set(train.texts) & set(test.texts)


@pytest.mark.parametrize(
    ("source", "name", "split"),
    [
        ("user/set", "user/set", "train"),
        ("user/set:test", "user/set", "test"),
        ("hf://datasets/user/set", "hf://datasets/user/set", "train"),
        ("hf://datasets/user/set:test", "hf://datasets/user/set", "test"),
    ],
)
def test_what_the_hub_is_asked_for(
    source: str, name: str, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_dataset(path: str, split: str) -> datasets.Dataset:
        asked.append((path, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    load(source)
    assert asked == [(name, split)]
