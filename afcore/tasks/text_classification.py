"""Text classification: one label of several per example."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from afcore.compute import to_device
from afcore.data.prepare import Examples
from afcore.model.split_model import Batch

__all__ = [
    "Answers",
    "TextClassification",
    "class_score",
    "matthews_correlation",
]


@dataclass(frozen=True)
class TextClassification:
    """One label of ``c`` per example.

    Attributes:
        label_names: c.
        pad_token_id: of the tokenizer.
    """

    label_names: list[str]
    pad_token_id: int

    def collate(
        self, examples: Examples, ids: npt.NDArray[np.int64], device: torch.device
    ) -> tuple[Batch, Tensor]:
        """Pad a batch on the right to its own longest example.

        Args:
            examples: the split.
            ids: [b] example ids.
            device: where the tensors go.

        Returns:
            ``input_ids`` and ``attention_mask``, [b, s] int64; labels, [b] int64.
        """
        lengths = examples.lengths[ids]
        column = np.arange(int(lengths.max()))
        mask = column < lengths[:, None]
        # All at once: columns behind the last token of all are padding, and read the last one.
        at = np.minimum(examples.offsets[ids][:, None] + column, len(examples.tokens) - 1)
        input_ids = np.where(mask, examples.tokens[at], self.pad_token_id).astype(np.int64)
        batch = {
            "input_ids": to_device(torch.from_numpy(input_ids), device),
            "attention_mask": to_device(torch.from_numpy(mask.astype(np.int64)), device),
        }
        return batch, to_device(torch.from_numpy(examples.labels[ids]), device)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of [b, c] logits and [b] labels."""
        return torch.nn.functional.cross_entropy(outputs, targets)

    def chance_loss(self, examples: Examples) -> float:
        """Mean cross-entropy of always answering the classes' shares: their entropy, in nats."""
        shares = np.bincount(examples.labels) / len(examples)
        return float(-(shares * np.log(shares, out=np.zeros_like(shares), where=shares > 0)).sum())

    def answer(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The class answered, [b] int64, and the cross-entropy, [b] fp32, of [b, c] logits."""
        losses = torch.nn.functional.cross_entropy(outputs.float(), targets, reduction="none")
        return outputs.argmax(-1), losses


@dataclass(frozen=True)
class Answers:
    """What a model answered on a whole split, whichever workers asked it.

    Attributes:
        labels: [n] int64, the true class of each row.
        predicted: [n] int64, the class answered.
        losses: [n] float32, cross-entropy of each row, in nats.
    """

    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    losses: npt.NDArray[np.float32]

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """[n], whether the answer was right."""
        return np.equal(self.labels, self.predicted)

    def scores(self, num_classes: int) -> dict[str, float]:
        """``accuracy``, ``f1_macro``, ``matthews``, ``loss``; see :func:`class_score`.

        Args:
            num_classes: c.
        """
        names = ("accuracy", "f1_macro", "matthews")
        scores = {
            name: class_score(name, self.labels, self.predicted, num_classes) for name in names
        }
        return {**scores, "loss": float(self.losses.mean(dtype=np.float64))}


def class_score(
    name: str,
    labels: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    num_classes: int,
) -> float:
    """A score of answers alone.

    Args:
        name: ``accuracy`` (0 to 1); ``f1_macro`` (0 to 1), the mean over the classes that are
            among the labels or the answers; or ``matthews`` (-1 to 1).
        labels: [n].
        predicted: [n].
        num_classes: c.
    """
    if name == "matthews":
        return matthews_correlation(labels, predicted)
    given = torch.from_numpy(predicted), torch.from_numpy(labels)
    if name == "accuracy":
        return float(multiclass_accuracy(*given, num_classes, average="micro", validate_args=False))
    return float(multiclass_f1_score(*given, num_classes, average="macro", validate_args=False))


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
