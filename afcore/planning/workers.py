"""What was measured of workers together: their link, their start, and how they share a machine."""

import math

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

__all__ = ["MachineLink", "WorkerProfile", "ring_terms"]

_BUCKET_BYTES = 25 * 2**20
"""Of DistributedDataParallel: each bucket is an all-reduce of its own."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class MachineLink(_Record):
    """The faster link of workers that share a machine; rings of up to ``num_workers`` use it."""

    num_workers: int = Field(ge=1)
    latency_seconds: float = Field(ge=0)
    bytes_per_second: float = Field(gt=0)


class WorkerProfile(_Record):
    """Data-parallel workers, measured.

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
