"""What trains, on several workers: its gradients are averaged in the backward pass.

By ``DistributedDataParallel`` around the suffix, wrapped anew at each boundary. One worker alone
(:mod:`afcore.distributed`) is not wrapped.
"""

import contextlib
import gc
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from afcore.distributed import WorkerGroup
from afcore.model.split_model import Batch, Hidden, SplitModel

__all__ = ["Suffix"]


class Suffix:
    """What trains, seen by the workers: its gradients are averaged in the backward pass.

    Args:
        split: the model.
        group: of the workers.
    """

    def __init__(self, split: SplitModel, group: WorkerGroup) -> None:
        self._split = split
        self._group = group
        self._wrapped: DistributedDataParallel | None = None
        self.bytes_reduced = 0

    def wrap(self) -> None:
        """Average the gradients of the parameters that require them now, and of no others.

        The wrapper before this one is let go first: two that are alive reduce twice.
        """
        if self._group.count == 1:
            return
        self._wrapped = None
        gc.collect()
        self._wrapped = DistributedDataParallel(
            _Logits(self._split),
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
            init_sync=False,  # every worker has loaded, or computed, the same
        )
        self._wrapped.register_comm_hook(dist.group.WORLD, self._reduce)

    def logits(self, batch: Batch, boundary: int, hidden: Hidden | None) -> Tensor:
        """As :meth:`afcore.model.split_model.SplitModel.logits`."""
        if self._wrapped is None:
            return self._split.logits(batch, boundary, hidden)
        logits: Tensor = self._wrapped(batch, boundary, hidden)
        return logits

    def accumulating(self) -> contextlib.AbstractContextManager[None]:
        """Within it, gradients are added up on each worker and not averaged yet."""
        if self._wrapped is None:
            return contextlib.nullcontext()
        without: contextlib.AbstractContextManager[None] = self._wrapped.no_sync()
        return without

    def _reduce(self, group: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
        self.bytes_reduced += bucket.buffer().nbytes
        return allreduce_hook(group, bucket)


class _Logits(nn.Module):
    """The model as a module whose forward pass is that of the suffix."""

    def __init__(self, split: SplitModel) -> None:
        super().__init__()
        self.model = split.model
        self._split = split

    def forward(self, batch: Batch, boundary: int, hidden: Hidden | None) -> Tensor:
        """[b, c] float32."""
        return self._split.logits(batch, boundary, hidden)
