"""The modes in which a training runs, and what each of them may do."""

from typing import Literal, get_args

__all__ = [
    "CACHING_MODES",
    "CHOOSING_MODES",
    "FREEZING_MODES",
    "MODES",
    "OWN_MODES",
    "PEER_MODES",
    "Mode",
]

Mode = Literal[
    "full",
    "freeze",
    "cached",
    "performance",
    "efficiency",
    "hf_trainer",
    "hf_trainer_grouped",
    "hf_trainer_early",
    "hf_trainer_lora",
]
MODES: tuple[str, ...] = get_args(Mode)
PEER_MODES = tuple(mode for mode in MODES if mode.startswith("hf_trainer"))
"""Modes that train with Hugging Face's ``Trainer``, for comparison."""
OWN_MODES = tuple(mode for mode in MODES if mode not in PEER_MODES)
CACHING_MODES: tuple[str, ...] = ("cached", "performance", "efficiency")
"""Modes that may read and write activation sets."""
FREEZING_MODES: tuple[str, ...] = ("freeze", *CACHING_MODES)
"""Modes that freeze blocks."""
CHOOSING_MODES: tuple[str, ...] = ("performance", "efficiency")
"""Modes that choose each epoch's number of workers."""
