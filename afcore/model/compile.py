"""``torch.compile`` for the blocks that train, anew at every boundary.

Each block of the suffix is compiled by itself. Like blocks share one graph, so twelve of them
compile in the time of one, and the model's own ``forward`` around them still runs as it is, with
its masks, positions and pooling. A last block that is computed at one position only stays eager.

A compiled graph is made for one setting of ``requires_grad``. torch has reused graphs after it
changed, which trains what is frozen or leaves what is not (pytorch issue 139476). So at every
boundary, and at the beginning of every epoch, everything compiled is thrown away first.

The frozen prefix is never compiled: what is kept of it is the same with and without this option.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from afcore.errors import ConfigError, ModelError
from afcore.model.split_model import SplitModel

__all__ = ["Backend", "SuffixCompiler", "check_compiler"]

Backend = str | Callable[..., Any]


class SuffixCompiler:
    """Compiles the blocks from the boundary on, and lets go of them again.

    Args:
        split: the model.
        backend: of ``torch.compile``, e.g. ``inductor``; None compiles nothing.
    """

    def __init__(self, split: SplitModel, backend: Backend | None) -> None:
        self._split = split
        self._backend = backend

    def compile(self, boundary: int) -> None:
        """Forget every graph and have blocks ``boundary..L - 1`` compiled when they next run.

        Call it after ``requires_grad`` is set. Graphs of other models in this process are
        forgotten too, and made again when they next run.
        """
        if self._backend is None:
            return
        self.release()
        torch._dynamo.reset()
        for block in self._split.blocks[boundary:]:
            if self._split.pooled is not None and block is self._split.pooled.block:
                continue  # at one position it is left in the middle, which no graph can be
            compiled = torch.compile(block.forward, backend=self._backend, dynamic=True)
            object.__setattr__(block, "forward", _explained(compiled, type(block).__name__))

    def release(self) -> None:
        """Let every block run as it is."""
        for block in self._split.blocks:
            block.__dict__.pop("forward", None)


def check_compiler(device: torch.device) -> None:
    """Compile something small, forward and backward, to see that it can be done here.

    Raises:
        ConfigError: when it cannot, e.g. without a C++ compiler.
    """
    torch._dynamo.reset()
    ones = torch.ones(2, device=device, requires_grad=True)
    try:
        torch.compile(_small)(ones).backward()
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            f"training.compile is true, but torch.compile does not work here: {_reason(error)}. "
            "Install a C++ compiler (e.g. `apt install g++`; CXX names another), and Triton for a "
            "GPU, or set training.compile to false."
        ) from error


def _small(ones: torch.Tensor) -> torch.Tensor:
    return (ones * ones).sum()


def _explained(compiled: Callable[..., Any], name: str) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except TorchDynamoException as error:
            raise ModelError(
                f"{name} cannot be compiled: {_reason(error)}. Set training.compile to false."
            ) from error

    return forward


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
