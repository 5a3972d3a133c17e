"""What Prefect shows of a flow: names, progress, tables, a picture, and the way to MLflow.

Prefect only watches: what it refuses is logged, and the training goes on. It is told by threads of
their own, so that a training goes on while Prefect's server is away; its client waits for it.
"""

import base64
import contextlib
import contextvars
import io
import json
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from matplotlib.figure import Figure
from prefect.artifacts import ArtifactRequest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.runtime import flow_run

from afcore.errors import in_one_line
from afcore.results.report import EpochReport, RunReport
from afcore.tasks.scores import Score
from afcore.training.progress import Progress, watch_progress

__all__ = [
    "flow_run_address",
    "link_tracking",
    "name_task",
    "show_deleted",
    "show_epoch_table",
    "show_result",
    "show_retraining",
    "show_search_table",
    "showing_progress",
    "wait_until_shown",
]

_log = logging.getLogger("afcore.prefect")
_LAST_SECONDS = 5.0
_PICTURE_DPI = 80
_late: list[threading.Thread] = []
"""For whom a training does not wait before its end."""


def flow_run_address() -> str | None:
    """Where Prefect shows this run; None on a temporary server, which has no pages."""
    return flow_run.ui_url or None


def name_task(title: str) -> None:
    """Call this task run so, from its end on: Prefect takes the name from the last event."""
    context = TaskRunContext.get()
    if context is not None:
        context.task_run.name = title


@contextlib.contextmanager
def showing_progress(title: str, log_live: Callable[[Progress], None]) -> Iterator[None]:
    """While an epoch is trained: a bar in Prefect, and what ``log_live`` makes of it.

    Each talks to its server from a thread of its own: a step never waits for them.

    Args:
        title: of the bar.
        log_live: called with the newest moment; once it has failed it is left alone.
    """
    bar, live = _Newest(), _Newest()

    def put(progress: Progress) -> None:
        bar.put(progress)
        live.put(progress)

    shows, logs = _talking(_show_bar, bar, title), _talking(_log_each, live, log_live)
    try:
        with watch_progress(put):
            yield
        bar.finished = True
    finally:
        bar.close()
        live.close()
        _wait_a_moment(shows)
        logs.join(_LAST_SECONDS)


def wait_until_shown(what: str = "the training") -> None:
    """At the end of a flow, which did ``what``: what Prefect, being away, did not take yet."""
    late = [thread for thread in _late if thread.is_alive()]
    _late.clear()
    if late:
        _log.warning("%s is done; Prefect does not answer, and is waited for", what)
    for thread in late:
        thread.join()
    if late:  # states of tasks that could not be sent go with the next event, in order
        run = {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}"}
        emit_event("autofreeze.prefect-answers-again", run)


def _beside(call: Callable[..., Any], *arguments: Any) -> None:
    _wait_a_moment(_talking(call, *arguments))


def _talking(call: Callable[..., Any], *arguments: Any) -> threading.Thread:
    """A thread that calls it, whose context says which server and which run."""

    def talk() -> None:
        with _only_shown():
            call(*arguments)

    in_context = contextvars.copy_context().run
    thread = threading.Thread(target=in_context, args=(talk,), name="shown", daemon=True)
    thread.start()
    return thread


def _wait_a_moment(thread: threading.Thread) -> None:
    is_away = any(earlier.is_alive() for earlier in _late)
    thread.join(0.0 if is_away else _LAST_SECONDS)
    if thread.is_alive():
        _late.append(thread)


def _show_bar(newest: "_Newest", title: str) -> None:
    artifact = _create("progress", "epoch-progress", 0.0, title)
    while (progress := newest.take()) is not None:
        percent = 100.0 * progress.step / progress.num_steps
        _update(artifact, percent, f"{title}: {_moment(progress)}")
    if newest.finished:
        _update(artifact, 100.0, title)


def _log_each(newest: "_Newest", log_live: Callable[[Progress], None]) -> None:
    while (progress := newest.take()) is not None:
        log_live(progress)


