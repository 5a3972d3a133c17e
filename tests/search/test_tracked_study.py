"""A study's runs in a real MLflow store: what each says, and that nothing is there twice."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest

from afcore.config import parse_config
from afcore.errors import TrackingAbsentError, TrackingUnreachableError
from afcore.search.conduct_study import PreparedStudy, prepare_study
from afcore.search.search_report import EpochRow, MemberRow, TrialRow
from afcore.search.tracked_study import TrackedStudy
from afcore.tracking import tracker as tracker_module
from afcore.tracking.tracker import Tracker


@pytest.fixture
def tree(tiny_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    vary = {"training.learning_rate": [1e-3, 3e-3]}
    search = {"vary": vary, "storage": f"sqlite:///{tmp_path}/optuna.db"}
    return {**tiny_config, "search": search}


@pytest.fixture
def prepared(tree: dict[str, Any]) -> PreparedStudy:
    return prepare_study(parse_config(tree, source="test"))


def row(number: int, state: str, epochs: int, rate: float = 1e-3) -> TrialRow:
    """A trial, whose epoch ``n`` ended ``n`` seconds after the thousandth."""
    done = [
        EpochRow(
            epoch=epoch,
            source="trained",
            read_from="tokens",
            built=[],
            seconds=1.0,
            cost_usd=0.1,
            validation={"accuracy": epoch / 10},
            finished=1000.0 + epoch,
        )
        for epoch in range(1, epochs + 1)
    ]
    member = MemberRow(seed=0, run_id=f"run{number}", epochs=done, done=state == "finished")
    return TrialRow(
        number=number,
        state=state,  # type: ignore[arg-type]
        values={"training.learning_rate": rate},
        score=0.2 if state == "finished" else None,
        members=[member] if epochs else [],
        seconds=3.0,
        why="diverged" if state == "failed" else None,
    )


def trials(study: TrackedStudy, prepared: PreparedStudy, *, deleted: bool = False) -> list[Any]:
    """Their runs, the one that was begun first at the head."""
    client = mlflow.MlflowClient(prepared.config.tracking.uri)
    view = mlflow.entities.ViewType
    return list(
        client.search_runs(
            [client.get_run(study.run_id).info.experiment_id],
            f"tags.`mlflow.parentRunId` = '{study.run_id}'",
            run_view_type=view.DELETED_ONLY if deleted else view.ACTIVE_ONLY,
            order_by=["attributes.start_time ASC"],
        )
    )


def course(prepared: PreparedStudy, run: Any, name: str) -> list[tuple[int, float, int]]:
    client = mlflow.MlflowClient(prepared.config.tracking.uri)
    history = client.get_metric_history(run.info.run_id, name)
    return [(one.step, one.value, one.timestamp) for one in history]


def test_a_trial_is_logged_as_it_goes_and_nothing_twice(prepared: PreparedStudy) -> None:
    study = TrackedStudy(prepared)
    study.log(row(0, "running", 0))
    study.log(row(0, "running", 1))
    (run,) = trials(study, prepared)
    assert (run.info.run_name, run.info.status) == ("trial-000", "RUNNING")
    assert run.data.params == {"training.learning_rate": "0.001"}
    assert run.data.tags["run_ids"] == "run0"
    assert course(prepared, run, "validation/accuracy") == [(1, 0.1, 1_001_000)]
    again = TrackedStudy(prepared)  # after a kill
    assert again.run_id == study.run_id
    for told in (row(0, "running", 1), row(0, "running", 2), row(0, "finished", 2)):
        again.log(told)
    again.complete([row(0, "finished", 2)])
    TrackedStudy(prepared).log(row(0, "finished", 2))
    (run,) = trials(study, prepared)
    assert (run.info.status, run.data.tags["trial_state"]) == ("FINISHED", "finished")
    expected = [(1, 0.1, 1_001_000), (2, 0.2, 1_002_000)]
    assert course(prepared, run, "validation/accuracy") == expected
    assert course(prepared, run, "score") == [(0, 0.2, 1_002_000)]


def test_trials_of_several_trainings_say_which_score_is_whose(tree: dict[str, Any]) -> None:
    tree["search"] = {**tree["search"], "seeds": 2}
    prepared = prepare_study(parse_config(tree, source="test"))
    study = TrackedStudy(prepared)
    one = row(0, "running", 1)  # which has no second one yet
    study.log(one)
    second = one.members[0].model_copy(update={"seed": 1, "run_id": "other"})
    study.log(one.model_copy(update={"state": "finished", "members": [*one.members, second]}))
    (run,) = trials(study, prepared)
    scores = {name for name in run.data.metrics if name.endswith("accuracy")}
    assert scores == {"seed0/validation/accuracy", "seed1/validation/accuracy"}
    assert run.data.tags["run_ids"] == "run0,other"


def test_what_mlflow_did_not_hear_is_logged_before_the_study_ends(
    prepared: PreparedStudy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_args: Any, **_kwargs: Any) -> None:
        raise TrackingUnreachableError("MLflow does not answer (refused). See that it runs; ...")

    study = TrackedStudy(prepared)
    study.log(row(0, "finished", 1))
    study.log(row(1, "running", 0))
    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "begin", away)
        patched.setattr(Tracker, "end_trial", away)
        study.log(row(1, "failed", 1))
        study.log(row(2, "pruned", 1))
    said = "MLflow does not answer (refused). Trials go on; MLflow gets what it lacks later"
    assert caplog.messages.count(said) == 1
    begun: list[str] = []
    begin = Tracker.begin

    def counted(tracker: Tracker, training_id: str, *args: Any, **kwargs: Any) -> str:
        begun.append(training_id.rpartition("-")[2])
        return begin(tracker, training_id, *args, **kwargs)

    monkeypatch.setattr(Tracker, "begin", counted)
    rows = [row(0, "finished", 1), row(1, "failed", 1), row(2, "pruned", 1), row(3, "running", 1)]
    study.complete(rows)
    assert begun == ["2"]  # what was closed, or still runs, is left alone
    ended = [(r.data.tags["trial_state"], r.info.status) for r in trials(study, prepared)]
    assert ended == [("finished", "FINISHED"), ("failed", "FAILED"), ("pruned", "KILLED")]
    TrackedStudy(prepared).complete(rows)  # of another process
    assert begun[1:] == [study._prepared.study_id]


@pytest.mark.parametrize("waits", [False, True])
def test_the_study_of_a_later_label_column_waits_for_mlflow(
    prepared: PreparedStudy, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    connect, outages = Tracker._connect, iter([1])

    def connected(tracker: Tracker) -> Any:
        if next(outages, None):
            refused = TrackingUnreachableError("MLflow does not answer (refused)")
            raise refused if tracker._waits else TrackingAbsentError(*refused.args)
        return connect(tracker)

    monkeypatch.setattr(Tracker, "_connect", connected)
    if waits:
        assert TrackedStudy(prepared, waits=True).run_id
        return
    with pytest.raises(TrackingAbsentError):
        TrackedStudy(prepared)


def test_a_fresh_study_goes_on_with_no_trial_of_an_earlier_one(prepared: PreparedStudy) -> None:
    earlier = TrackedStudy(prepared)
    for number in range(3):
        earlier.log(row(number, "finished", 1))
    mlflow.MlflowClient(prepared.config.tracking.uri).delete_run(
        trials(earlier, prepared)[2].info.run_id
    )
    fresh = TrackedStudy(prepared, fresh=True)
    assert fresh.run_id == earlier.run_id
    assert trials(fresh, prepared) == []
    for number in (0, 2):
        fresh.log(row(number, "finished", 1, rate=0.5))
    found = trials(fresh, prepared)
    assert [run.info.run_name for run in found] == ["trial-000", "trial-002"]
    assert {run.data.params["training.learning_rate"] for run in found} == {"0.5"}
    assert len(trials(fresh, prepared, deleted=True)) == 3


def test_processes_that_begin_at_once_have_one_run(
    prepared: PreparedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = tracker_module.find_run

    def slow(*args: Any) -> Any:
        found = find(*args)
        time.sleep(0.5)  # for the other one to look, too
        return found

    monkeypatch.setattr(tracker_module, "find_run", slow)
    with ThreadPoolExecutor(2) as threads:
        begun = [threads.submit(TrackedStudy, prepared) for _ in range(2)]
        assert len({one.result().run_id for one in begun}) == 1
