"""Seconds of an epoch from measurements. No I/O, no torch.

The model, fitted by :mod:`afcore.measuring.compute` (docs/decisions/0014). ``L`` blocks, boundary
``k``, a set at ``r <= k`` (0: tokens), ``T`` tokens of a batch with padding, ``P(k)`` parameters
that train::

    suffix of a step = step + token * T + block_token * T * (L - 1 - k) + update * P(k)
                       + embeddings, at k = 0  + statistics * P(k), where a policy decides and
                                                 more than the last block trains
    prefix of a step = step + token * T, at r = 0  + block_token * T * (k - r)
    reading an epoch = bytes from the store / its speed + bytes of each tier / the tier's speed
    building a set   = (token + block_token * (k - r)) * tokens + writing [+ reading the one below]

A set takes the same bytes at every boundary. Reading is not taken to overlap with computing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from afcore.planning.workers import WorkerProfile

__all__ = [
    "Bandwidths",
    "ComputeProfile",
    "EpochForecast",
    "Profile",
    "Reading",
    "Work",
    "build_seconds",
    "forecast_epoch",
    "read_seconds",
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class ComputeProfile(_Record):
    """Fitted seconds of one device; see the module's formulas.

    Attributes:
        num_parameters: L numbers, P(k): parameters that train at boundary k.
        suffix_step: of a training step, whatever its size.
        suffix_token: per token: what always trains. The last block (which may be computed at one
            position only), head and loss, and what the frozen embeddings still cost.
        suffix_block_token: per token and block that trains below the last, forward and backward.
        suffix_embeddings: per step, on top, while the embeddings train.
        update: per parameter: clipping and optimizer.
        statistics: per parameter: adding up gradients.
        prefix_step: of running frozen blocks on a batch.
        prefix_token: per token: embeddings.
        prefix_block_token: per token and block, forward alone, in eval mode.
        inference_token: per token without padding, in large sorted batches.
        inference_block_token: the same per block.
    """

    num_parameters: list[int]
    suffix_step: float
    suffix_token: float
    suffix_block_token: float
    suffix_embeddings: float
    update: float
    statistics: float
    prefix_step: float
    prefix_token: float
    prefix_block_token: float
    inference_token: float
    inference_block_token: float

    @property
    def num_blocks(self) -> int:
        """L."""
        return len(self.num_parameters)


class Bandwidths(_Record):
    """Measured bytes per second, and the store's seconds for a tiny object.

    ``tiers``: gathering batches from host memory, local disk, ...; ``shard_bytes``: of an object of
    a set, each of which waits for the store once.
    """

    shard_bytes: int
    store_latency_seconds: float
    store_write: float
    store_read: float
    tiers: dict[str, float]

    def write_seconds(self, num_bytes: int) -> float:
        """Writing a set to the store."""
        return self._shards(num_bytes) * self.store_latency_seconds + num_bytes / self.store_write

    def fetch_seconds(self, num_bytes: int) -> float:
        """Reading a set from the store once."""
        return self._shards(num_bytes) * self.store_latency_seconds + num_bytes / self.store_read

    def _shards(self, num_bytes: int) -> int:
        return math.ceil(num_bytes / self.shard_bytes)


class Profile(_Record):
    """All that was measured; ``seconds`` is what measuring took.

    ``workers`` is None where one worker is all there is.
    """

    compute: ComputeProfile
    bandwidths: Bandwidths
    seconds: float
    workers: WorkerProfile | None = None

    def scaled(self, factor: float) -> "Profile":
        """The same with every second of computing ``factor`` times as long."""
        times = {
            name: value * factor
            for name, value in self.compute.model_dump(exclude={"num_parameters"}).items()
        }
        return self.model_copy(update={"compute": self.compute.model_copy(update=times)})


@dataclass(frozen=True)
class Work:
    """What an epoch goes through.

    Attributes:
        num_steps: batches.
        padded_tokens: of all batches.
        num_tokens: the same without padding.
        hidden_bytes: stored bytes of one token's hidden state.
    """

    num_steps: int
    padded_tokens: int
    num_tokens: int
    hidden_bytes: int

    @classmethod
    def of(
        cls,
        lengths: npt.NDArray[np.int64],
        batches: Sequence[npt.NDArray[np.int64]],
        hidden_bytes: int,
    ) -> "Work":
        """Count.

        Args:
            lengths: [n] tokens of each example.
            batches: of example ids.
            hidden_bytes: see above.
        """
        padded = sum(len(ids) * int(lengths[ids].max()) for ids in batches)
        return cls(len(batches), padded, int(lengths.sum()), hidden_bytes)

    @property
    def set_bytes(self) -> int:
        """Of an activation set."""
        return self.num_tokens * self.hidden_bytes


@dataclass(frozen=True)
class Reading:
    """Where the bytes of an epoch come from.

    Attributes:
        bytes_by_tier: from which batches are gathered.
        store_bytes: read from the store during the epoch, to fill the tiers or past them.
    """

    bytes_by_tier: Mapping[str, int]
    store_bytes: int


class EpochForecast(_Record):
    """Predicted seconds of an epoch's training; ``allreduce_seconds`` are several workers'."""

    prefix_seconds: float
    suffix_seconds: float
    read_seconds: float
    allreduce_seconds: float = 0.0

    @property
    def train_seconds(self) -> float:
        """All of them."""
        computing = self.prefix_seconds + self.suffix_seconds
        return computing + self.read_seconds + self.allreduce_seconds


def forecast_epoch(
    profile: Profile,
    work: Work,
    boundaries: Sequence[int],
    *,
    read_boundary: int,
    reading: Reading,
    statistics: bool,
) -> EpochForecast:
    """Predict an epoch.

    Args:
        profile: as measured.
        work: of the epoch.
        boundaries: in force, for equal shares of the steps; one if it stays.
        read_boundary: of the set that is read, at most the first boundary; 0 for tokens.
        reading: used when a set is read.
        statistics: whether a policy decides.
    """
    shares = [1 / len(boundaries)] * len(boundaries)
    suffix = sum(
        share * _suffix_seconds(profile.compute, work, boundary, statistics)
        for share, boundary in zip(shares, boundaries, strict=True)
    )
    prefix = sum(
        share * _prefix_seconds(profile.compute, work, boundary, read_boundary)
        for share, boundary in zip(shares, boundaries, strict=True)
    )
    read = read_seconds(profile.bandwidths, reading) if read_boundary else 0.0
    return EpochForecast(prefix_seconds=prefix, suffix_seconds=suffix, read_seconds=read)


def read_seconds(bandwidths: Bandwidths, reading: Reading) -> float:
    """An epoch's reading: opening and gathering. An unknown tier is as fast as the slowest."""
    slowest = min(bandwidths.tiers.values())
    gathering = sum(
        num_bytes / bandwidths.tiers.get(tier, slowest)
        for tier, num_bytes in reading.bytes_by_tier.items()
    )
    return gathering + bandwidths.fetch_seconds(reading.store_bytes)


