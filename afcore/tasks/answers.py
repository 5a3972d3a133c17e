"""What a model answered on a split, and its scores."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from afcore.tasks.scores import RowValues, Score
from afcore.tasks.task import Task

__all__ = ["Answers", "answers_of"]


@dataclass(frozen=True)
class Answers:
    """What a model answered on a whole split, whichever workers asked it.

    Attributes:
        task: that was asked.
        values: of each row, by name, [n, ...]: see :meth:`afcore.tasks.task.Task.row_values`;
            ``losses`` among them.
    """

    task: Task
    values: RowValues

    def scores(self) -> dict[str, float]:
        """All of the task's, by name."""
        return {score.name: score.compute(self.values) for score in self.task.scores}

    def rows_of(self, score: Score) -> RowValues:
        """What a score was computed from."""
        return {name: self.values[name] for name in score.rows}


def answers_of(task: Task, targets: RowValues, outputs: npt.NDArray[np.float32]) -> Answers:
    """From [n, c] outputs of the head, and what should have been answered."""
    logits = torch.from_numpy(np.asarray(outputs, dtype=np.float32))
    given = {name: torch.from_numpy(values) for name, values in targets.items()}
    losses = task.losses(logits, given).numpy()
    values = task.row_values(targets, task.answer(logits).numpy())
    return Answers(task, {**values, "losses": losses})
