"""AdamW on what trains: dropping what froze, taking in what thawed, moments by name."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from afcore.model.split_model import SplitModel

__all__ = ["SuffixOptimizer"]

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class SuffixOptimizer:
    """AdamW whose parameters can leave, and whose state is known by parameter names.

    Args:
        split: its parameters that require gradients are optimized.
        learning_rate: peak.
        weight_decay: on matrices; not on biases and norms (vectors).
        moments: of an earlier training, as :meth:`moments` gives them.
        step: steps done since the training began. What has no moments by then has thawed: its rate
            rises over ``thaw_steps`` updates of its own.
        thaw_steps: see there.
    """

    def __init__(
        self,
        split: SplitModel,
        *,
        learning_rate: float,
        weight_decay: float,
        moments: Mapping[str, Tensor] | None = None,
        step: int = 0,
        thaw_steps: int = 0,
    ) -> None:
        self._names = dict(split.model.named_parameters())
        self._learning_rate = learning_rate
        self._step = step
        self._thaw_steps = thaw_steps
        known = moments or {}
        # One group for all that is alike: each is an update of its own, which takes time.
        groups: dict[tuple[int, float], list[nn.Parameter]] = {}
        for name, parameter in self._names.items():
            if parameter.requires_grad:
                begun = step - int(known.get(f"{name}/step", torch.zeros(())).item())
                decay = weight_decay if parameter.ndim >= 2 else 0.0
                groups.setdefault((begun, decay), []).append(parameter)
        self._adamw = torch.optim.AdamW(
            [
                {"params": parameters, "begun": begun, "weight_decay": decay}
                for (begun, decay), parameters in groups.items()
            ],
            lr=learning_rate,
            fused=True,
        )
        self._load_moments(known)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is being optimized."""
        return [p for group in self._adamw.param_groups for p in group["params"]]

    def step(self, factor: float) -> float:
        """Update with ``factor`` times the peak learning rate, clear gradients; return the rate."""
        rate = self._learning_rate * factor
        self._step += 1
        for group in self._adamw.param_groups:
            updates = self._step - group["begun"]
            thawing = group["begun"] > 0 and updates < self._thaw_steps
            group["lr"] = rate * updates / self._thaw_steps if thawing else rate
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

    def _load_moments(self, moments: Mapping[str, Tensor]) -> None:
        for name, parameter in self._names.items():
            if parameter.requires_grad and f"{name}/{_MOMENTS[0]}" in moments:
                self._adamw.state[parameter] = {
                    moment: moments[f"{name}/{moment}"].to(parameter.device) for moment in _MOMENTS
                }
