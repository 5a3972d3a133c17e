"""What rows look like in a few numbers, kept from one retraining to the next. No I/O."""

from collections import Counter
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from afcore.data.sources import Rows
from afcore.data.split import sampled
from afcore.tasks.task import Task

__all__ = ["RowSummary", "summarize"]

_SAMPLE = 2000


class RowSummary(BaseModel):
    """Some rows.

    Numbers of tokens are of a sample of 2,000 rows; None where the task's inputs are no tokens.

    Attributes:
        num_rows: all.
        labels: rows by label; None where the task's answers are no labels.
        mean_tokens: of an example, after it was cut.
        long_tokens: 95 % of the examples have so many or fewer.
        cut: share of the examples that are as long as ``data.max_length`` allows.
        unknown: share of the tokens that the tokenizer does not know.
    """

    model_config = ConfigDict(frozen=True)

    num_rows: int
    labels: dict[str, int] | None = None
    mean_tokens: float | None = None
    long_tokens: float | None = None
    cut: float | None = None
    unknown: float | None = None

    def share(self, label: str) -> float:
        """Of the rows with a label."""
        return (self.labels or {}).get(label, 0) / max(1, self.num_rows)


def summarize(rows: Rows, task: Task, processor: Any, max_length: int) -> RowSummary:
    """Count labels, and tokenize a sample.

    Args:
        rows: at least one.
        task: learned from them and perhaps others.
        processor: of the model: its tokenizer.
        max_length: tokens of an example at most.
    """
    labels = None
    if task.class_names is not None:
        labels = dict(Counter(map(str, next(iter(rows.targets.values())))))
    examples = task.examples(processor, rows.pick(sampled(rows.identities, _SAMPLE)), max_length)
    tokens = examples.inputs.get("input_ids")
    if task.processor != "tokenizer" or tokens is None:
        return RowSummary(num_rows=len(rows), labels=labels)
    lengths, unknown = examples.lengths, None
    if processor.unk_token_id is not None:
        unknown = float((tokens.values == processor.unk_token_id).mean())
    return RowSummary(
        num_rows=len(rows),
        labels=labels,
        mean_tokens=float(lengths.mean()),
        long_tokens=float(np.quantile(lengths, 0.95)),
        cut=float((lengths >= max_length).mean()),
        unknown=unknown,
    )