def build_seconds(profile: Profile, work: Work, boundary: int, read_boundary: int) -> float:
    """Computing and writing the set at ``boundary`` from the one at ``read_boundary``."""
    compute, bandwidths = profile.compute, profile.bandwidths
    depth = boundary - read_boundary
    per_token = compute.inference_token + depth * compute.inference_block_token
    below = bandwidths.fetch_seconds(work.set_bytes) if read_boundary else 0.0
    return work.num_tokens * per_token + below + bandwidths.write_seconds(work.set_bytes)


def _suffix_seconds(compute: ComputeProfile, work: Work, boundary: int, statistics: bool) -> float:
    num_below_last = compute.num_blocks - 1 - boundary
    per_parameter = compute.update
    if statistics and num_below_last:
        per_parameter += compute.statistics
    per_step = compute.suffix_step + compute.num_parameters[boundary] * per_parameter
    if boundary == 0:
        per_step += compute.suffix_embeddings
    per_token = compute.suffix_token + compute.suffix_block_token * num_below_last
    return work.num_steps * per_step + work.padded_tokens * per_token


def _prefix_seconds(
    compute: ComputeProfile, work: Work, boundary: int, read_boundary: int
) -> float:
    if boundary == read_boundary:
        return 0.0
    per_token = compute.prefix_block_token * (boundary - read_boundary)
    if not read_boundary:
        per_token += compute.prefix_token
    return work.num_steps * compute.prefix_step + work.padded_tokens * per_token
