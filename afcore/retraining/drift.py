"""How tonight's rows differ from those of the last retraining: a table and a few sentences."""

from dataclasses import dataclass
from typing import Any

from afcore.config import Config
from afcore.data.sources import Rows
from afcore.errors import some_of
from afcore.model.processors import load_processor
from afcore.results.markdown import markdown_table
from afcore.retraining.looking import RowsTonight
from afcore.retraining.row_summary import RowSummary, summarize
from afcore.tasks.known_tasks import task_class
from afcore.tasks.task import Task

__all__ = ["Drift", "drift_of"]

_MOST_LABELS = 20
_MOST_NAMED = 5


@dataclass(frozen=True)
class Drift:
    """What changed.

    Attributes:
        tonight: all training rows.
        added: those that the last retraining did not have; None without any.
        before: the last retraining's; None where there was none.
    """

    tonight: RowSummary
    added: RowSummary | None
    before: RowSummary | None

    def sentences(self) -> list[str]:
        """What a person should know, most important first; none where nothing can be compared."""
        before, added = self.before, self.added
        if before is None:
            return []
        lines = []
        if before.labels is not None and self.tonight.labels is not None:
            new = [label for label in self.tonight.labels if label not in before.labels]
            gone = [label for label in before.labels if label not in self.tonight.labels]
            lines += [f"new labels: {self._named(new)}"] if new else []
            lines += [f"labels that are gone: {some_of(gone, _MOST_NAMED)}"] if gone else []
        if added is None:
            return lines
        if self.tonight.labels and (changed := self._changed(added, before)):
            label = changed[0]
            lines.append(
                f"class shares: {label!r} changed most, {before.share(label):.1%} of the last "
                f"retraining's rows and {added.share(label):.1%} of those added"
            )
        if added.mean_tokens is not None and before.mean_tokens is not None:
            lines.append(
                f"lengths: {added.mean_tokens:.1f} tokens in the rows added, "
                f"{before.mean_tokens:.1f} before"
            )
        if added.unknown is not None and before.unknown is not None:
            lines.append(
                f"unknown tokens: {added.unknown:.2%} in the rows added, "
                f"{before.unknown:.2%} before"
            )
        return lines

    def markdown(self, further: list[str]) -> str:
        """The table, with sentences below it; ``further`` are some more of these."""
        sides = [self.before, self.tonight, self.added]
        columns = ["training rows", "last retraining", "tonight", "added"]
        rows = [["rows", *(f"{side.num_rows:,}" if side else "-" for side in sides)]]
        for name, key, form in (
            ("tokens, mean", "mean_tokens", "{:.1f}"),
            ("tokens, 95 % have no more than", "long_tokens", "{:.0f}"),
            ("cut at data.max_length", "cut", "{:.1%}"),
            ("unknown tokens", "unknown", "{:.2%}"),
        ):
            values = [getattr(side, key) if side else None for side in sides]
            if any(value is not None for value in values):
                shown = ["-" if value is None else form.format(value) for value in values]
                rows.append([name, *shown])
        for label in self._changed(self.added or self.tonight, self.before)[:_MOST_LABELS]:
            rows.append([f"label {label}", *(f"{s.share(label):.1%}" if s else "-" for s in sides)])
        lines = [f"* {sentence}" for sentence in [*self.sentences(), *further]]
        return "\n".join([markdown_table(columns, rows), "", *lines]) + "\n"

    def _changed(self, side: RowSummary, before: RowSummary | None) -> list[str]:
        """Labels, those first whose share changed most."""
        labels = dict.fromkeys([*(self.tonight.labels or {}), *((before and before.labels) or {})])
        if before is None:
            return sorted(labels, key=lambda label: -side.share(label))
        return sorted(labels, key=lambda label: -abs(side.share(label) - before.share(label)))

    def _named(self, labels: list[str]) -> str:
        counts = self.tonight.labels
        assert counts is not None
        return some_of([f"{one} ({counts[one]:,} rows)" for one in labels], _MOST_NAMED)


def drift_of(config: Config, tonight: RowsTonight) -> Drift:
    """Look at the rows; the model is not asked.

    Raises:
        DataError: for rows that cannot be learned from.
    """
    kind = task_class(config.task)
    processor = load_processor(kind.processor, config.model.name)
    task = _learned(kind, tonight.splits, processor).with_settings(config.task_settings)

    def of(rows: Rows) -> RowSummary:
        return summarize(rows, task, processor, config.data.max_length)

    before = tonight.last.summary if tonight.last is not None else None
    added = of(tonight.added) if before is not None and len(tonight.added) else None
    return Drift(of(tonight.splits["train"]), added, before)


def _learned(kind: type[Task], splits: dict[str, Rows], processor: Any) -> Task:
    """By all rows that are given; what is held out of the training set is still in it."""
    return kind.learn({"validation": splits["train"], **splits}, splits["train"], processor)
