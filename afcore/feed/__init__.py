"""Hidden states of batches, from the tiers that hold a set, ahead of the training."""

from afcore.feed.hidden import HiddenFeed

__all__ = ["HiddenFeed"]
