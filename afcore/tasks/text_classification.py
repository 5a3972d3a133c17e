"""Text classification: one label per example."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from afcore.compute import to_device
from afcore.data.prepare import Examples
from afcore.model.blocks import Batch

__all__ = ["Scores", "chance_loss", "classification_loss", "collate"]


def collate(
    examples: Examples, ids: npt.NDArray[np.int64], pad_token_id: int, device: torch.device
) -> tuple[Batch, Tensor]:
    """Pad a batch on the right to its own longest example.

    Args:
        examples: the split.
        ids: [b] example ids.
        pad_token_id: of the tokenizer.
        device: where the tensors go.

    Returns:
        ``input_ids`` and ``attention_mask``, [b, s] int64; labels, [b] int64.
    """
    lengths = examples.lengths[ids]
    column = np.arange(int(lengths.max()))
    mask = column < lengths[:, None]
    # All at once: columns behind the last token of all are padding, and read the last one.
    at = np.minimum(examples.offsets[ids][:, None] + column, len(examples.tokens) - 1)
    input_ids = np.where(mask, examples.tokens[at], pad_token_id).astype(np.int64, copy=False)
    batch = {
        "input_ids": to_device(torch.from_numpy(input_ids), device),
        "attention_mask": to_device(torch.from_numpy(mask.astype(np.int64)), device),
    }
    return batch, to_device(torch.from_numpy(examples.labels[ids]), device)


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of [b, c] logits and [b] labels."""
    return torch.nn.functional.cross_entropy(logits, labels)


def chance_loss(labels: npt.NDArray[np.int64]) -> float:
    """Mean cross-entropy of always answering with the classes' shares: their entropy, in nats.

    Args:
        labels: [n] int64.
    """
    shares = np.bincount(labels) / len(labels)
    return float(-(shares * np.log(shares, out=np.zeros_like(shares), where=shares > 0)).sum())


class Scores:
    """Accuracy, macro F1 and mean loss over a split."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self._metrics: Any = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_classes, average="micro"),
                "f1_macro": MulticlassF1Score(num_classes, average="macro"),
            }
        ).to(device)
        self._loss = MeanMetric().to(device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: [b, c] logits, [b] labels."""
        self._metrics.update(logits, labels)
        self._loss.update(classification_loss(logits, labels), weight=len(labels))

    def compute(self) -> dict[str, float]:
        """``accuracy``, ``f1_macro`` (0 to 1) and ``loss``."""
        scores = {name: float(value) for name, value in self._metrics.compute().items()}
        return {**scores, "loss": float(self._loss.compute())}
