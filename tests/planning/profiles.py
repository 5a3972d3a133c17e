"""Figures chosen so that sums can be done in the head."""

from afcore.cost import Prices
from afcore.planning.choose_workers import Allowed
from afcore.planning.forecast import Work
from afcore.planning.profile import (
    Bandwidths,
    ComputeProfile,
    Profile,
    Reading,
    WorkerProfile,
)

FREE = Prices(0.0, 0.0, 0.0, 0.0)
PER_SECOND = Prices(3600.0, 0.0, 0.0, 0.0)
"""A dollar for a worker's second, nothing else."""
SHARD = 1_000_000
READING = Reading(2000, store_bytes=2000)
# 10 steps of 120 tokens with padding, 100 without; 2 bytes a token.
WORK = Work(num_steps=10, padded_tokens=1200, num_tokens=1000, hidden_bytes=2, reading=READING)
RUN = Work(10, 1200, 1000, 2, READING, validation_tokens=100, test_tokens=50, statistics=True)
# 4000 bytes of gradients at boundary 0, 400 at 3; one bucket.
LINK = {"link_latency_seconds": 0.01, "link_bytes_per_second": 4000.0}
FAST_LINK = {"link_latency_seconds": 0.0, "link_bytes_per_second": 1e9}


def profile(**changes: float) -> Profile:
    times = {
        "suffix_step": 0.1,
        "suffix_token": 0.011,  # the last block and the head
        "suffix_block_token": 0.01,
        "suffix_embeddings": 0.5,
        "update": 0.001,
        "statistics": 0.0005,
        "prefix_step": 0.01,
        "prefix_token": 0.0005,
        "prefix_block_token": 0.003,
        "inference_token": 0.0004,
        "inference_block_token": 0.002,
    }
    speeds = {"store_latency_seconds": 0.0, "store_write": 1000.0, "store_read": 2000.0}
    for name, value in changes.items():
        (speeds if name in speeds else times)[name] = value
    return Profile(
        compute=ComputeProfile(num_parameters=[1000, 300, 200, 100], **times),
        bandwidths=Bandwidths(**speeds, shard_bytes=SHARD, memory_read=4000.0),
        seconds=1.0,
    )


def with_workers(**changes: object) -> Profile:
    workers = WorkerProfile.model_validate(LINK | changes)
    return profile().model_copy(update={"workers": workers})


def scalable() -> Profile:
    """A link that costs nothing; writing checkpoints takes 12 ms."""
    found = with_workers(**FAST_LINK)
    bandwidths = found.bandwidths.model_copy(update={"store_write": 1e6})
    return found.model_copy(update={"bandwidths": bandwidths})


def four_workers(**changes: object) -> Allowed:
    """Up to four, for batches of 12."""
    settings = {"mode": "performance", "prices": PER_SECOND, "max_workers": 4, "batch_size": 12}
    return Allowed(**settings | changes)
