"""What a model answered on a split, and its scores."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from afcore.data.examples import Examples
from afcore.tasks.scores import RowValues, Score
from afcore.tasks.task import NO_ANSWER, Task

__all__ = ["Answers", "together"]


@dataclass(frozen=True)
class Answers:
    """What a model answered on a whole split, whichever workers asked it.

    Attributes:
        task: that was asked.
        values: of each row, by name, [n, ...]: see :meth:`afcore.tasks.task.Task.row_values`;
            ``losses`` among them, and ``weights`` where the task has some.
    """

    task: Task
    values: RowValues

    @classmethod
    def of(
        cls,
        task: Task,
        examples: Examples,
        answers: npt.NDArray[Any] | None,
        losses: npt.NDArray[np.float32] | None = None,
    ) -> "Answers":
        """From :meth:`afcore.tasks.task.Task.answers` and the losses of all examples, by id.

        Without answers, what is computed from losses alone.
        """
        values = {} if answers is None else dict(task.row_values(examples, answers))
        weights = task.weights(examples)
        if losses is not None:
            values["losses"] = losses
        if weights is not None:
            values["weights"] = weights
        return cls(task, values)

    def scores(self) -> dict[str, float]:
        """Those of the task that can be computed, by name: all, unless it was not asked."""
        found = [score for score in self.task.scores if {*score.rows} <= self.values.keys()]
        return {score.name: score.compute(self.values) for score in found}

    def rows_of(self, score: Score) -> RowValues:
        """What a score was computed from."""
        return {name: self.values[name] for name in score.rows}


def together(
    parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]], count: int
) -> npt.NDArray[Any]:
    """Values of examples that came in parts, by example id.

    Args:
        parts: ids, [b], and what belongs to them, [b, ...]; last sizes may differ.
        count: n, of all examples.

    Returns:
        [n, ...], filled with :data:`NO_ANSWER` on the right.
    """
    sizes = np.asarray([values.shape[1:] for _, values in parts])
    whole = np.full((count, *sizes.max(0, initial=0)), NO_ANSWER, dtype=parts[0][1].dtype)
    for ids, values in parts:
        if values.ndim > 1:
            values = _widened(values, whole.shape[1:])
        whole[ids] = values
    return whole


def _widened(values: npt.NDArray[Any], sizes: tuple[int, ...]) -> npt.NDArray[Any]:
    missing = [(0, size - has) for size, has in zip(sizes, values.shape[1:], strict=True)]
    return np.pad(values, [(0, 0), *missing], constant_values=NO_ANSWER)
