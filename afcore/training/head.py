"""The head solved before the first step, on what the pre-trained blocks put out.

A head that is drawn at random sends its noise down into the blocks until it has been learned, which
takes a good part of a short training. The classifier's last linear layer alone is a convex problem
on features that do not change yet, so it is solved outright, for a classification as multinomial
logistic regression, by L-BFGS (head first, then the rest: LP-FT, arXiv 2202.10054).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from afcore.model.forwards import relative_difference
from afcore.model.split_model import Batch, Hidden, SplitModel

__all__ = ["HeadFeatures", "batches_to_solve_on", "solve_head"]

PENALTY = 0.12
"""Times the curvature of the loss, on half of ``sum_j w_j ** 2 * E[x_j ** 2]``, beside the mean
loss: what dropout of the features comes to (Wager et al., arXiv 1307.1493), which the head meets as
soon as it is trained. By their deviations instead of their second moments, features that hardly
differ between texts would get weights that dropout blows up."""
_ITERATIONS = 60
_TOLERANCE = 1e-3
_EXAMPLES, _EXAMPLES_OF_OUTPUT = 1024, 32
"""The head is trained afterwards, so more of them cost more than they are worth."""


def batches_to_solve_on(
    batches: Sequence[npt.NDArray[np.int64]], num_outputs: int
) -> list[npt.NDArray[np.int64]]:
    """Some of an epoch's batches, with examples enough; from all parts of it, in its order.

    Args:
        batches: of example ids; all but the last of one size.
        num_outputs: c, of the head.
    """
    enough = max(_EXAMPLES, _EXAMPLES_OF_OUTPUT * num_outputs)
    count = min(math.ceil(enough / len(batches[0])), len(batches))
    return [batches[index * len(batches) // count] for index in range(count)]


class HeadFeatures:
    """What a model's last linear layer reads, batch after batch.

    Args:
        split: in eval mode while features are taken.
        num_outputs: c.
    """

    def __init__(self, split: SplitModel, num_outputs: int) -> None:
        self._split = split
        layers = [
            module
            for module in split.model.modules()
            if isinstance(module, nn.Linear) and module.out_features == num_outputs
        ]
        self.layer = layers[-1] if layers else None

    @torch.no_grad()
    def take(
        self, batch: Batch, boundary: int, hidden: Hidden | None, at: Tensor | None = None
    ) -> Tensor | None:
        """[b, f] float32 on the CPU; None when the logits are not this layer's of one position.

        Args:
            batch: ``input_ids`` and ``attention_mask``, [b, s].
            boundary: 0, or that of ``hidden``.
            hidden: at that boundary.
            at: [b, s] bool, m positions that are each answered; then [m, f]. None: one of each.
        """
        if self.layer is None:
            return None
        given: list[Tensor] = []
        hook = self.layer.register_forward_pre_hook(lambda _layer, args: given.append(args[0]))
        try:
            logits = self._split.logits(batch, boundary, hidden)
        finally:
            hook.remove()
        if len(given) != 1:
            return None
        if at is None:
            features = self._at_position(given[0], batch)
        else:
            features, logits = given[0][at], logits[at]
        if features is None:
            return None
        alone: Tensor = self.layer(features)
        # Of fewer rows a product may be rounded otherwise, by a step of its precision.
        tolerance = max(_TOLERANCE, torch.finfo(alone.dtype).eps)
        if relative_difference(alone, logits, 1.0) > tolerance:
            return None
        return features.float().cpu()

    def _at_position(self, features: Tensor, batch: Batch) -> Tensor | None:
        if features.ndim == 2:
            return features
        pooled = self._split.pooled
        if features.ndim != 3 or pooled is None:
            return None
        positions = pooled.positions(batch)
        if positions is None:
            return features[:, 0]
        return features[torch.arange(len(features), device=features.device), positions]


def solve_head(
    layer: nn.Linear,
    features: Tensor,
    loss: Callable[[Tensor], Tensor],
    curvature: float = 0.25,
) -> float:
    """Set the layer to the minimum of its penalized mean loss; return that.

    Args:
        layer: [c, f] weights, changed in place; a layer without bias keeps none.
        features: [n, f] float32.
        loss: mean, of [n, c] outputs; convex.
        curvature: of it, see :attr:`afcore.tasks.task.Task.curvature`.
    """
    shift: Tensor | None = layer.bias
    mean, scale = features.mean(0), features.square().mean(0).sqrt().clamp(min=1e-6)
    if shift is None:
        mean = torch.zeros_like(mean)
    scaled = (features - mean) / scale
    weight = torch.zeros(layer.out_features, layer.in_features, requires_grad=True)
    bias = torch.zeros(layer.out_features, requires_grad=shift is not None)
    solved = [weight, bias] if bias.requires_grad else [weight]
    optimizer = torch.optim.LBFGS(solved, max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        logits = scaled @ weight.T + bias
        penalized = loss(logits) + PENALTY * curvature * weight.square().sum() / 2
        penalized.backward()
        return penalized

    optimizer.step(objective)
    with torch.no_grad():
        layer.weight.copy_(weight / scale)
        if shift is not None:
            shift.copy_(bias - weight @ (mean / scale))
    return float(objective().detach())
