"""What tasks have in common whose answer is one label of several, whatever the model reads."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.data.examples import Examples
from afcore.data.sources import Rows
from afcore.errors import ModelError
from afcore.tasks.class_balance import score_warnings
from afcore.tasks.label_names import (
    label_settings,
    learn_label_names,
    read_label_names,
    shown_labels,
)
from afcore.tasks.scores import LOG_LOSS, RowValues, Score, mean_of
from afcore.tasks.task import Targets, Task

__all__ = ["OneLabelTask", "macro_f1", "matthews_correlation"]


def macro_f1(labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> float:
    """Mean F1, 0 to 1, of the classes that are among the labels or the answers; [n] both."""
    from torchmetrics.functional.classification import multiclass_f1_score

    count = int(max(labels.max(), predicted.max(), 1)) + 1
    given = torch.from_numpy(predicted), torch.from_numpy(labels)
    return float(multiclass_f1_score(*given, count, average="macro", validate_args=False))


def matthews_correlation(labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> float:
    """Matthews correlation of two or more classes: 1 all right, 0 as good as chance.

    0 where it is undefined, which is where all labels, or all answers, are one class; as in
    scikit-learn. TorchMetrics takes a limit there with two classes: 0.55 for always answering the
    class of 97 % of the rows, more than for a model that finds a third of the others.

    Source: Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006, of counts instead of the matrix,
    which many classes would make large.

    Args:
        labels: [n].
        predicted: [n].
    """
    num_classes = int(max(labels.max(), predicted.max())) + 1
    true, answered = (
        np.bincount(ids, minlength=num_classes).astype(float) for ids in (labels, predicted)
    )
    total, right = float(len(labels)), float((labels == predicted).sum())
    spread = (total**2 - true @ true) * (total**2 - answered @ answered)
    return float((right * total - true @ answered) / math.sqrt(spread)) if spread > 0 else 0.0


def _of_classes(compute: Any, values: RowValues) -> float:
    return float(compute(values["labels"], values["predicted"]))


class OneLabelTask(Task):
    """One label of ``c``, and the scores and predictions of that.

    Attributes:
        label_names: c.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        mean_of("right", "accuracy", "accuracy", in_percent=True),
        Score(
            "f1_macro",
            "macro-F1",
            ("labels", "predicted"),
            partial(_of_classes, macro_f1),
            in_percent=True,
            stops=True,
        ),
        Score(
            "matthews",
            "Matthews correlation",
            ("labels", "predicted"),
            partial(_of_classes, matthews_correlation),
            stops=True,
        ),
        LOG_LOSS,
    )

    label_names: list[str]

    @classmethod
    def learn(cls, splits: Mapping[str, Rows], everything: Rows, processor: Any) -> "OneLabelTask":
        """The labels; those of validation and test must be among them."""
        names = learn_label_names(splits, everything, lambda label: [label])
        return cls(label_names=names, **cls.of_processor(processor))

    @staticmethod
    def of_processor(processor: Any) -> dict[str, Any]:
        """What the task knows of it, besides the padding of a tokenizer."""
        return {}

    def encode_labels(self, labels: list[str]) -> npt.NDArray[np.int64]:
        """[n], index into the label names; -1 of a row to be predicted, if it has none of them."""
        index = {name: i for i, name in enumerate(self.label_names)}
        return np.asarray([index.get(label, -1) for label in labels], dtype=np.int64)

    def unknown_labels(self, labels: Sequence[str]) -> list[str]:
        """Not among the label names."""
        known = set(self.label_names)
        return [label for label in labels if label not in known]

    def warnings(self, validation: Examples, score: Score) -> list[str]:
        """Of classes that are rare, or not there."""
        return score_warnings(validation.targets["labels"].values, self.label_names, score)

    @property
    def head_settings(self) -> dict[str, Any]:
        """A number for each label."""
        return {
            **label_settings(self.label_names),
            "problem_type": "single_label_classification",
        }

    def losses(self, outputs: Tensor, targets: Targets) -> Tensor:
        """[b], cross-entropy, in nats, of [b, c] logits."""
        return torch.nn.functional.cross_entropy(outputs, targets["labels"], reduction="none")

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        """Their mean."""
        return torch.nn.functional.cross_entropy(outputs, targets["labels"])

    def chance_loss(self, examples: Examples) -> float:
        """Of always answering the classes' shares: their entropy, in nats."""
        shares = np.bincount(examples.targets["labels"].values) / len(examples)
        return float(-(shares * np.log(shares, out=np.zeros_like(shares), where=shares > 0)).sum())

    def row_values(self, examples: Examples, answers: npt.NDArray[Any]) -> RowValues:
        """``labels`` and ``predicted``, [n] int64, and ``right``, [n] bool; of [n, c] logits.

        A label that the model does not have is of a class beyond its own, c.
        """
        labels, predicted = examples.targets["labels"].values, answers.argmax(-1)
        labels = np.where(labels < 0, len(self.label_names), labels)
        return {"labels": labels, "predicted": predicted, "right": labels == predicted}

    def predictions(self, examples: Examples, answers: npt.NDArray[Any]) -> list[str]:
        """The label with the largest logit."""
        return [self.label_names[i] for i in answers.argmax(-1)]

    def probabilities(self, answers: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Softmax, of each label."""
        shares = torch.from_numpy(answers).softmax(-1).numpy()
        return {name: shares[:, i] for i, name in enumerate(self.label_names)}

    def described(self) -> tuple[str, str]:
        """Its labels."""
        return f"{len(self.label_names)} classes", f"Labels: {shown_labels(self.label_names)}"

    @property
    def class_names(self) -> list[str]:
        """The labels."""
        return self.label_names

    @classmethod
    def of_model(
        cls, name: str, config: Any, processor: Any, *, ours: bool
    ) -> "OneLabelTask | None":
        """A classifier of two labels or more."""
        if getattr(config, "problem_type", None) in ("regression", "multi_label_classification"):
            return None
        if config.num_labels < 2:
            raise ModelError(
                f"model {name!r} is a classifier with {config.num_labels} class; two or more were "
                "expected"
            )
        names = read_label_names(name, config, ours=ours)
        return cls(label_names=names, **cls.of_processor(processor))
