from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from afcore.data.held_rows import hold_rows
from afcore.data.pictures import read_pictures
from afcore.data.sources import Field, load_rows, read_labels, read_texts
from afcore.data.text_lists import read_text_lists
from afcore.errors import DataError
from afcore.tasks.answer_texts import read_answers

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
        datasets.Dataset.from_dict(
            {"text": TEXTS, "label": [1, 0, 1]}, features=CLASSES
        ).with_format("torch", columns=["label"]),
        datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS}).with_format("numpy"),
    ],
    ids=["dicts", "columns", "frame", "categories", "dataset", "tensors", "arrays"],
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


def test_numbers_of_a_dataset_with_arrays_are_their_digits() -> None:
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": [1, 0, 1]})
    for form in ("numpy", "torch"):
        found = load_rows(hold_rows("train", rows.with_format(form)), "train", FIELDS)
        assert found.targets["label"] == ["1", "0", "1"]
    changed = rows.with_transform(lambda some: {key: ["new"] * len(some[key]) for key in some})
    assert load_rows(hold_rows("train", changed), "train", FIELDS).inputs["text"] == ["new"] * 3


def test_arrays_within_values_are_read_as_lists() -> None:
    """As pandas reads lists and objects from Parquet."""
    answers = [
        {"text": np.array(["a", "b"], dtype=object), "answer_start": np.array([0, 2])},
        {"text": np.array([], dtype=object), "answer_start": np.array([], dtype=np.int32)},
    ]
    frame = pd.DataFrame({"answers": answers, "words": [np.array(["x", "y"]), [np.int64(3)]]})
    fields = [
        Field("text", "words", read_text_lists),
        Field("label", "answers", read_answers, may_be_blank=True, is_target=True),
    ]
    for rows in (frame, frame.to_dict("records"), frame.to_dict("list")):
        found = load_rows(hold_rows("train", rows), "train", fields)
        assert found.inputs == {"text": [["x", "y"], ["3"]]}
        assert found.targets == {"label": [[("a", 0), ("b", 2)], []]}


def test_pixels_are_pictures() -> None:
    pixels = [np.full((2, 3, 3), number, dtype=np.uint8) for number in (10, 200)]
    fields = [Field("image", "image", read_pictures)]
    for rows in (
        [{"image": one} for one in pixels],
        {"image": np.stack(pixels)},
        pd.DataFrame({"image": pixels}),
    ):
        found = load_rows(hold_rows("train", rows), "train", fields).inputs["image"]
        assert [np.asarray(one.open()).tolist() for one in found] == [p.tolist() for p in pixels]
    with pytest.raises(DataError, match=r"in row 0, counted from 0, which is no picture"):
        load_rows(hold_rows("train", [{"image": np.full((2, 3, 3), 0.5)}]), "train", fields)


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
        ({"text": "a", "label": "x"}, "column 'text' is a str, .* Give a list, also for one row"),
        ({"text": ["a"], "label": 1}, "column 'label' is a int, where the values of all rows"),
        (pd.DataFrame({"text": TEXTS, "label": LABELS}).to_dict(), "column 'text' is a dict"),
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
