"""A worker that Ray Train started. Imports Ray, so only ``ray_train`` imports this."""

import os
import signal
import socket
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train.backend import Backend, BackendConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig

from afcore.interrupt import request_stop
from afcore.launch.worker import work

__all__ = ["WorkersOnly", "ray_worker"]


class _NoProcessGroup(Backend):
    share_cuda_visible_devices = True  # so that LOCAL_RANK is a device's index, as under torchrun

    def on_start(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        worker_group.execute(_catch_sigterm)


def _catch_sigterm() -> None:
    """Take SIGTERM as a request to stop, where Ray's own handler would end the process.

    This runs in a worker's main thread, as handlers must; the job has a thread beside it.
    """
    signal.signal(signal.SIGTERM, lambda _number, _frame: request_stop())


@dataclass
class WorkersOnly(TorchConfig):
    """Ray gives the workers; the job's function joins the process group, as under torchrun."""

    @property
    def backend_cls(self) -> type[Backend]:
        """Of Ray's setup: ours does nothing."""
        return _NoProcessGroup


def ray_worker(given: dict[str, Any]) -> None:
    """Run the job in this worker.

    Args:
        given: ``job``, ``address`` of the line, ``environment``.

    Raises:
        RuntimeError: when the function failed, so that Ray ends the others; why, the line has said.
    """
    place = ray.train.get_context()
    rank = place.get_world_rank()
    host, port = broadcast_from_rank_zero(_free_address() if rank == 0 else None)
    os.environ.update(given["environment"])
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(place.get_world_size()),
        LOCAL_RANK=str(place.get_local_rank()),
        LOCAL_WORLD_SIZE=str(place.get_local_world_size()),
        MASTER_ADDR=host,
        MASTER_PORT=str(port),
    )
    if not work(given["job"], given["address"], rank):
        raise RuntimeError("the job's function failed")


def _free_address() -> list[Any]:
    host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return [host, probe.getsockname()[1]]
