"""Flow runs whose process is gone, as after a power cut: Prefect takes them for running.

Such a run keeps its place as the one that trains, so that no other begins.
"""

import contextlib
import uuid

import psutil

__all__ = ["mark_dead_runs"]

_MESSAGE = (
    "Its process is gone: the machine or the worker died. Started again with the same parameters, "
    "or by Retry, it goes on from what it had committed."
)


def mark_dead_runs(api: str, work_pool: str) -> list[str]:
    """Tell Prefect that runs have crashed, whose process is gone.

    Args:
        api: of a server on loopback: all who work for it are on this machine.
        work_pool: whose runs are looked at.

    Returns:
        Names of the runs.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.states import Crashed

    states = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])
    dead = []
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=states)),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[work_pool])),
        )
        for run in runs:
            if _process_is_gone(run.infrastructure_pid, run.id):
                client.set_flow_run_state(run.id, Crashed(message=_MESSAGE), force=True)
                dead.append(run.name)
    return dead


def _process_is_gone(pid: str | None, run_id: uuid.UUID) -> bool:
    """Of the number that the worker noted; it may belong to another process by now."""
    if pid is None or not pid.isdigit():
        return False
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        process = psutil.Process(int(pid))
        wanted = process.environ().get("PREFECT__FLOW_RUN_ID")
        return process.status() == psutil.STATUS_ZOMBIE or wanted != str(run_id)
    return True
