"""The stack: Prefect's server, a worker, MLflow's server, and where asked for a store on S3.

Everything listens on loopback. What outlives it: the store, MLflow's database and artifacts in one
folder, and Prefect's database in ``PREFECT_HOME``: those that ``autofreeze run`` uses too, so its
runs are seen here and a stack that is started again shows what the last one did.
"""

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from afcore.digest import recipe_digest
from afcore.errors import AutoFreezeError, UserError, in_one_line
from pipelines.example_configs import DEPLOYMENTS_FILE
from pipelines.stack.dead_runs import mark_dead_runs
from pipelines.stack.services import Service, ServiceFolder
from pipelines.stack.stack_services import (
    FOLDER,
    MOTO,
    WORK_POOL,
    StackSettings,
    answers,
    is_reachable,
    stack_services,
)

__all__ = ["LocalStack", "ServiceState"]

_BUCKET = "autofreeze"
_SERVERS = ("prefect", "mlflow", "s3", "worker")
_WORKS = "works"
_REACHABLE = "reachable"


@dataclass(frozen=True)
class ServiceState:
    """How a service is; an S3 server that others look after has neither process nor log here."""

    name: str
    state: str
    address: str
    pid: int | None = None
    log: Path | None = None

    @property
    def works(self) -> bool:
        """Whether it can be used, as far as one sees from outside."""
        return self.state in (_WORKS, _REACHABLE)