class _Newest:
    """The last moment that was put; older ones that nobody took are dropped."""

    def __init__(self) -> None:
        self.finished = False
        self._changed = threading.Condition()
        self._progress: Progress | None = None
        self._closed = False

    def put(self, progress: Progress) -> None:
        with self._changed:
            self._progress = progress
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self) -> Progress | None:
        """Wait for one; None once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._progress is not None)
            progress, self._progress = self._progress, None
            return None if self._closed else progress


def show_epoch_table(reports: list[EpochReport], score: Score) -> None:
    """A row an epoch, until now."""
    rows = [
        {
            "epoch": one.epoch,
            "read from": one.read_from,
            "frozen blocks": f"{one.boundary_start} -> {one.boundary_end}",
            "train s": round(one.train_seconds, 1),
            "cache s": round(one.materialize_seconds, 1),
            "evaluate s": round(one.evaluate_seconds, 1),
            "train loss": round(one.train_loss, 4),
            f"validation {score.title}": score.shown(one.validation[score.name]),
            "US$": round(one.cost_usd, 4),
        }
        for one in reports
    ]
    _beside(_create, "table", "epochs", json.dumps(rows), "Epochs until now")


def show_result(report: RunReport, table: str, picture: Figure) -> None:
    """The run in words and as a table, and its course as a picture."""
    text = f"**{report.happened}.**\n\n{table}" if report.happened else table
    content = io.BytesIO()
    picture.savefig(content, format="png", dpi=_PICTURE_DPI)
    address = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    _beside(_create, "markdown", "result", text, "What was trained")
    _beside(_create, "image", "course", address, "Score and boundary by seconds")


def show_search_table(text: str) -> None:
    """The trials of a search until now, in Markdown."""
    _beside(_create, "markdown", "search", text, "Trials of the search")


def show_retraining(text: str) -> None:
    """What came of a retraining, in Markdown."""
    _beside(_create, "markdown", "retraining", text, "What came of the retraining")


def show_deleted(rows: list[dict[str, str]], dry_run: bool) -> None:
    """What was deleted of a store, or would be, a row each."""
    what = "What would be deleted, and why" if dry_run else "What was deleted, and why"
    _beside(_create, "table", "deleted", json.dumps(rows), what)


def link_tracking(find: Callable[[str], str | None], mlflow_run_id: str, uri: str) -> None:
    """The way to the run in MLflow; without a server that has pages, what to start.

    Args:
        find: the address of a run; asks MLflow.
        mlflow_run_id: of the run.
        uri: of the tracking store.
    """

    def link() -> None:
        text = f"Run `{mlflow_run_id}`. Pages for it: `mlflow ui --backend-store-uri {uri}`"
        if (address := find(mlflow_run_id)) is not None:
            text = f"[The run in MLflow]({address})"
        _create("markdown", "mlflow", text, "The run in MLflow")

    _beside(link)


def _create(kind: str, key: str, data: Any, description: str) -> uuid.UUID:
    """Prefect's own functions for this leave their client open."""
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    of_task = task.task_run if task is not None else None
    of_flow = flow.flow_run.id if flow is not None and flow.flow_run is not None else None
    request = ArtifactRequest(
        type=kind,
        key=key,
        data=data,
        description=description,
        task_run_id=of_task.id if of_task is not None else None,
        flow_run_id=of_task.flow_run_id if of_task is not None else of_flow,
    )
    with get_client(sync_client=True) as client:
        return client.create_artifact(request).id


def _update(artifact_id: uuid.UUID, percent: float, description: str) -> None:
    update = ArtifactUpdate(data=percent, description=description)
    with get_client(sync_client=True) as client:
        client.update_artifact(artifact_id, update)


def _moment(progress: Progress) -> str:
    return (
        f"step {progress.step} of {progress.num_steps}, loss {progress.loss:.3f}, "
        f"{progress.boundary} of {progress.num_blocks} blocks frozen, "
        f"{progress.seconds_left:.0f} s left of this epoch"
    )


@contextlib.contextmanager
def _only_shown() -> Iterator[Any]:
    try:
        yield
    except Exception as error:  # of a server of Prefect's or of MLflow's, which only show
        text = in_one_line(error, 200)
        _log.warning("not shown (%s: %s); all else goes on", type(error).__name__, text)
