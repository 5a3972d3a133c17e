"""What is seen of an interval in somebody else's loop: losses, rates, sums of gradients."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from afcore.distributed import WorkerGroup
from afcore.freezing.policy import loss_statistics
from afcore.model.split_model import SplitModel
from afcore.training.gradients import GradientSums, are_finite, norms_of_gradients

__all__ = ["IntervalWatch"]


class IntervalWatch:
    """The steps of one interval after another.

    Args:
        model: whose outputs have the loss; it may have more parameters than ``split``, as prompts.
        split: of its blocks, whose gradients are added up.
        group: the workers; losses are averaged over them.
        adds_up: whether gradients are.
    """

    def __init__(
        self, model: nn.Module, split: SplitModel, group: WorkerGroup, *, adds_up: bool
    ) -> None:
        self._model = model
        self._split = split
        self._group = group
        self._adds_up = adds_up
        self._micro_losses: list[Tensor] = []
        self._gives_shares: bool | None = None
        self._hook = model.register_forward_hook(self._see_loss, with_kwargs=True)
        self.begin(1)

    def begin(self, num_steps: int) -> None:
        """Begin an interval of ``num_steps`` steps."""
        self.losses: list[float] = []
        self.rates: list[float] = []
        self._waiting: list[Tensor] = []
        self.sums = GradientSums(self._split, num_steps)

    @property
    def num_steps(self) -> int:
        """So far."""
        return len(self.rates)

    def add(self, rate: float, *, may_be_left_out: bool = False) -> dict[nn.Parameter, Tensor]:
        """A step whose gradients are there, averaged and not clipped; the norm of each.

        Args:
            rate: the learning rate with which it will be made.
            may_be_left_out: it will not be made where gradients are not finite, as those of fp16
                now and then, while it looks for the largest factor that the loss can have.
        """
        norms = norms_of_gradients(list(self._model.parameters()))
        if self._adds_up and may_be_left_out and not are_finite(norms):
            self.sums.pass_over()
        elif self._adds_up:
            self.sums.add(norms)
        self.rates.append(rate)
        if self._micro_losses:
            losses = torch.stack(self._micro_losses)
            self._waiting.append(losses.sum() if self._gives_shares else losses.mean())
            self._micro_losses = []
        return norms

    def read(self) -> None:
        """Fetch the losses from the device; every worker must."""
        if self._waiting:
            self.losses += self._group.mean(torch.stack(self._waiting).float()).tolist()
            self._waiting = []

    def statistics(self) -> dict[str, Any]:
        """Of the whole interval, as :class:`afcore.freezing.policy.IntervalStatistics` has them."""
        self.read()
        return {
            **self.sums.finish(),
            "num_steps": self.num_steps,
            "learning_rate": float(np.mean(self.rates)),
            **loss_statistics(self.losses or [math.nan]),
        }

    def load(
        self, losses: list[float], rates: list[float], sums: Mapping[str, Tensor], num_steps: int
    ) -> None:
        """Go on within an interval of ``num_steps`` steps; ``sums`` as they were saved."""
        self.begin(num_steps)
        self.losses, self.rates = list(losses), list(rates)
        self.sums.load(sums, len(rates))

    def close(self) -> None:
        """Look no longer."""
        self._hook.remove()

    def _see_loss(
        self, model: nn.Module, _args: Any, kwargs: Mapping[str, Any], output: Any
    ) -> None:
        """Of each forward pass that trains; a loss that is made elsewhere is not seen."""
        if not (model.training and torch.is_grad_enabled()):
            return
        loss = output.get("loss") if isinstance(output, Mapping) else None
        if isinstance(loss, Tensor):
            if self._gives_shares is None:
                num_labels = getattr(self._split.model.config, "num_labels", 0)
                self._gives_shares = _is_share(loss.detach(), kwargs, output, num_labels)
            share = self._group.count if self._gives_shares else 1
            self._micro_losses.append(loss.detach() * share)


def _is_share(
    loss: Tensor, kwargs: Mapping[str, Any], output: Mapping[str, Any], num_labels: int
) -> bool:
    """Whether a loss is its share of that of a whole batch, of whose size the model was told.

    Many do not look at that: BERT's is the mean over what it was given.
    """
    if kwargs.get("num_items_in_batch") is None:
        return False
    labels, logits = kwargs.get("labels"), output.get("logits")
    if not isinstance(labels, Tensor) or not isinstance(logits, Tensor):
        return True
    if labels.is_floating_point():  # of regressions and of several labels it is always the mean
        return False
    if logits.shape != (*labels.shape, num_labels):
        return True
    classes = logits.detach().float().flatten(end_dim=-2)
    mean = nn.functional.cross_entropy(classes, labels.flatten())
    return not torch.isclose(loss.float(), mean, rtol=1e-2)
