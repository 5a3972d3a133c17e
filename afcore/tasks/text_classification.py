"""Text classification: one label of several for a text, or for a pair of texts."""

from typing import Literal

from afcore.tasks.one_label import OneLabelTask
from afcore.tasks.text import TextTask

__all__ = ["TextClassification"]


class TextClassification(OneLabelTask, TextTask):
    """One label of several for a text, or for a pair of texts."""

    name: Literal["text-classification"] = "text-classification"
