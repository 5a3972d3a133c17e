"""What our questions to MLflow cost by the number of runs in the experiment.

The runs are written by MLflow's own store into a SQLite file, each with what one of ours has: 60
parameters, 40 metrics of 20 steps, and the tag of its training. Then all that a comparison asks is
asked, in one process, and the statements that reach the database are counted.
"""

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["measure_mlflow"]

_NUM_PARAMETERS, _NUM_METRICS, _NUM_STEPS = 60, 40, 20
_ROUNDS = 5


def measure_mlflow(work: Path, sizes: list[int]) -> list[dict[str, Any]]:
    """A row for each question and each number of runs."""
    rows = []
    for size in sizes:
        folder = work / str(size)
        folder.mkdir()
        uri = f"sqlite:///{folder}/mlflow.db"
        training_id = write_runs(uri, size)
        rows += [{"runs": size, **row} for row in questions(uri, training_id)]
    return rows


def write_runs(uri: str, count: int) -> str:
    """Finished runs, half of which are children of one; the training id of one in the middle."""
    from sqlalchemy import insert

    from afcore.tracking.tracker import Tracker

    tracker = Tracker(uri, "load")
    parent = tracker.begin("parent", "compare", mode="compare")
    from mlflow.store.tracking.dbmodels import models
    from mlflow.tracking._tracking_service.utils import _get_store

    store = _get_store(uri)
    now = int(time.time() * 1000)
    tables: dict[Any, list[dict[str, Any]]] = {}
    middle = ""
    with store.ManagedSessionMaker() as session:
        run = session.get(models.SqlRun, parent)
        experiment, artifacts = run.experiment_id, run.artifact_uri
        for number in range(count - 1):
            run_id, training_id = uuid.uuid4().hex, uuid.uuid4().hex
            middle = training_id if number == count // 2 else middle or training_id
            tables.setdefault(models.SqlRun, []).append(
                {
                    "run_uuid": run_id,
                    "name": f"run {number}",
                    "experiment_id": experiment,
                    "status": "FINISHED",
                    "start_time": now,
                    "end_time": now,
                    "lifecycle_stage": "active",
                    "artifact_uri": artifacts.replace(parent, run_id),
                    "user_id": "bench",
                    "source_type": "LOCAL",
                    "source_name": "",
                    "entry_point_name": "",
                    "source_version": "",
                }
            )
            tags = {"autofreeze.training_id": training_id, "mlflow.runName": f"run {number}"}
            tags |= {"mlflow.parentRunId": parent} if number % 2 else {}
            tables.setdefault(models.SqlTag, []).extend(
                {"run_uuid": run_id, "key": key, "value": value} for key, value in tags.items()
            )
            tables.setdefault(models.SqlParam, []).extend(
                {"run_uuid": run_id, "key": f"section.key_{i}", "value": str(number + i)}
                for i in range(_NUM_PARAMETERS)
            )
            for metric in range(_NUM_METRICS):
                value = {"key": f"train/metric_{metric}", "value": 0.5, "timestamp": now}
                value |= {"run_uuid": run_id, "is_nan": False}
                tables.setdefault(models.SqlMetric, []).extend(
                    {**value, "step": step} for step in range(_NUM_STEPS)
                )
                last = {**value, "step": _NUM_STEPS - 1}
                tables.setdefault(models.SqlLatestMetric, []).append(last)
        for table, rows in tables.items():
            session.execute(insert(table), rows)
    tracker.finish(parent)
    return middle


def questions(uri: str, training_id: str) -> list[dict[str, Any]]:
    """All that `compare`, a run, and the start of one ask; statements and median milliseconds."""
    from mlflow.tracking._tracking_service.utils import _get_store
    from sqlalchemy import event

    from afcore.tracking.tracker import Tracker

    tracker = Tracker(uri, "load")
    statements = []
    event.listen(
        _get_store(uri).engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: statements.append(statement),
    )
    now = time.time()
    run_id = tracker.begin(training_id, "again")
    asked: dict[str, Callable[[], object]] = {
        "open the experiment": lambda: Tracker(uri, "load"),
        "find the run of a training, go on with it": lambda: tracker.begin(training_id, "again"),
        "find no run of a training, make one": lambda: tracker.begin(uuid.uuid4().hex, "new"),
        "runs at work": tracker.runs_at_work,
        "log a headline": lambda: tracker.log_headline(run_id, "accuracy", {"accuracy": 0.5}, now),
        "log 1,000 metrics": lambda: tracker.log_course(
            run_id, [(f"m/{i}", 0.5, time.time(), i) for i in range(1000)]
        ),
        "end a run": lambda: tracker.finish(run_id),
    }
    rows = []
    for name, ask in asked.items():
        seconds, count = [], 0
        for _ in range(_ROUNDS):
            statements.clear()
            began = time.perf_counter()
            ask()
            seconds.append(time.perf_counter() - began)
            count = len(statements)
        median = sorted(seconds)[_ROUNDS // 2]
        rows.append({"question": name, "statements": count, "milliseconds": 1000 * median})
    return rows
