"""The statistics of the freeze decision: what the gradients of an interval add up to, per block."""

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from afcore.model.split_model import SplitModel, adapter_part, block_part

__all__ = ["GradientSums", "are_finite", "clip_gradients", "norms_of_gradients"]


@torch.no_grad()
def norms_of_gradients(parameters: list[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
    """L2 norm of each gradient there is; computed once for the statistics and for clipping."""
    gradients = {p: p.grad for p in parameters if p.grad is not None}
    norms = torch._foreach_norm(list(gradients.values()))
    return dict(zip(gradients, norms, strict=True))


def are_finite(norms: Mapping[nn.Parameter, Tensor]) -> bool:
    """Whether all gradients of these norms are; of none they are. Waits for the device."""
    return not norms or bool(torch.stack(list(norms.values())).isfinite().all())


def clip_gradients(norms: dict[nn.Parameter, Tensor], max_norm: float) -> None:
    """Scale all gradients so that their common L2 norm is at most ``max_norm``."""
    if norms:
        total = torch.linalg.vector_norm(torch.stack(list(norms.values())))
        torch.nn.utils.clip_grads_with_norm_(list(norms), max_norm, total)


class GradientSums:
    """Signed sums of gradient tensors over an interval and over each half of it.

    Call :meth:`add` after the backward pass (and the all-reduce) and before clipping. Holds two
    tensors for each parameter of the blocks that train, float32 at least: a sum in bf16 stands
    still after 256 equal steps. Where the last block alone trains, nothing is left to decide and
    nothing is added up.

    Args:
        split: whose blocks.
        num_steps: of the first interval.
    """

    def __init__(self, split: SplitModel, num_steps: int) -> None:
        parts = [
            split.part_parameters(block_part(i), adapter_part(i)) for i in range(split.num_blocks)
        ]
        self._blocks = [list(part.values()) for part in parts]
        self._names = {parameter: name for part in parts for name, parameter in part.items()}
        self.begin(num_steps)

    def begin(self, num_steps: int) -> None:
        """Begin an interval of ``num_steps`` steps."""
        self.num_steps = 0
        self._half = num_steps // 2
        self._sums: dict[nn.Parameter, Tensor] = {}
        self._first_half: dict[nn.Parameter, Tensor] = {}
        self._squares: dict[nn.Parameter, Tensor] = {}

    @torch.no_grad()
    def add(self, norms: dict[nn.Parameter, Tensor]) -> None:
        """Add the gradients that the parameters hold now.

        Args:
            norms: of these gradients, as :func:`norms_of_gradients` gives them.
        """
        if any(p.grad is not None for block in self._blocks[:-1] for p in block):
            gradients = {p: p.grad for p in chain(*self._blocks) if p.grad is not None}
            _accumulate(self._sums, gradients)
            _accumulate(self._squares, {p: _widened(norms[p]).square() for p in gradients})
        self.pass_over()

    def pass_over(self) -> None:
        """Count a step of which nothing is added."""
        self.num_steps += 1
        if self.num_steps == self._half:
            self._first_half, self._sums = self._sums, {}

    def tensors(self) -> dict[str, Tensor]:
        """All that was added up in this interval, as ``{sum}/{parameter name}`` -> tensor."""
        return {
            f"{kind}/{self._names[parameter]}": tensor
            for kind, sums in self._kinds.items()
            for parameter, tensor in sums.items()
        }

    def load(self, tensors: Mapping[str, Tensor], num_steps: int) -> None:
        """Go on with what :meth:`tensors` gave after ``num_steps`` steps of the interval."""
        self.num_steps = num_steps
        for kind, sums in self._kinds.items():
            for parameter, name in self._names.items():
                if f"{kind}/{name}" in tensors:
                    sums[parameter] = tensors[f"{kind}/{name}"].to(parameter.device)

    @property
    def _kinds(self) -> dict[str, dict[nn.Parameter, Tensor]]:
        return {"sum": self._sums, "first_half": self._first_half, "squares": self._squares}

    @torch.no_grad()
    def finish(self) -> dict[str, tuple[float, ...]]:
        """The interval's statistics of each block, by their names in ``PER_BLOCK``; 0 if frozen."""
        first, second = self._l1_norms(self._first_half), self._l1_norms(self._sums)
        _accumulate(self._sums, self._first_half)
        squared = {p: total.square().sum() for p, total in self._sums.items()}
        return {
            "gradient_norms": self._l1_norms(self._sums),
            "first_half_norms": first,
            "second_half_norms": second,
            "squared_sums": self._per_block(squared),
            "sums_of_squares": self._per_block(self._squares),
        }

    def _l1_norms(self, sums: dict[nn.Parameter, Tensor]) -> tuple[float, ...]:
        return self._per_block({p: t.abs().sum(dtype=torch.float64) for p, t in sums.items()})

    def _per_block(self, values: dict[nn.Parameter, Tensor]) -> tuple[float, ...]:
        """Scalars of parameters, added up over each block; fetched from the device in one go."""
        known = list(values)
        if not known:
            return (0.0,) * len(self._blocks)
        fetched = torch.stack([values[p].to(torch.float64) for p in known]).tolist()
        of = dict(zip(known, fetched, strict=True))
        return tuple(sum(of.get(p, 0.0) for p in block) for block in self._blocks)


def _accumulate(sums: dict[nn.Parameter, Tensor], values: dict[nn.Parameter, Tensor]) -> None:
    known = [parameter for parameter in values if parameter in sums]
    if known:
        torch._foreach_add_([sums[p] for p in known], [values[p] for p in known])
    sums.update({p: _widened(value, copy=True) for p, value in values.items() if p not in sums})


def _widened(value: Tensor, *, copy: bool = False) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32), copy=copy)
