"""A flow, run from the command line: its server is looked for first."""

import importlib
import os
import time
from typing import Any

from afcore.config import Config
from afcore.errors import OrchestrationError, UserError, in_one_line
from pipelines.cli.consoles import console
from pipelines.environment import from_prefect, proxy_for
from pipelines.ephemeral import ephemeral_server

__all__ = ["run_flow"]


def run_flow(name: str, config: Config, **parameters: Any) -> dict[str, Any]:
    """Run a flow; what Prefect raises while it runs becomes one message.

    Raises:
        OrchestrationError: when somebody deleted or stopped the run there, or the server is gone.
    """
    flow = _import_flow(name)
    from httpx import TransportError
    from prefect.exceptions import ObjectNotFound, PrefectSignal

    try:
        result: dict[str, Any] = flow(config, **parameters)
    except (Exception, PrefectSignal) as error:
        if not from_prefect(error):
            raise
        problem = f"Prefect ended this flow run: {in_one_line(error)}."
        if isinstance(error, ObjectNotFound):
            problem = "Prefect does not know this flow run any more; was it deleted there?"
        elif isinstance(error, TransportError):
            problem = f"the Prefect server does not answer any more: {in_one_line(error)}."
        raise OrchestrationError(
            f"{problem} What is committed stands; the same command goes on from there, or returns "
            "the result."
        ) from error
    return result


def _import_flow(name: str) -> Any:
    """The flow of this name, imported when needed: ``--help`` should not wait for torch."""
    began = time.monotonic()
    configured = bool(os.environ.get("PREFECT_API_URL"))
    with ephemeral_server():
        flow = getattr(importlib.import_module(f"pipelines.{name}"), name)
    _check_server(ours=not configured and bool(os.environ.get("PREFECT_API_URL")))
    console.print(f"Ready in {time.monotonic() - began:.1f} s; starting the flow {name!r}.")
    return flow


def _check_server(ours: bool) -> None:
    """A server that was configured may be down; Prefect would say so in a traceback."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        url, problem = str(client.api_url), client.api_healthcheck()
    if problem is None:
        return
    what = f"the Prefect server at {url} does not answer"
    if proxy := proxy_for(url):
        raise UserError(
            f"{what} through the proxy {proxy}. If it is to be reached directly, add its host to "
            "NO_PROXY; else see that server and proxy run."
        )
    if ours:
        raise UserError(
            f"{what}, though this process has just started it ({in_one_line(problem)}). Does "
            "something keep processes of this machine from connecting to 127.0.0.1? Or set "
            "PREFECT_API_URL to a server that can be reached."
        )
    raise UserError(f"{what}. Start it, or unset PREFECT_API_URL to use a temporary one.")
