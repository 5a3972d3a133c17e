"""Flow runs whose process died: Prefect has them at work for ever, and their slots taken."""

import logging
from collections.abc import Iterable

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Crashed

__all__ = ["clear_abandoned_flow_runs", "own_flow_run_ids"]

_log = logging.getLogger(__name__)


def own_flow_run_ids() -> list[str]:
    """Of this flow run, and of the one that called it."""
    known = (flow_run.id, flow_run.root_flow_run_id)
    return list(dict.fromkeys(str(one) for one in known if one))


def clear_abandoned_flow_runs(flow_run_ids: Iterable[str]) -> None:
    """Mark those that are still said to be at work as crashed; they may be of another server.

    Args:
        flow_run_ids: whose process is known to be gone.
    """
    own = own_flow_run_ids()
    with get_client(sync_client=True) as client:
        for one in dict.fromkeys(flow_run_ids):
            try:
                known = client.read_flow_run(one)
            except ObjectNotFound:
                continue
            if one in own or known.state is None or known.state.is_final():
                continue
            message = "Its process died without a word; the next start found that out."
            client.set_flow_run_state(one, Crashed(message=message), force=True)
            _log.warning("flow run %s: its process died; it is marked as crashed", known.name)
