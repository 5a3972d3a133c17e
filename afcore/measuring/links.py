"""Measure what joins N workers, with a job that does nothing else.

An all-reduce of ``b`` bytes over a ring of ``n`` workers takes
``2 (n-1)/n * b / beta + 2 (n-1) * alpha`` seconds: each worker sends ``2 (n-1)`` messages of
``b / n`` bytes (Patarasuk and Yuan, 2009; Thakur et al., 2005). ``alpha`` and ``beta`` come from
three sizes by least squares.
"""

import datetime
import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from scipy.optimize import nnls

from afcore.launch.job import EpochJob, Launcher
from afcore.storage import Storage

__all__ = ["LinkMeasurement", "fit_ring", "measure_links", "probe"]

_SIZES_BYTES = (2**12, 2**20, 2**25)
_REPEATS = 7
_TIMEOUT = datetime.timedelta(seconds=60)
_WIDTH = 512
_WORK_SECONDS = 0.3


@dataclass(frozen=True)
class LinkMeasurement:
    """Of ``num_workers`` workers.

    Attributes:
        num_workers: that were measured.
        latency_seconds: alpha, of one message.
        bytes_per_second: beta, of one link; beyond any real one when size makes no difference.
        startup_seconds: from the launch of a job to its end, when its workers only join.
        contention: how many times longer a fixed work takes in each of all workers at once than
            in one alone; 1 when they do not disturb each other.
    """

    num_workers: int
    latency_seconds: float
    bytes_per_second: float
    startup_seconds: float
    contention: float


def measure_links(
    launcher: Launcher, storage: Storage, num_workers: int, *, threads: int | None = None
) -> LinkMeasurement:
    """Launch the probe, and take what it measured from the store.

    Start-up is what the launch takes beyond the measurement itself. The first launch of a process
    takes longer than later ones, so a job that does nothing goes before.

    Args:
        launcher: of the workers.
        storage: that the workers reach too.
        num_workers: at least 2.
        threads: of each worker.
    """
    assert num_workers >= 2, "one worker has no links"
    probe_id = uuid.uuid4().hex
    job = EpochJob(storage.root, probe_id, 0, 0, num_workers, threads, function=f"{__name__}:probe")
    warm = EpochJob(storage.root, probe_id, 0, 0, 1, threads, function=f"{__name__}:nothing")
    launcher.run(warm)
    clock = time.perf_counter()
    launcher.run(job)
    seconds = time.perf_counter() - clock
    measured = json.loads(storage.get(_key(probe_id)))
    storage.delete(_key(probe_id))
    reduce_seconds = {int(size): took for size, took in measured["reduce_seconds"].items()}
    latency, bandwidth = fit_ring(num_workers, reduce_seconds)
    return LinkMeasurement(
        num_workers,
        latency,
        bandwidth,
        seconds - measured["measuring_seconds"],
        max(1.0, measured["together_seconds"] / measured["alone_seconds"]),
    )


def fit_ring(num_workers: int, reduce_seconds: Mapping[int, float]) -> tuple[float, float]:
    """(alpha in seconds, beta in bytes per second) from seconds by bytes.

    By least squares of relative errors, without negative terms.
    """
    steps = 2 * (num_workers - 1)
    took = np.array(list(reduce_seconds.values()))
    columns = np.array([[steps, steps / num_workers * size] for size in reduce_seconds])
    scale = columns.max(axis=0)
    (alpha, per_byte), _ = nnls(columns / scale / took[:, None], np.ones(len(took)))
    alpha, per_byte = alpha / scale[0], per_byte / scale[1]
    return float(alpha), float(1 / per_byte) if per_byte else float("inf")


def nothing(job: EpochJob) -> None:
    """The job that only warms the launcher up."""


def probe(job: EpochJob) -> None:
    """On every worker; rank 0 writes what was measured, by its clock."""
    cuda = torch.cuda.is_available()
    local = int(os.environ["LOCAL_RANK"])
    device = (
        torch.device("cuda", local % torch.cuda.device_count()) if cuda else torch.device("cpu")
    )
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_TIMEOUT)
    try:
        dist.all_reduce(torch.ones(1, device=device))
        began = time.perf_counter()
        reduce_seconds = {size: _reduce_seconds(size, device) for size in _SIZES_BYTES}
        work = _Work(device)
        count = torch.zeros(1, dtype=torch.int64, device=device)
        alone = 0.0
        if dist.get_rank() == 0:
            count[0] = max(1, round(_WORK_SECONDS / work.seconds(1)))
            alone = work.seconds(int(count))
        dist.broadcast(count, 0)  # the others wait here, without work
        together = torch.tensor([work.seconds(int(count))], dtype=torch.float64, device=device)
        dist.all_reduce(together, dist.ReduceOp.MAX)
        measured = {
            "reduce_seconds": reduce_seconds,
            "alone_seconds": alone,
            "together_seconds": together.item(),
            "measuring_seconds": time.perf_counter() - began,
        }
        if dist.get_rank() == 0:
            Storage(job.store).put(_key(job.run_id), json.dumps(measured).encode())
    finally:
        dist.destroy_process_group()


def _reduce_seconds(num_bytes: int, device: torch.device) -> float:
    numbers = torch.ones(num_bytes // 4, device=device)
    took = []
    for _ in range(_REPEATS):
        dist.barrier()
        clock = time.perf_counter()
        dist.all_reduce(numbers)
        _synchronize(device)
        took.append(time.perf_counter() - clock)
    return float(np.median(took[1:]))


class _Work:
    """Products of two matrices."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._matrix = torch.ones(_WIDTH, _WIDTH, device=device)
        self._product = torch.empty_like(self._matrix)
        self.seconds(3)

    def seconds(self, count: int) -> float:
        """Median time of ``count`` products."""
        took = []
        for _ in range(3):
            clock = time.perf_counter()
            for _ in range(count):
                torch.mm(self._matrix, self._matrix, out=self._product)
            _synchronize(self._device)
            took.append(time.perf_counter() - clock)
        return float(np.median(took))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _key(probe_id: str) -> str:
    return f"probes/{probe_id}.json"
