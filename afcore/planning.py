"""Decisions from measurements: is an activation set worth writing? No I/O, no torch.

The estimate is a first, simple one: compute rates measured in the epoch that just ended and an
assumed bandwidth of the store, applied to the tokens of the epochs left.
"""

from dataclasses import dataclass

__all__ = ["MaterializePlan", "Rates", "plan_materialize"]

INFERENCE_GAIN = 0.85
"""Seconds per token of a length-sorted inference pass, as a share of a training batch's prefix."""

_FORWARD_SHARE = 1 / 3
"""Forward share of forward + backward, when no prefix has run yet: 2 of 6 FLOP per weight."""


@dataclass(frozen=True)
class Rates:
    """What an epoch measured, and what the store is taken to do.

    Attributes:
        prefix_seconds: in the frozen prefix.
        prefix_block_tokens: tokens times blocks that went through the prefix.
        suffix_seconds: in forward, backward and update of the suffix.
        suffix_block_tokens: tokens times blocks that went through the suffix.
        read_bytes_per_second: of the store, assumed.
        write_bytes_per_second: of the store, assumed.
    """

    prefix_seconds: float
    prefix_block_tokens: int
    suffix_seconds: float
    suffix_block_tokens: int
    read_bytes_per_second: float
    write_bytes_per_second: float

    @property
    def forward_seconds_per_block_token(self) -> float:
        """One token through one frozen block."""
        if self.prefix_block_tokens:
            return self.prefix_seconds / self.prefix_block_tokens
        return _FORWARD_SHARE * self.suffix_seconds / max(1, self.suffix_block_tokens)


@dataclass(frozen=True)
class MaterializePlan:
    """Whether to write a set, and why.

    ``cost_seconds`` is the pass and the write; ``saving_seconds`` what the epochs left are then
    spared, reading paid for.
    """

    pays: bool
    num_bytes: int
    cost_seconds: float
    saving_seconds: float


def plan_materialize(
    rates: Rates,
    *,
    num_tokens: int,
    hidden_bytes: int,
    read_boundary: int,
    boundary: int,
    epochs_left: int,
) -> MaterializePlan:
    """Compare writing a set at ``boundary`` with running the blocks above ``read_boundary`` again.

    With ``f`` seconds per token and block, ``d = boundary - read_boundary`` blocks and ``B``
    bytes: cost ``t * d * f * gain + B / write``; saving ``epochs_left * (t * d * f - B / read)``,
    where reading is free when a set at ``read_boundary`` would be read anyway.

    Args:
        rates: as measured.
        num_tokens: t, of the whole training set.
        hidden_bytes: bytes of one token's hidden state.
        read_boundary: 0 for tokens, or the boundary of the set at hand.
        boundary: of the set to write.
        epochs_left: that would read it.
    """
    num_bytes = num_tokens * hidden_bytes
    depth = boundary - read_boundary
    recompute_seconds = num_tokens * depth * rates.forward_seconds_per_block_token
    read_seconds = 0.0 if read_boundary else num_bytes / rates.read_bytes_per_second
    cost = recompute_seconds * INFERENCE_GAIN + num_bytes / rates.write_bytes_per_second
    saving = epochs_left * (recompute_seconds - read_seconds)
    return MaterializePlan(saving > cost, num_bytes, cost, saving)
