from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from afcore.data.held_rows import hold_rows
from afcore.data.sources import Field, load_rows, read_labels, read_texts
from afcore.errors import DataError

TEXTS, LABELS = ["one", "two", "three"], ["b", "a", "b"]
FIELDS = [Field("text", "text", read_texts), Field("label", "label", read_labels, is_target=True)]
CLASSES = datasets.Features(
    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])}
)


@pytest.mark.parametrize(
    "rows",
    [
        [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)],
        {"text": TEXTS, "label": np.array(LABELS)},
        pd.DataFrame({"other": 1, "label": LABELS, "text": TEXTS}),
        pd.DataFrame({"label": pd.Categorical(LABELS), "text": TEXTS}, index=[7, 8, 9]),
        datasets.Dataset.from_dict({"text": TEXTS, "label": [1, 0, 1]}, features=CLASSES),
    ],
    ids=["dicts", "columns", "frame", "categories", "dataset"],
)
def test_every_kind_gives_the_same_rows(rows: Any) -> None:
    found = load_rows(hold_rows("train", rows), "train", FIELDS)
    assert found.inputs == {"text": TEXTS}
    assert found.targets == {"label": LABELS}
    assert found.source == "train"


def test_values_are_read_as_those_of_a_file_with_types() -> None:
    frame = pd.DataFrame({"text": ["x", "y", "z"], "label": np.array([1, 0, 1], dtype=np.int64)})
    assert load_rows(hold_rows("train", frame), "train", FIELDS).targets["label"] == ["1", "0", "1"]
    mixed = [{"text": "x", "label": np.int64(3)}, {"text": np.str_("y"), "label": True}]
    assert load_rows(hold_rows("train", mixed), "train", FIELDS).targets["label"] == ["3", "True"]


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT])
def test_what_is_missing_in_a_frame_is_blank(missing: Any) -> None:
    frame = pd.DataFrame({"text": ["x", missing, "z"], "label": LABELS}, dtype=object)
    with pytest.raises(
        DataError, match=r"data 'train': column 'text' is empty in 1 of 3 rows \(the"
    ):
        load_rows(hold_rows("train", frame), "train", FIELDS)


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(
        DataError, match=r"no column 'label', only text, stars. Name the column with"
    ):
        load_rows(hold_rows("train", {"text": ["a"], "stars": [1]}), "train", FIELDS)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            datasets.DatasetDict({"train": datasets.Dataset.from_dict({})}),
            "several splits.*'train'",
        ),
        (
            datasets.Dataset.from_dict({"a": [1]}).to_iterable_dataset(),
            "IterableDataset is read once",
        ),
        (7, "got int. Give a datasets.Dataset"),
        (["a text"], "row 0, counted from 0, is a str, not a dict"),
        ({"text": ["a", "b"], "label": ["x"]}, r"different lengths \('text' 2, 'label' 1\)"),
        ([], "has no rows"),
        (
            pd.DataFrame([["a", "b", "c"]], columns=["text", "text", "label"]),
            "2 columns 'text'; keep one",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(rows: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"data 'train'.*{said}"):
        load_rows(hold_rows("train", rows), "train", FIELDS)
