"""What the stack is made of: how each server is started, and how it is asked whether it works."""

import contextlib
import datetime
import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import httpx
import psutil
from pydantic import BaseModel, ConfigDict, Field

from afcore.errors import UserError
from afcore.yaml_files import SECRET_MESSAGE, USERINFO
from pipelines.stack.services import LOOPBACK, Service, ServiceFolder

__all__ = [
    "FOLDER",
    "MOTO",
    "WORK_POOL",
    "StackSettings",
    "answers",
    "is_reachable",
    "stack_services",
]

FOLDER = "folder"
MOTO = "moto"
WORK_POOL = "autofreeze"
_WORKER = "stack"
_POLL_SECONDS = "5"
_Port = Annotated[int, Field(ge=1, le=65535)]
_LEASES_IN_FILES = "prefect.server.concurrency.lease_storage.filesystem"


class StackSettings(BaseModel):
    """What a stack is started with.

    Attributes:
        prefect_port: of Prefect's server.
        mlflow_port: of MLflow's.
        s3: ``moto``, the endpoint of a server that runs already, or None for a folder.
        s3_port: that moto listens on.
    """

    model_config = ConfigDict(frozen=True)
    prefect_port: _Port = 4200
    mlflow_port: _Port = 5000
    s3: str | None = None
    s3_port: _Port = 9000

    def check(self) -> None:
        """That servers can be started with them.

        Raises:
            UserError: when they cannot.
        """
        ports = {"Prefect": self.prefect_port, "MLflow": self.mlflow_port}
        if self.s3 == MOTO:
            ports["moto"] = self.s3_port
        for name, port in ports.items():
            if [*ports.values()].count(port) > 1:
                raise UserError(f"port {port} is given twice, for {name} too. Give each its own")
        if self.s3 and USERINFO.search(self.s3):
            raise UserError(f"--s3: {SECRET_MESSAGE}")

    @property
    def prefect_api(self) -> str:
        """The address that ``PREFECT_API_URL`` takes."""
        return f"http://{LOOPBACK}:{self.prefect_port}/api"

    @property
    def mlflow_address(self) -> str:
        """The tracking URI."""
        return f"http://{LOOPBACK}:{self.mlflow_port}"

    def s3_environment(self) -> dict[str, str]:
        """Variables of a worker; credentials for a real server are those of this process."""
        if self.s3 == MOTO:
            return {
                "AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{self.s3_port}",
                "AWS_ACCESS_KEY_ID": "volatile",
                "AWS_SECRET_ACCESS_KEY": "volatile",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
        return {"AWS_ENDPOINT_URL": self.s3} if self.s3 else {}


def stack_services(settings: StackSettings, folder: Path, started: ServiceFolder) -> list[Service]:
    """All services, in the order in which they are started; the worker is the last.

    Args:
        settings: of the stack.
        folder: of MLflow's database and artifacts.
        started: where the processes are noted.

    Raises:
        UserError: when a package is missing.
    """
    services = [_prefect(settings), _mlflow(settings, folder)]
    if settings.s3 == MOTO:
        services.append(_moto(settings))
    return [*services, _worker(settings, started)]


def answers(url: str) -> bool:
    """Whether a server of this machine answers, with success."""
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def is_reachable(url: str) -> bool:
    """Whether a server anywhere answers, with whatever: S3 refuses who does not sign."""
    try:
        httpx.get(url, timeout=5.0)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True


def _prefect(settings: StackSettings) -> Service:
    return Service(
        "prefect",
        (
            *(sys.executable, "-m", "prefect", "server", "start"),
            *("--host", LOOPBACK, "--port", str(settings.prefect_port)),
        ),
        {
            # The page asks the API itself, and would ask the default port.
            "PREFECT_SERVER_UI_API_URL": settings.prefect_api,
            # A run whose process died keeps the place of the one that trains for so long.
            "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION": "60",
            # In memory it is gone with the server, and the run is stopped for it minutes later.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": _LEASES_IN_FILES,
        },
        settings.prefect_port,
        lambda: answers(f"{settings.prefect_api}/health"),
    )


def _mlflow(settings: StackSettings, folder: Path) -> Service:
    return Service(
        "mlflow",
        (
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", LOOPBACK, "--port", str(settings.mlflow_port)),
            *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
            # Where a run without a server puts them: both read what the other wrote.
            *("--default-artifact-root", (folder / "mlartifacts").as_uri()),
        ),
        # Else MLflow starts seven more processes, for jobs that nobody gives it.
        {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        settings.mlflow_port,
        lambda: answers(f"{settings.mlflow_address}/health"),
        # Without it MLflow shows a new browser its pages for language models.
        path="/#/experiments?workflowType=machine_learning",
    )


def _moto(settings: StackSettings) -> Service:
    if importlib.util.find_spec("moto") is None:
        raise UserError("S3=moto needs the package moto: pip install 'moto[server,s3]'")
    port = str(settings.s3_port)
    return Service(
        "s3",
        (sys.executable, "-m", "moto.server", "--host", LOOPBACK, "--port", port),
        {},
        settings.s3_port,
        lambda: answers(f"http://{LOOPBACK}:{port}/moto-api/"),
    )


def _worker(settings: StackSettings, started: ServiceFolder) -> Service:
    def is_online() -> bool:
        process = started.process("worker")
        return process is not None and _has_been_heard(settings.prefect_api, process)

    return Service(
        "worker",
        (
            *(sys.executable, "-m", "prefect", "worker", "start", "--type", "process"),
            # One run at a time has this machine's device; others wait.
            *("--pool", WORK_POOL, "--name", _WORKER, "--limit", "1"),
        ),
        {
            "PREFECT_API_URL": settings.prefect_api,
            "PREFECT_WORKER_QUERY_SECONDS": _POLL_SECONDS,
            **settings.s3_environment(),
        },
        None,
        is_online,
        # A training commits first, and a large one takes its time.
        stop_seconds=120.0,
    )


def _has_been_heard(api: str, process: psutil.Process) -> bool:
    """Whether Prefect has heard from this worker, not from one of its name that died."""
    with contextlib.suppress(httpx.HTTPError):
        answer = httpx.post(
            f"{api}/work_pools/{WORK_POOL}/workers/filter", json={}, timeout=5.0, trust_env=False
        )
        for worker in answer.json() if answer.status_code == 200 else []:
            heard = datetime.datetime.fromisoformat(worker["last_heartbeat_time"])
            if worker["name"] == _WORKER and worker["status"] == "ONLINE":
                return heard.timestamp() >= process.create_time()
    return False
