"""The flow in several processes at once, and one that is told to stop."""

import json
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from afcore.config import Config, load_config, parse_config
from afcore.errors import StoppedError
from afcore.interrupt import catch_sigterm, request_stop
from afcore.runs import publish
from afcore.runs.records import PartialRecord, record_of
from afcore.runs.run import Run, open_run
from afcore.search import trial_run
from afcore.search.conduct_study import StudyConductor, prepare_study
from afcore.search.search_report import SearchReport
from afcore.search.study import SharedStudy
from afcore.search.tracked_study import TrackedStudy
from afcore.storage.objects import Storage
from afcore.tasks.answers import Answers

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__])


def _search(config: str, folder: Path, name: str, environment: dict[str, str]) -> None:
    """The flow, in a process of its own, which says what it does in files.

    The process ``slow`` is at work on its first trial until there is a file ``go``.
    """
    os.environ.update(environment)  # before Prefect is imported, which reads it
    assert "prefect" not in sys.modules
    from pipelines.environment import set_defaults

    set_defaults()
    from pipelines.search import search

    test, launch, end = publish.scored_test, trial_run.launch_epoch, SharedStudy.end

    def tested(run: Run, answers: Answers) -> Any:
        with (folder / "tested").open("a") as file:
            file.write(f"{os.getpid()} {run.record.run_id}\n")
        return test(run, answers)

    def launched(*args: Any, **kwargs: Any) -> Any:
        (folder / f"{name}.trains").touch()
        while name == "slow" and not (folder / "go").exists():
            time.sleep(0.05)
        return launch(*args, **kwargs)

    def ended(*args: Any) -> None:
        end(*args)
        (folder / f"{name}.ended").touch()

    publish.scored_test = tested
    trial_run.launch_epoch = launched
    SharedStudy.end = ended
    report = search(Config.model_validate_json(config))
    (folder / f"{name}.json").write_text(json.dumps(report))


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_test_set_is_read_once_after_the_last_trial_of_all_processes(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["training"] = {**tree["training"], "epochs": 1}
    tree["search"] = {
        "vary": {"training.learning_rate": [3e-3, 1e-9]},
        "sampler": "grid",
        "seed": 0,  # the better one first
        "score": "loss",
        "storage": f"sqlite:///{tmp_path}/optuna.db",
    }
    config = parse_config(tree, source="test").model_dump_json()
    processes = {
        name: _SERVER.Process(target=_search, args=(config, tmp_path, name, dict(os.environ)))
        for name in ("slow", "quick")
    }

    def wait_for(name: str) -> None:
        end = time.monotonic() + 240
        while not (tmp_path / name).exists():
            assert time.monotonic() < end
            assert all(process.exitcode is None for process in processes.values())
            time.sleep(0.05)

    try:
        processes["slow"].start()
        wait_for("slow.trains")
        processes["quick"].start()
        wait_for("quick.ended")
        time.sleep(1.0)  # for which it finds no trial left
        (tmp_path / "go").touch()
        for process in processes.values():
            process.join(240)
            assert process.exitcode == 0
    finally:
        for process in processes.values():
            if process.is_alive():
                process.kill()
    slow, quick = (
        SearchReport.model_validate_json((tmp_path / f"{name}.json").read_text())
        for name in processes
    )
    assert slow.trials == quick.trials
    assert (slow.best, quick.best) == (0, 0)
    assert slow.winner is not None
    assert slow.winner == quick.winner
    (line,) = (tmp_path / "tested").read_text().splitlines()
    assert line.split()[1] == slow.winner["run_id"]


def test_told_to_stop_in_its_last_epoch_a_search_tests_and_publishes_nothing(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipelines.search as flow

    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["training"] = {**tree["training"], "epochs": 1}
    tree["search"] = {"seeds": 1, "vary": {"training.learning_rate": [1e-3]}, "trials": 1}
    tree["search"]["storage"] = f"sqlite:///{tmp_path}/optuna.db"
    config = parse_config(tree, source="test")
    launch = trial_run.launch_epoch

    def launched(*args: Any, **kwargs: Any) -> Any:
        report = launch(*args, **kwargs)
        request_stop()
        return report

    monkeypatch.setattr(trial_run, "launch_epoch", launched)
    monkeypatch.setattr(flow, "train_trial", lambda _, train: train())
    prepared = prepare_study(config)
    conductor = StudyConductor(prepared)
    with catch_sigterm(), pytest.raises(StoppedError, match="between two trials"):
        flow._train_trials(conductor, TrackedStudy(prepared))
    assert [row.state for row in conductor.rows()] == ["finished"]


def test_ctrl_c_ends_a_search_with_the_next_step_committed(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipelines.search as flow

    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["search"] = {"seeds": 2, "storage": f"sqlite:///{tmp_path}/optuna.db"}
    launch = trial_run.launch_epoch

    def launched(*args: Any, **kwargs: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return launch(*args, **kwargs)

    monkeypatch.setattr(trial_run, "launch_epoch", launched)
    monkeypatch.setattr(flow, "train_trial", lambda _, train: train())
    prepared = prepare_study(parse_config(tree, source="test"))
    conductor = StudyConductor(prepared)
    with pytest.raises(StoppedError, match="in epoch 1 after step 1, as asked by Ctrl-C") as raised:
        flow._train_trials(conductor, TrackedStudy(prepared))
    assert raised.value.exit_code == 130
    (row,) = conductor.rows()
    run = open_run(prepared.config.store, row.members[0].run_id)
    partial = record_of(run, 1, PartialRecord)
    assert partial is not None
    assert partial.step == 1


def test_a_process_that_was_given_fewer_trials_ends_with_the_others(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipelines.search as flow

    monkeypatch.setattr(flow, "train_trial", lambda _, train: train())
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["training"] = {**tree["training"], "epochs": 1}
    tree["search"] = {"vary": {"training.learning_rate": [1e-3, 3e-3]}, "sampler": "grid"}
    tree["search"]["storage"] = f"sqlite:///{tmp_path}/optuna.db"
    config = parse_config(tree, source="test")
    fewer, more = (prepare_study(config.replace(**{"search.trials": n})) for n in (1, 2))
    assert fewer.study_id == more.study_id
    conductor, tracked = StudyConductor(more), TrackedStudy(fewer)

    def train_one() -> None:
        with conductor.next_trial() as handle:
            assert handle is not None
            conductor.train(handle)

    with ThreadPoolExecutor(1) as pool:
        with conductor.beginning():
            train_one()
            ending = pool.submit(flow._train_trials, StudyConductor(fewer), tracked)
            with pytest.raises(TimeoutError):
                ending.result(2.0)
            train_one()
        ending.result(30)
    conductor.clean_up()
    assert list(Storage(config.store).list("searches")) == []


def test_a_better_trial_of_another_process_while_one_publishes_is_not_taken_for_its_winner(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipelines.search as flow

    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["training"] = {**tree["training"], "epochs": 1}
    tree["search"] = {"vary": {"training.learning_rate": [1e-3, 3e-3]}, "sampler": "grid"}
    tree["search"]["storage"] = f"sqlite:///{tmp_path}/optuna.db"
    config, best = parse_config(tree, source="test"), tmp_path / "best.yaml"
    fewer, more = (prepare_study(config.replace(**{"search.trials": n})) for n in (1, 2))
    conductor, tracked = StudyConductor(fewer), TrackedStudy(fewer)
    with conductor.next_trial() as handle:
        assert handle is not None
        first = conductor.train(handle)

    def tested(winner: Config, **_: Any) -> dict[str, Any]:
        other = StudyConductor(more)
        with other.next_trial() as handle:
            assert handle is not None
            better = {"state": "finished", "score": 2.0, "members": first.members}
            other._study.end(handle, handle.row.model_copy(update=better))
        totals = {"test": None, "validation": {}}
        return {"rate": winner.training.learning_rate, "totals": totals}

    monkeypatch.setattr(flow, "finetune", tested)
    monkeypatch.setattr(flow, "show_search_table", lambda _: None)
    report = flow._publish(conductor, tracked, str(best), None)
    assert (report.best, report.trials) == (0, [first])
    assert report.winner is not None
    assert report.winner["rate"] == first.values["training.learning_rate"]
    assert f"trial 0 of study {fewer.study_id}" in best.read_text()
    assert load_config(str(best)).training.learning_rate == report.winner["rate"]
    assert conductor.report().best == 1


def test_one_process_publishes_and_the_next_one_waits_for_it(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["search"] = {"seeds": 2, "storage": f"sqlite:///{tmp_path}/optuna.db"}
    config = parse_config(tree, source="test")
    first, second = (StudyConductor(prepare_study(config)) for _ in range(2))
    inside: list[str] = []

    def publishes() -> None:
        with second.publication():
            inside.append("second")

    with ThreadPoolExecutor(1) as pool:
        with first.publication():
            waiting = pool.submit(publishes)
            with pytest.raises(TimeoutError):
                waiting.result(1.5)
            inside.append("first")
        waiting.result(30)
    assert inside == ["first", "second"]
