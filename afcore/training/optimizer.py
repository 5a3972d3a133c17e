"""AdamW on what trains: dropping what froze, taking in what thawed, moments by name."""

import torch
from torch import Tensor, nn

from afcore.model.blocks import SplitModel

__all__ = ["SuffixOptimizer"]

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class SuffixOptimizer:
    """AdamW whose parameters can leave, and whose state is known by parameter names.

    Args:
        split: its parameters that require gradients are optimized.
        learning_rate: peak.
        weight_decay: on matrices; not on biases and norms (vectors).
    """

    def __init__(self, split: SplitModel, *, learning_rate: float, weight_decay: float) -> None:
        self._names = dict(split.model.named_parameters())
        self._learning_rate = learning_rate
        trained = [p for p in self._names.values() if p.requires_grad]
        # Without decay all are one group: each is an update of its own, which takes time.
        decayed = [p for p in trained if p.ndim >= 2 and weight_decay]
        groups = [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim < 2 or not weight_decay], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=learning_rate, fused=True
        )

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is being optimized."""
        return [p for group in self._adamw.param_groups for p in group["params"]]

    def step(self, factor: float) -> float:
        """Update with ``factor`` times the peak learning rate, clear gradients; return the rate."""
        rate = self._learning_rate * factor
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        return rate

    def drop_frozen(self) -> None:
        """Let go of parameters that no longer require gradients; the others keep their moments."""
        for group in self._adamw.param_groups:
            for parameter in group["params"]:
                if not parameter.requires_grad:
                    self._adamw.state.pop(parameter, None)
            group["params"] = [p for p in group["params"] if p.requires_grad]

    def moments(self) -> dict[str, Tensor]:
        """State as ``{parameter name}/{moment}`` -> tensor, for what is being optimized."""
        return {
            f"{name}/{moment}": self._adamw.state[parameter][moment]
            for name, parameter in self._names.items()
            if parameter in self._adamw.state
            for moment in _MOMENTS
        }

    def load_moments(self, moments: dict[str, Tensor]) -> None:
        """Take over what :meth:`moments` gave."""
        for name, parameter in self._names.items():
            if parameter.requires_grad and f"{name}/{_MOMENTS[0]}" in moments:
                self._adamw.state[parameter] = {
                    moment: moments[f"{name}/{moment}"].to(parameter.device) for moment in _MOMENTS
                }
