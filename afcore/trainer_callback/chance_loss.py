"""The loss of answers that do not look at the example, as far as a ``Trainer`` lets one know it."""

from typing import Any

import datasets
import numpy as np

__all__ = ["chance_loss", "is_of_one_label"]

_LABELS = ("labels", "label", "label_ids")
"""What the Trainer's collators take labels from."""
_OTHER_HEADS = ("Token", "LM", "Generation", "QuestionAnswering")
"""In the names of models whose loss is not one cross-entropy an example."""


def chance_loss(model: Any, dataset: Any, smoothing: float = 0.0) -> float:
    """Of a classifier that always answers with the classes' shares: their entropy, in nats.

    Args:
        model: a ``PreTrainedModel``.
        dataset: trained on. Where it has no column of labels, as one of torch's, the shares are
            taken to be equal.
        smoothing: share of each label that all classes get instead (``label_smoothing_factor``).

    Returns:
        0 where it is not known: labels that are no plain class numbers, or another head.
    """
    name, num_classes = type(model).__name__, getattr(model.config, "num_labels", 0)
    if not is_of_one_label(model) or num_classes < 2:
        return 0.0
    head = name.rpartition("For")[2]  # of XLMRobertaForSequenceClassification, say
    if any(part in head for part in _OTHER_HEADS):
        return 0.0
    columns = dataset.column_names if isinstance(dataset, datasets.Dataset) else []
    column = next((one for one in _LABELS if one in columns), None)
    if column is not None:
        if not _is_class_number(dataset.features[column]):
            return 0.0
        labels = np.asarray(dataset.with_format("numpy")[column][:])
        if labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0:
            return 0.0
        counts = np.bincount(labels, minlength=num_classes)
    elif name.endswith("Classification"):
        counts = np.ones(num_classes)
    else:
        return 0.0
    shares = (1 - smoothing) * counts / counts.sum() + smoothing / len(counts)
    return float(-(shares * np.log(shares, out=np.zeros_like(shares), where=shares > 0)).sum())


def is_of_one_label(model: Any) -> bool:
    """Whether each example has one, as far as the model knows: some find it by the first labels."""
    problem = getattr(model.config, "problem_type", None)
    return problem in (None, "single_label_classification")


def _is_class_number(feature: Any) -> bool:
    """By the column's type: to look at its values, pictures of labels would all be opened."""
    is_plain = isinstance(feature, datasets.Value | datasets.ClassLabel)
    return is_plain and feature.dtype.startswith(("int", "uint"))