class LocalStack:
    """The servers of one folder.

    Args:
        folder: of the store and MLflow's database; the stack's own files are in ``stack`` below it.
        settings: what to start it with; what is left out or None is as it was last started.

    Raises:
        UserError: when it runs with other settings, or they cannot be.
    """

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None) -> None:
        self.folder = folder.absolute()
        self.services_folder = ServiceFolder(self.folder / "stack")
        self._settings_file = self.services_folder.path / "settings.json"
        known = self._known_settings()
        given = {name: value for name, value in (settings or {}).items() if value is not None}
        if given.get("s3") == FOLDER:
            given["s3"] = None
        self.settings = StackSettings(**{**(known.model_dump() if known else {}), **given})
        self.settings.check()
        if known not in (None, self.settings) and self._running():
            raise UserError(
                f"the stack runs with other settings ({_shown(known)}) than asked for "
                f"({_shown(self.settings)}). Leave them out to find what runs, or stop it first: "
                "autofreeze stack down (make stack-down)"
            )

    @property
    def store(self) -> str:
        """Root of the store that the deployments use."""
        return f"s3://{_BUCKET}/store" if self.settings.s3 else str(self.folder / "store")

    @property
    def is_volatile(self) -> bool:
        """Whether the store is lost when the stack stops."""
        return self.settings.s3 == MOTO

    def up(self, say: Callable[[str], None]) -> list[str]:
        """Start what does not run, wait until all works, and make the deployments.

        Args:
            say: called with a line when something was started.

        Returns:
            Names of the deployments.

        Raises:
            UserError: when a port is taken, or S3 cannot be used.
            AutoFreezeError: when a server does not come up.
        """
        self.services_folder.make()
        with FileLock(self.services_folder.path / "lock"):
            *servers, worker = self._services()
            for one in servers:  # before anything is started, or known as the last settings
                if self.services_folder.process(one.name) is None:
                    self.services_folder.stop(one)  # what it left when it was killed
                self.services_folder.check_port(one)
            self._settings_file.write_text(self.settings.model_dump_json())
            with self._no_temporary_server_migrates():
                started = []
                for one in servers:
                    if one.name == "mlflow":
                        self._make_mlflow_database()
                    if self.services_folder.start(one):
                        started.append(one.name)
                for one in servers:
                    self.services_folder.wait_until_healthy(one)
                    say(f"{one.name}: {'started' if one.name in started else 'runs already'}")
            if self.settings.s3:
                self._make_bucket(say)
            if self.services_folder.process(worker.name) is None:
                for name in mark_dead_runs(self.settings.prefect_api, WORK_POOL):
                    say(f"prefect: the run {name!r} had died; it is marked as crashed")
            new = self.services_folder.start(worker)
            self.services_folder.wait_until_healthy(worker)
            say(f"{worker.name}: {'started' if new else 'runs already'}")
            return self._deploy(say)

    def down(self, say: Callable[[str], None]) -> bool:
        """Stop all of it, the worker first: its training commits, and can still say so.

        Returns:
            Whether anything ran.
        """
        stopped = False
        if not self.services_folder.path.is_dir():
            return False
        with FileLock(self.services_folder.path / "lock"):
            for service in reversed(self._services()):
                if self.services_folder.stop(service):
                    stopped = True
                    say(f"{service.name}: stopped")
        return stopped

    def states(self) -> list[ServiceState]:
        """Every service, in the order in which they are started; then an S3 server of others."""
        found = []
        for service in self._services():
            process = self.services_folder.process(service.name)
            state = "stopped"
            if process is not None:
                state = _WORKS if service.is_healthy() else "does not answer"
            found.append(
                ServiceState(
                    service.name,
                    state,
                    service.page,
                    process.pid if process else None,
                    self.services_folder.log(service.name),
                )
            )
        if self.settings.s3 not in (None, MOTO):
            endpoint = str(self.settings.s3)
            state = _REACHABLE if is_reachable(endpoint) else f"not {_REACHABLE}"
            found.append(ServiceState("s3", state, endpoint))
        return found

    def _services(self) -> list[Service]:
        return stack_services(self.settings, self.folder, self.services_folder)

    def _make_bucket(self, say: Callable[[str], None]) -> None:
        import botocore.session
        from botocore.exceptions import BotoCoreError, ClientError

        environment = self.settings.s3_environment()
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
        key, secret, region = (environment.get(name) for name in names)
        try:
            client = botocore.session.get_session().create_client(
                "s3",
                endpoint_url=environment["AWS_ENDPOINT_URL"],
                aws_access_key_id=key,
                aws_secret_access_key=secret,
                region_name=region or os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
            )
            try:
                client.head_bucket(Bucket=_BUCKET)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                    raise
                client.create_bucket(Bucket=_BUCKET)
                say(f"s3: made the bucket {_BUCKET!r}")
        except (BotoCoreError, ClientError, ValueError) as error:
            raise UserError(
                f"S3 at {self.settings.s3} cannot be used: {in_one_line(error)}. See "
                "that it runs, and that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set to "
                f"what may read and write the bucket {_BUCKET!r}"
            ) from error

    def _deploy(self, say: Callable[[str], None]) -> list[str]:
        """Make the deployments, unless they are there as they should be."""
        tree = self._deployments()
        names = [_full_name(one) for one in tree["deployments"]]
        mark = self.services_folder.path / "deployed"
        digest = recipe_digest(tree)
        # Made again they would lose what was set in Prefect since, a schedule switched on for one.
        there = all(
            answers(f"{self.settings.prefect_api}/deployments/name/{name}") for name in names
        )
        if there and mark.exists() and mark.read_text() == digest:
            return names
        file = self.services_folder.path / "prefect.yaml"
        file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "prefect", "--no-prompt"),
                *("deploy", "--all", "--prefect-file", str(file)),
            ],
            env={**os.environ, "PREFECT_API_URL": self.settings.prefect_api},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise AutoFreezeError(f"the deployments cannot be made:\n{done.stdout}")
        mark.write_text(digest)
        say("deployments: made")
        return names

    def _deployments(self) -> dict[str, Any]:
        """Those of the package, on this stack's store and server."""
        mlflow = self.settings.mlflow_address
        tree: dict[str, Any] = yaml.safe_load(DEPLOYMENTS_FILE.read_text(encoding="utf-8"))
        for parameters in (one["parameters"] for one in tree["deployments"]):
            if "config" in parameters:
                tracking = {**parameters["config"].get("tracking", {}), "uri": mlflow}
                parameters["config"] |= {"store": self.store, "tracking": tracking}
            if "store" in parameters:
                parameters["store"] = self.store
        return tree

    def _make_mlflow_database(self) -> None:
        """Not by the server, which a kill, or a run that starts now, would stop half-way."""
        from afcore.tracking.database import make_database

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        make_database(self.folder / "mlflow.db")

    @contextlib.contextmanager
    def _no_temporary_server_migrates(self) -> Iterator[None]:
        """Two servers must not migrate Prefect's database at once; see pipelines.ephemeral."""
        home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / "autofreeze-server.lock"):
            yield

    def _known_settings(self) -> StackSettings | None:
        try:
            return StackSettings.model_validate_json(self._settings_file.read_text())
        except (OSError, ValueError):
            return None

    def _running(self) -> bool:
        return any(self.services_folder.process(name) is not None for name in _SERVERS)


def _full_name(deployment: dict[str, Any]) -> str:
    return f"{deployment['entrypoint'].rpartition('.')[2]}/{deployment['name']}"


def _shown(settings: StackSettings | None) -> str:
    known = settings.model_dump(exclude_none=True) if settings else {}
    return ", ".join(f"{name} {value}" for name, value in known.items())
