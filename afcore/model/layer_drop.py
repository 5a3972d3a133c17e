"""Models that skip blocks at random in training (LayerDrop, arXiv 1909.11556)."""

import itertools
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

__all__ = ["LAYER_DROP", "block_skipper"]

LAYER_DROP = "layerdrop"
"""With this ends the name of a setting that is the chance of it."""


def block_skipper(model: Any, blocks: Sequence[str]) -> nn.Module | None:
    """The module that skips some of the blocks while it is in train mode; None: none does.

    Args:
        model: a ``PreTrainedModel``.
        blocks: their names, which one module runs one after the other: the nearest around all.
    """
    inner = (one for one in vars(model.config).values() if isinstance(one, PreTrainedConfig))
    settings = [item for one in (model.config, *inner) for item in vars(one).items()]
    chances = [value for key, value in settings if key.endswith(LAYER_DROP)]
    if not any(chances):
        return None
    names = zip(*(name.split(".") for name in blocks), strict=False)
    around = [same[0] for same in itertools.takewhile(lambda same: len(set(same)) == 1, names)]
    while isinstance(model.get_submodule(".".join(around)), nn.ModuleList | nn.ModuleDict):
        around.pop()
    found: nn.Module = model.get_submodule(".".join(around))
    return found
