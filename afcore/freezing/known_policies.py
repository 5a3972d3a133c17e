"""The policies that ``freezing.policy`` may name: one line each, in the order of the reference."""

from typing import TypeAlias

from afcore.freezing.annealed import Annealed
from afcore.freezing.frozen_start import FrozenStart
from afcore.freezing.gradient_norm import GradientNorm
from afcore.freezing.guarded import Guarded
from afcore.freezing.linear import Linear
from afcore.freezing.none import NoFreezing
from afcore.freezing.static import Static

__all__ = ["DEFAULT_POLICY", "Policy"]

Policy: TypeAlias = (
    FrozenStart  # a line each
    | Guarded
    | GradientNorm
    | Static
    | Linear
    | Annealed
    | NoFreezing
)

DEFAULT_POLICY = FrozenStart
"""Taken where the configuration names none."""
