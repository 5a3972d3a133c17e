"""What is predicted from: seconds of steps, store and links, measured or described. No I/O."""

import math
from dataclasses import dataclass

import numpy as np
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field

__all__ = [
    "Bandwidths",
    "ComputeProfile",
    "MachineLink",
    "Profile",
    "Reading",
    "Record",
    "WorkerProfile",
    "ring_terms",
]

_BUCKET_BYTES = 25 * 2**20
"""Of DistributedDataParallel: each bucket is an all-reduce of its own."""


class Record(BaseModel):
    """Numbers that stay what they are."""

    model_config = ConfigDict(frozen=True)


class ComputeProfile(Record):
    """Fitted seconds of one device; the formulas are those of :mod:`.forecast`.

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


@dataclass(frozen=True)
class Reading:
    """Where the bytes of an epoch come from.

    Attributes:
        gathered_bytes: of the set, from which batches are gathered.
        store_bytes: read from the store during the epoch, to fill the memory or past it.
    """

    gathered_bytes: int
    store_bytes: int


class Bandwidths(Record):
    """Measured bytes per second, and the store's seconds for a tiny object.

    ``memory_read``: gathering batches from host memory; ``shard_bytes``: of an object of a set,
    each of which waits for the store once.
    """

    shard_bytes: int
    store_latency_seconds: float
    store_write: float
    store_read: float
    memory_read: float = Field(  # the second: as earlier releases recorded it
        validation_alias=AliasChoices("memory_read", AliasPath("tiers", "host memory"))
    )

    def write_seconds(self, num_bytes: int) -> float:
        """Writing a set to the store."""
        return self._waiting(num_bytes) + num_bytes / self.store_write

    def fetch_seconds(self, num_bytes: int) -> float:
        """Reading a set from the store once."""
        return self._waiting(num_bytes) + num_bytes / self.store_read

    def gather_seconds(self, reading: Reading, num_workers: int = 1) -> float:
        """A worker's batches of an epoch; a device's memory is taken to be no faster."""
        return reading.gathered_bytes // num_workers / self.memory_read

    def num_shards(self, num_bytes: int) -> int:
        """Objects of a set."""
        return math.ceil(num_bytes / self.shard_bytes)

    def _waiting(self, num_bytes: int) -> float:
        return self.num_shards(num_bytes) * self.store_latency_seconds


class MachineLink(Record):
    """The faster link of workers that share a machine; rings of up to ``num_workers`` use it."""

    num_workers: int = Field(ge=1)
    latency_seconds: float = Field(ge=0)
    bytes_per_second: float = Field(gt=0)


class WorkerProfile(Record):
    """Data-parallel workers: their link, their start, and how they share a machine.

    Attributes:
        link_latency_seconds: alpha, of each step of an all-reduce.
        link_bytes_per_second: beta, of a worker to its neighbour in the ring.
        startup_seconds: of an epoch on two workers or more, until they have the model.
        startup_worker_seconds: the same, for each of them on top.
        startup_here_seconds: of one worker that is this process; None where one is launched as
            several are.
        contention: how many times as long one worker computes when n compute at once on its
            machine, by n; between them interpolated, beyond them as the last.
        machine: its own link, where workers are spread over machines; else all share one machine.
        overlap: share of an all-reduce that hides behind the backward pass; 0 is the cautious
            choice, and what is true where both need the same cores.
        gradient_bytes: of a parameter's gradient.
    """

    link_latency_seconds: float = Field(ge=0)
    link_bytes_per_second: float = Field(gt=0)
    startup_seconds: float = Field(0.0, ge=0)
    startup_worker_seconds: float = Field(0.0, ge=0)
    startup_here_seconds: float | None = Field(0.0, ge=0)
    contention: dict[int, float] = {}
    machine: MachineLink | None = None
    overlap: float = Field(0.0, ge=0, le=1)
    gradient_bytes: int = Field(4, ge=1)

    def allreduce_seconds(self, num_parameters: int, num_workers: int) -> float:
        """One all-reduce of gradients, as far as nothing hides it; see :func:`ring_terms`.

        Args:
            num_parameters: that train.
            num_workers: n.
        """
        if num_workers == 1:
            return 0.0
        latency, speed = self.link_latency_seconds, self.link_bytes_per_second
        if self.machine and num_workers <= self.machine.num_workers:
            latency, speed = self.machine.latency_seconds, self.machine.bytes_per_second
        latencies, sent_bytes = ring_terms(num_parameters * self.gradient_bytes, num_workers)
        return (1 - self.overlap) * (latencies * latency + sent_bytes / speed)

    def start_seconds(self, num_workers: int) -> float:
        """Until an epoch's workers have the model."""
        if num_workers == 1 and self.startup_here_seconds is not None:
            return self.startup_here_seconds
        return self.startup_seconds + num_workers * self.startup_worker_seconds

    def slowdown(self, num_workers: int) -> float:
        """Times as long as alone that a worker computes."""
        together = min(num_workers, self.machine.num_workers) if self.machine else num_workers
        known = {1: 1.0} | self.contention
        counts = sorted(known)
        return float(np.interp(together, counts, [known[n] for n in counts]))


_ALONE = WorkerProfile(link_latency_seconds=0.0, link_bytes_per_second=1.0)


class Profile(Record):
    """All that was measured; ``seconds`` is what measuring took.

    ``workers`` is None where one worker is all that is known.
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

    def known_workers(self, num_workers: int) -> WorkerProfile:
        """What is known of so many workers.

        Raises:
            ValueError: where no link was measured.
        """
        if self.workers is not None:
            return self.workers
        if num_workers == 1:
            return _ALONE
        raise ValueError(f"no link was measured, so nothing is known of {num_workers} workers")


def ring_terms(num_bytes: int, num_workers: int) -> tuple[float, float]:
    """What an all-reduce takes alpha, and bytes over beta, for.

    A ring takes 2 (n - 1) steps, in each of which every worker sends 1/n of the bytes to its
    neighbour (Patarasuk and Yuan 2009, JPDC 69(2)); a step takes alpha + bytes / beta (Hockney
    1994, Parallel Computing 20(3)). Gradients go in buckets, each an all-reduce of its own.

    Args:
        num_bytes: reduced.
        num_workers: n.

    Returns:
        Latencies waited for, and bytes that each worker sends.
    """
    steps = 2 * (num_workers - 1)
    buckets = math.ceil(num_bytes / _BUCKET_BYTES)
    return float(steps * buckets), steps / num_workers * num_bytes
