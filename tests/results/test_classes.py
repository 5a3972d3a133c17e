"""The test set class by class, with few classes and with many."""

import numpy as np
import pytest
from rich.console import Console

from afcore.results.classes import classes_report, frequent_confusions, worst_classes
from afcore.results.figures import confusion_figure
from afcore.results.report import ClassesReport
from pipelines.comparison_table import classes_table


def report(confusion: list[list[int]], names: list[str]) -> ClassesReport:
    matrix = np.asarray(confusion)
    at = (np.repeat(ids.flatten(), matrix.flatten()) for ids in np.indices(matrix.shape))
    return classes_report(*at, names)


FEW = report(
    [[8, 1, 1, 0], [1, 9, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], ["a", "b [x]", "answered", "absent"]
)


def many() -> ClassesReport:
    """Class i of 30 has i + 1 rows, of which class 7 loses five to class 9 and 20 four to 3."""
    matrix = np.diag(np.arange(1, 31))
    for true, answer, rows in ((7, 9, 5), (20, 3, 4)):
        matrix[true, true] -= rows
        matrix[true, answer] += rows
    return report(matrix.tolist(), [f"class {i}" for i in range(30)])


def test_shares_of_each_class_and_what_is_undefined() -> None:
    found = [(c.precision, c.recall, c.f1, c.support, c.predicted) for c in FEW.classes]
    assert found == [
        (pytest.approx(8 / 9), 0.8, pytest.approx(16 / 19), 10, 9),
        (0.9, 0.9, 0.9, 10, 10),
        (0.0, None, 0.0, 0, 1),
        (None, None, None, 0, 0),
    ]
    assert FEW.confusion == {
        "a": {"a": 8, "b [x]": 1, "answered": 1},
        "b [x]": {"a": 1, "b [x]": 9},
    }


def shown(classes: ClassesReport) -> str:
    console = Console(width=210, record=True)
    console.print(classes_table(classes))
    return console.export_text()


def test_few_classes_are_all_shown_with_what_they_were_taken_for() -> None:
    lines = [line.replace(" ", "") for line in shown(FEW).splitlines()]
    assert "│0a│88.89%│80.00%│84.21%│10│8│1│1│0│" in lines
    assert "│1b[x]│90.00%│90.00%│90.00%│10│1│9│0│0│" in lines
    assert "│3absent│-│-│-│0│0│0│0│0│" in lines


def test_of_many_classes_the_worst_and_the_most_confused_are_shown() -> None:
    classes = many()
    assert frequent_confusions(classes, 3) == [
        ("class 7", "class 9", 5),
        ("class 20", "class 3", 4),
    ]
    worst = [one.name for one in worst_classes(classes, 5)]
    # F1: 3/8 of class 7 is found; class 3 has 4 rows and 8 answers; 9 and 20 follow.
    assert worst == ["class 7", "class 3", "class 9", "class 20", "class 29"]
    text = shown(classes)
    assert "Test, the worst 20 of 30 classes" in text
    assert "5 of class 7 as class 9" in text
    assert len(text.splitlines()) < 35


def test_the_picture_of_few_classes_has_every_count() -> None:
    axes = confusion_figure(FEW, "full, seed 0").axes[0]
    assert axes.get_images()[0].get_array().shape == (4, 4)
    assert sorted(text.get_text() for text in axes.texts) == ["1", "1", "1", "8", "9"]
    assert axes.get_yticklabels()[0].get_text() == "a (10)"


def test_the_picture_of_many_classes_has_those_that_are_confused() -> None:
    axes = confusion_figure(many(), "full, seed 0").axes[0]
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert len(names) == 20
    assert {"class 7", "class 9", "class 20", "class 3"} <= set(names)
    assert "20 of 30 classes" in axes.get_title()
