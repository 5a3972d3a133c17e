"""Workers of one or many machines, by Ray Train.

Without an address a cluster of this machine is started, on the loopback interface, and kept until
:meth:`LaunchWithRay.close`. After each job its workers are given back, so that an autoscaler can
release their machines.
"""

import importlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any

from afcore.errors import ConfigError, StoppedError, WorkerLostError, in_one_line
from afcore.extras import require_package
from afcore.interrupt import catch_sigterm, stop_requested
from afcore.launch.connection import GRACE_SECONDS, ParentAddress, WorkerConnections
from afcore.launch.job import Job
from afcore.launch.outcome import raise_cause

__all__ = ["LaunchWithRay", "check_room"]

_ANSWER_SECONDS = 5.0
_RAY_ANSWER_SECONDS = 15.0
_OBJECT_STORE_BYTES = 100 * 2**20  # nothing of ours goes through it

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in the configuration may be relative
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # its own words on dead workers, on standard output
    # Workers that do not come: minutes, as an autoscaler may have to start a machine.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# By this switch for other systems Ray binds to the loopback interface here too.
_ONLY_HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

# What workers of other machines get of this process's environment; credentials they have there.
_SHARED_VARIABLES = (
    "HF_HUB_",
    "TOKENIZERS_",
    "DO_NOT_TRACK",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)


class LaunchWithRay:
    """Connects to the cluster, or starts one.

    Args:
        address: ``host:port`` of a cluster that this machine is part of, or ``auto``; None starts
            one here.
        max_workers: that the cluster must have room for; the one started here has.
        use_gpu: whether each worker has a GPU.
        autoscaling: whether a cluster with an address may get that room later.

    Raises:
        ConfigError: when Ray is not installed, the address does not answer, or the cluster is too
            small.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        max_workers: int = 1,
        use_gpu: bool = False,
        autoscaling: bool = False,
    ) -> None:
        os.environ.update(_SETTINGS if address else _SETTINGS | _ONLY_HERE)
        if address is not None:
            _check_address(address)
        require_package("ray", "workers.launcher: ray")
        self._ray: Any = importlib.import_module("ray")
        if address is not None:
            _check_ray_answers(address)
        self._local = address is None
        self._worker_has = {"CPU": 1} | ({"GPU": 1} if use_gpu else {})
        self._folder = tempfile.mkdtemp(prefix="autofreeze-ray-")
        options: dict[str, Any] = {"address": address}
        if self._local:
            options = {
                "address": "local",
                "num_cpus": max_workers,
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "_temp_dir": self._folder,
            }
        try:
            with catch_sigterm():  # Ray leaves its own handler behind
                self._ray.init(**options, log_to_driver=False, logging_level=logging.CRITICAL)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            what = "no cluster could be started here" if self._local else f"{address!r} fails"
            reason = in_one_line(error)
            raise ConfigError(
                f"Ray: {what}: {reason}. Run this on a machine of the cluster, with the same Ray."
            ) from error
        if address is not None and not autoscaling:
            try:
                check_room(address, self._ray.cluster_resources(), max_workers, self._worker_has)
            except ConfigError:
                self.close()
                raise

    def run(self, job: Job) -> None:
        """See :class:`afcore.launch.job.Launcher`."""
        host = "127.0.0.1" if self._local else self._ray.util.get_node_ip_address()
        with catch_sigterm():
            if stop_requested():
                raise StoppedError(job.what)
            with WorkerConnections(host) as connections:
                failure = self._fit(job, connections)
            lost = {
                rank: (when, "its process or its machine died")
                for rank, when in connections.lost.items()
            }
            raise_cause(job, connections.outcomes, lost, stopped=stop_requested())
        if failure is not None:
            raise WorkerLostError(
                f"Ray could not run {job.num_workers} workers {job.what}: {failure}"
            )

    def close(self) -> None:
        """Leave the cluster; the one started here ends."""
        self._ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _fit(self, job: Job, connections: WorkerConnections) -> BaseException | None:
        """Run the workers.

        In a thread, as Ray takes over Ctrl-C in the main one, and this one is to see a stop.
        """
        failures: list[BaseException] = []

        def fit() -> None:
            try:
                self._trainer(job, connections.address).fit()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=fit, daemon=True, name="ray-train")
        thread.start()
        at_work = time.monotonic()
        try:
            # Workers keep to the grace period by themselves; those that have not come may not.
            while thread.is_alive() and time.monotonic() < at_work + GRACE_SECONDS:
                thread.join(0.1)
                if not stop_requested() or connections.are_any_at_work:
                    at_work = time.monotonic()
        except BaseException:
            self._ray.shutdown()  # and so the job and its workers
            raise
        return failures[0] if failures else None

    def _trainer(self, job: Job, address: ParentAddress) -> Any:
        train = importlib.import_module("ray.train")
        torch_trainer = importlib.import_module("ray.train.torch").TorchTrainer
        worker = importlib.import_module("afcore.launch.ray_worker")
        return torch_trainer(
            worker.ray_worker,
            train_loop_config={
                "job": job,
                "address": address,
                "environment": {
                    name: value
                    for name, value in os.environ.items()
                    if self._local or name.startswith(_SHARED_VARIABLES)
                },
            },
            torch_config=worker.WorkersOnly(),
            scaling_config=train.ScalingConfig(
                num_workers=job.num_workers,
                use_gpu="GPU" in self._worker_has,
                resources_per_worker=self._worker_has,
            ),
            run_config=train.RunConfig(
                storage_path=self._folder,
                failure_config=train.FailureConfig(
                    max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                ),
            ),
        )


def check_room(
    address: str, cluster_has: Mapping[str, float], num_workers: int, worker_has: Mapping[str, int]
) -> None:
    """Make sure that a cluster has what workers are asked to have; Ray would wait for it.

    Args:
        address: in the message.
        cluster_has: of each resource, all that it has, used or not.
        num_workers: at once.
        worker_has: of each resource, each of them.

    Raises:
        ConfigError: when not.
    """
    for kind, each in worker_has.items():
        room = int(cluster_has.get(kind, 0) // each)
        if room < num_workers:
            raise ConfigError(
                f"workers.max is {num_workers}, but the Ray cluster at {address} has {kind}s for "
                f"{room} workers. Lower it, start more machines, or, if the cluster starts them by "
                "itself, set workers.autoscaling: true."
            )


def _check_address(address: str) -> None:
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise ConfigError(
            f"Ray address {address!r}: expected host:port, e.g. 10.0.0.1:6379, or auto"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"Ray address {address!r} does not answer ({error}). Is the cluster up?"
        ) from error


def _check_ray_answers(address: str) -> None:
    """Ask in another process, as Ray ends the one in which it gets no answer."""
    command = [sys.executable, "-c", "import ray, sys; ray.init(sys.argv[1])", address]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_RAY_ANSWER_SECONDS, check=False
        )
        failed = done.returncode != 0
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
    except subprocess.TimeoutExpired:
        failed, reason = True, f"no answer in {_RAY_ANSWER_SECONDS:.0f} s"
    if failed:
        raise ConfigError(
            f"Ray address {address!r}: there is no cluster to join ({reason}). Run this on a "
            f"machine of the cluster, with the same versions of Ray and Python."
        )
