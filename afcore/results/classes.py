"""The test set class by class: precision, recall, F1, and what was taken for what. No I/O."""

import math

import numpy as np
import numpy.typing as npt

from afcore.results.report import ClassesReport, ClassReport

__all__ = ["CONFUSION_FIGURE", "classes_report", "frequent_confusions", "worst_classes"]

CONFUSION_FIGURE = "figures/confusion.png"
"""Artifact of the MLflow run."""


def classes_report(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], label_names: list[str]
) -> ClassesReport:
    """Of the answers on a split.

    Args:
        labels: [n], the class of each row.
        predicted: [n], the class answered.
        label_names: c.
    """
    count = len(label_names)
    support = np.bincount(labels, minlength=count)
    answers = np.bincount(predicted, minlength=count)
    right = np.bincount(labels[labels == predicted], minlength=count)
    # Only pairs that occur: of many classes, the whole matrix would be mostly zeros.
    pairs, times = np.unique(labels * count + predicted, return_counts=True)
    confusion: dict[str, dict[str, int]] = {}
    for pair, number in zip(pairs.tolist(), times.tolist(), strict=True):
        true, answer = divmod(pair, count)
        confusion.setdefault(label_names[true], {})[label_names[answer]] = number
    return ClassesReport(
        classes=[
            ClassReport(
                name=name,
                precision=_share(right[i], answers[i]),
                recall=_share(right[i], support[i]),
                f1=_share(2 * right[i], support[i] + answers[i]),
                support=int(support[i]),
                predicted=int(answers[i]),
            )
            for i, name in enumerate(label_names)
        ],
        confusion=confusion,
        figure=CONFUSION_FIGURE,
    )


def worst_classes(report: ClassesReport, count: int) -> list[ClassReport]:
    """Those with the lowest F1, the worst first; among equals the largest first."""
    known = [one for one in report.classes if one.f1 is not None]
    return sorted(known, key=lambda one: (one.f1, -one.support))[:count]


def frequent_confusions(report: ClassesReport, count: int) -> list[tuple[str, str, int]]:
    """(class, what it was taken for, rows), the most frequent first."""
    wrong = [
        (true, answer, rows)
        for true, answers in report.confusion.items()
        for answer, rows in answers.items()
        if answer != true
    ]
    return sorted(wrong, key=lambda one: -one[2])[:count]


def _share(part: np.int64, whole: np.int64) -> float:
    return float(part / whole) if whole else math.nan
