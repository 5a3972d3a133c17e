"""The workers that train one epoch together: which of them this is, and what all agree on.

Every worker runs the same program on its share of each batch. Gradients are averaged
(:mod:`afcore.training.data_parallel`), so weights, moments, statistics and decisions are the same
on every worker, which is checked at every decision. The first worker alone commits. One worker
alone needs no process group: then nothing here does anything.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _set_pg_timeout

from afcore.digest import recipe_digest
from afcore.errors import ConfigError, LeaseLostError, WorkerLostError

__all__ = ["ALONE", "WorkerGroup", "join_group"]

JOIN_SECONDS = 30.0
"""How long workers wait for each other at the start."""
STEP_SECONDS = 900.0
"""A worker that is silent for so long within a step is taken to be stuck.

One that died is noticed at once, by who launched it. Meanwhile a live one may wait for a shard,
which is read up to five times, each time asked for up to five times, for 20 s.
"""
_PATIENT = timedelta(hours=12)


class WorkerGroup:
    """``count`` workers, of which this one is number ``rank``, from 0.

    Args:
        rank: of this worker.
        count: of all.
        local_count: of those on this machine.
        patient: process group for what may take long; None for one worker alone.
    """

    def __init__(
        self, rank: int = 0, count: int = 1, local_count: int = 1, patient: Any = None
    ) -> None:
        self.rank = rank
        self.count = count
        self.local_count = local_count
        self._patient = patient
        self._asked: tuple[Any, Tensor] | None = None

    @property
    def is_first(self) -> bool:
        """Whether this worker commits."""
        return self.rank == 0

    def share(self, ids: npt.NDArray[np.int64], size: int = 1) -> npt.NDArray[np.int64]:
        """This worker's part of a batch: every ``count``-th example, so lengths spread evenly.

        Args:
            ids: [b * size] example ids.
            size: of a group of examples that are answered together.

        Returns:
            At least one group: a batch with fewer examples than workers gives the others its first
            one, for :meth:`weight` 0.
        """
        share = ids.reshape(-1, size)[self.rank :: self.count].reshape(-1)
        return share if len(share) else ids[:size]

    def weight(self, batch_size: int, whole: int, part: int) -> float:
        """What this worker's sum of losses is multiplied with, so that the average is the batch's.

        Workers' gradients are averaged, each with the same weight; ``count / b`` times a sum of
        losses, averaged over the workers, is the mean over the ``b`` examples of the batch.

        Args:
            batch_size: b.
            whole: what the batch weighs: b, unless examples weigh differently.
            part: what the examples weigh whose mean loss it is.
        """
        if self.rank >= batch_size:
            return 0.0
        return self.count * part / whole

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the workers of [n] values; the same everywhere."""
        if self.count > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.count
        return values

    def longest(self, seconds: float) -> float:
        """The most that a worker took."""
        if self.count == 1:
            return seconds
        value = torch.tensor(seconds, dtype=torch.float64)
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self._patient)
        return float(value)

    def wants_to_stop(self, wish: bool) -> bool:
        """Whether some worker wished to stop; all get the same answer at the same step.

        With more than one, the answer is that of the step before: asking takes no time then.
        """
        if self.count == 1:
            return wish
        answer = self.pending_stop()
        asked = torch.tensor([int(wish)])
        work = dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._patient, async_op=True)
        self._asked = (work, asked)
        return answer

    def pending_stop(self) -> bool:
        """The answer to what was asked last, if anything."""
        if self._asked is None:
            return False
        work, asked = self._asked
        self._asked = None
        work.wait()
        return bool(asked.item())

    def wait(self) -> None:
        """Until every worker is here, however long the others take."""
        if self.count > 1:
            dist.barrier(group=self._patient)

    def tell(self, message: Any = None) -> Any:
        """What the first worker says, for all of them; it may take long to say it."""
        if self.count == 1:
            return message
        messages = [message]
        dist.broadcast_object_list(messages, src=0, group=self._patient)
        return messages[0]

    def checked_by_first(self, check: Callable[[], None]) -> None:
        """Run ``check`` on the first worker; who went on alone would wait for the others.

        Raises:
            LeaseLostError: on every worker, when the check raises it.
        """
        lost = None
        if self.is_first:
            try:
                check()
            except LeaseLostError as error:
                lost = str(error)
        lost = self.tell(lost)
        if lost is not None:
            raise LeaseLostError(lost)

    def gather(self, value: Any) -> list[Any]:
        """Every worker's value, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._patient)
        return values

    def check_same(self, what: str, value: Any) -> None:
        """Make sure that every worker has the same value.

        Raises:
            ConfigError: when not.
        """
        digests = self.gather(recipe_digest({"value": value})) if self.count > 1 else []
        others = [str(rank) for rank, digest in enumerate(digests) if digest != digests[0]]
        if others:
            raise ConfigError(
                f"workers differ: worker {', '.join(others)} has another {what} than worker 0. "
                "Install the same versions, and give all of them the same data and store."
            )


ALONE = WorkerGroup()


@contextlib.contextmanager
def join_group(device: torch.device) -> Iterator[WorkerGroup]:
    """The group that the environment speaks of (``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR``, ...).

    NCCL on CUDA, gloo otherwise, and gloo beside NCCL for what is on the CPU.

    Raises:
        WorkerLostError: when the others cannot be reached.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        try:
            dist.init_process_group(backend, timeout=timedelta(seconds=JOIN_SECONDS))
            _set_pg_timeout(timedelta(seconds=STEP_SECONDS))
            patient = dist.new_group(backend="gloo", timeout=_PATIENT)
        except (RuntimeError, ValueError) as error:
            raise WorkerLostError(f"the workers do not find each other: {error}") from error
        local_count = int(os.environ.get("LOCAL_WORLD_SIZE", count))
        yield WorkerGroup(dist.get_rank(), count, local_count, patient)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
