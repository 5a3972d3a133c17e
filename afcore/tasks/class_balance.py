"""Can the main score tell epochs apart on this validation set? No I/O."""

import numpy as np
import numpy.typing as npt

from afcore.tasks.label_names import shown_labels
from afcore.tasks.scores import Score

__all__ = ["score_warnings"]

_MAJORITY = 0.8
"""Share of one class from which accuracy is said to tell little."""
_NAMED = 5


def score_warnings(
    labels: npt.NDArray[np.int64], label_names: list[str], score: Score
) -> list[str]:
    """What is wrong with choosing an epoch by ``score`` on these labels, and what to do.

    Args:
        labels: [n], of the validation split.
        label_names: c.
        score: the main one.
    """
    counts = np.bincount(labels, minlength=len(label_names))
    share, name = counts.max() / len(labels), label_names[int(counts.argmax())]
    if share == 1.0:
        return [
            f"all {len(labels)} validation rows are of class {name!r}: no score can say whether "
            "the others are known. Give data.validation with rows of every class, or hold out more"
        ]
    missing = [label_names[i] for i in np.flatnonzero(counts == 0)]
    if score.name == "accuracy" and share >= _MAJORITY:
        return [
            f"{100 * share:.1f} % of the validation rows are of class {name!r}: a model that "
            f"always answers it has an accuracy of {100 * share:.1f} %, so accuracy hardly tells "
            "epochs apart. Set training.score to f1_macro or matthews"
        ]
    if score.stops and missing:
        return [
            f"no validation row is of class {shown_labels(missing, _NAMED)}: the {score.title} "
            "that chooses the epoch does not see them. Give data.validation with rows of every "
            "class, or hold out more"
        ]
    return []
