"""What of a model draws at random, or remembers from one batch to the next, in training.

Below a boundary all of it is off (eval mode), which :mod:`afcore.conformance.trials` tries.
"""

import re
from typing import Any

from torch import nn

from afcore.model.split_model import SplitModel

__all__ = ["drawn_in_training", "kept_between_batches"]

_DRAWN = re.compile(r"drop|jitter|mask_(time|feature)_prob$|noise")


def drawn_in_training(config: Any) -> dict[str, float]:
    """Settings that are chances of something being drawn, where they are above zero."""
    found: dict[str, float] = {}
    for name, value in _flat(config.to_dict()):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and value > 0 and _DRAWN.search(name.rpartition(".")[2]):
            found[name] = float(value)
    if getattr(config, "apply_spec_augment", True) is False:
        found = {name: value for name, value in found.items() if "mask_" not in name}
    return found


def kept_between_batches(split: SplitModel) -> dict[str, int]:
    """Modules that keep statistics of batches, by their class: how many there are."""
    found: dict[str, int] = {}
    for module in split.model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            found[type(module).__name__] = found.get(type(module).__name__, 0) + 1
    return found


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in tree.items():
        if isinstance(value, dict) and key.endswith("_config"):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
