"""The statistics of the freeze decision: gradients summed per parameter over an interval."""

import torch
from torch import Tensor, nn

from afcore.blocks import SplitModel, block_part

__all__ = ["GradientSums"]


class GradientSums:
    """Signed sums of gradient tensors, for the blocks that train.

    Call :meth:`add` after the backward pass (and the all-reduce) and before clipping.
    """

    def __init__(self, split: SplitModel) -> None:
        self._num_blocks = split.num_blocks
        self._blocks = [
            list(split.part_parameters(block_part(i)).values()) for i in range(split.num_blocks)
        ]
        self._sums: dict[nn.Parameter, Tensor] = {}
        self.num_steps = 0

    @torch.no_grad()
    def add(self) -> None:
        """Add the gradients that the parameters hold now."""
        self.num_steps += 1
        sums, gradients = [], []
        for block in self._blocks:
            for parameter in block:
                if parameter.grad is None:
                    continue
                if parameter in self._sums:
                    sums.append(self._sums[parameter])
                    gradients.append(parameter.grad)
                else:
                    self._sums[parameter] = parameter.grad.clone()
        if sums:
            torch._foreach_add_(sums, gradients)

    def norms(self) -> tuple[float, ...]:
        """``d_l`` of each of the L blocks: sum over its parameters of the L1 norm of the sum."""
        norms = [
            [
                self._sums[parameter].abs().sum(dtype=torch.float64)
                for parameter in block
                if parameter in self._sums
            ]
            for block in self._blocks
        ]
        flat = [norm for block in norms for norm in block]
        # Read together: each read by itself would wait for the device.
        values = iter(torch.stack(flat).tolist() if flat else [])
        return tuple(sum(next(values) for _ in block) for block in norms)

    def reset(self) -> None:
        """Begin the next interval."""
        self._sums.clear()
        self.num_steps = 0
