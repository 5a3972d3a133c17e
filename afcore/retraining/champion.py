"""The registered champion on rows: as a test scores a model, whatever labels it knows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from afcore.compute import HiddenDtype, choose_compute
from afcore.data.sources import Rows
from afcore.model.finetuned import FinetunedModel, load_finetuned
from afcore.model.split_model import SplitModel
from afcore.predict import asked_about
from afcore.runs.fit import check_tokens, longest_example
from afcore.tasks.answers import Answers
from afcore.tasks.scores import RowValues, Score
from afcore.tasks.task import Task
from afcore.trainee import Trainee
from afcore.training.evaluate import evaluate

__all__ = ["ChampionAnswers", "answers_of_champion"]


@dataclass(frozen=True)
class ChampionAnswers:
    """What the champion answered on some rows.

    Attributes:
        task: the champion's.
        answers: by row.
        unknown: labels of the rows that it does not have; its answers there count as wrong.
    """

    task: Task
    answers: Answers
    unknown: list[str]

    def score(self, score: Score) -> float | None:
        """None where it has no value: a loss of labels that the champion does not have."""
        if self.unknown and "losses" in score.rows:
            return None
        return score.compute(self.answers.values)

    def rows_of(
        self, score: Score, task: Task, labels: npt.NDArray[np.int64] | None
    ) -> RowValues | None:
        """What ``score`` is computed from, numbered as another model numbers its classes.

        Args:
            score: to be compared by.
            task: of that model.
            labels: [n] of the rows, as indices into its classes, where the score looks at them.

        Returns:
            By row; None where the two cannot be compared.
        """
        if self.score(score) is None:
            return None
        values = dict(self.answers.rows_of(score))
        if self.task.class_names is None:
            return values if self.task.model_dump() == task.model_dump() else None
        if "predicted" in values:
            number = {name: i for i, name in enumerate(task.class_names or [])}
            # A class that the other model does not have is one beyond its own.
            there = [number.get(n, len(number) + i) for i, n in enumerate(self.task.class_names)]
            values["predicted"] = np.asarray(there)[values["predicted"]]
        if "labels" in values:
            assert labels is not None
            values["labels"] = labels
        return values


def answers_of_champion(folder: Path, rows: Rows, dtype: HiddenDtype) -> ChampionAnswers:
    """Ask a model in a folder about rows with targets.

    Args:
        folder: as ``save_pretrained`` leaves it.
        rows: of the task that it was trained for.
        dtype: of hidden states at a boundary; nothing is cached here.

    Raises:
        ModelError: when the model cannot be loaded.
    """
    found = load_finetuned(str(folder))
    unknown = sorted({name for t in rows.targets.values() for name in found.task.unknown_labels(t)})
    length = longest_example(found.model, found.processor) if _has_tokens(found) else 0
    examples = found.task.examples(found.processor, rows, length)
    if _has_tokens(found):
        check_tokens(str(folder), found.model, found.processor, examples, rows.source)
    compute = choose_compute(found.settings.precision)
    found.model.to(compute.device)
    if unknown:  # which have no loss
        answered = asked_about(found.task, found, examples, compute)
        return ChampionAnswers(found.task, Answers.of(found.task, examples, answered), unknown)
    split = SplitModel(found.model, pool=bool(found.settings.pooled_last_block))
    answers = evaluate(Trainee(split, found.task, examples, compute, dtype))
    return ChampionAnswers(found.task, answers, unknown)


def _has_tokens(found: FinetunedModel) -> bool:
    return found.task.processor == "tokenizer"
