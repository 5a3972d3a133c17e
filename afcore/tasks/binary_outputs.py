"""What tasks have in common whose head answers yes or no, output by output."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from afcore.data.examples import Examples
from afcore.tasks.label_names import label_settings
from afcore.tasks.task import Targets
from afcore.tasks.text import TextTask

__all__ = ["BinaryOutputsTask", "binary_head"]


def binary_head(questions: list[str]) -> dict[str, Any]:
    """Head settings with an output for each question, and the loss of several labels."""
    return {**label_settings(questions), "problem_type": "multi_label_classification"}


class BinaryOutputsTask(TextTask):
    """``c`` questions to a text, each answered by itself; the target is 1 for yes, [n, c]."""

    def losses(self, outputs: Tensor, targets: Targets) -> Tensor:
        """[b], binary cross-entropy, in nats, of [b, c] logits: the mean over the outputs."""
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            outputs, targets["labels"], reduction="none"
        )
        return each.mean(-1)

    @property
    def curvature(self) -> float:
        """Of a sigmoid, 1/4, in a mean over the outputs."""
        return 0.25 / self.num_outputs

    def chance_loss(self, examples: Examples) -> float:
        """Of always answering the outputs' shares: the mean of their entropies, in nats."""
        share = examples.targets["labels"].values.mean(0, dtype=np.float64)
        found = [p * np.log(p) for p in (share[share > 0], 1 - share[share < 1])]
        return float(-sum(part.sum() for part in found) / len(share))
