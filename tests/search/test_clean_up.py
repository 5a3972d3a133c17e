"""What a study leaves in the store goes with its trials, and nothing that another run reads."""

import time
from pathlib import Path
from typing import Any

import pytest

from afcore.activations.garbage import collect_garbage
from afcore.activations.sets import list_sets
from afcore.config import parse_config
from afcore.runs.retention import collect_runs
from afcore.runs.run import open_run, run_lease
from afcore.runs.whole_run import complete_run
from afcore.search.common_epochs import CommonEpochs
from afcore.search.conduct_study import StudyConductor, prepare_study
from afcore.search.study import study_folder
from afcore.storage.objects import Storage

DAY = 86400.0


def test_a_study_that_was_left_goes_as_a_whole_and_a_set_that_is_read_stays(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["training"] = {**tree["training"], "schedule": "constant"}
    tree["search"] = {
        "vary": {"training.epochs": [1, 2]},
        "sampler": "grid",
        "folds": 2,
        "storage": f"sqlite:///{tmp_path}/optuna.db",
    }
    config = parse_config(tree, source="test")
    conductor = StudyConductor(prepare_study(config))
    monkeypatch.setattr(CommonEpochs, "forget", lambda _: None)  # as if killed before
    for _ in range(2):
        with conductor.next_trial() as handle:
            assert handle is not None
            assert conductor.train(handle).state == "finished"
    storage, folder = Storage(config.store), study_folder(conductor.prepared.study_id)
    assert any("/parts/" in key for key in storage.list(folder))  # it never came to its end

    plain = config.model_copy(update={"search": None})
    other = plain.replace(**{"training.seed": 9, "training.epochs": 1, "data.fold": "1/2"})
    run_id = complete_run(other)[1].run_id
    assert len(list_sets(storage)) == 1

    with conductor.next_trial() as handle:
        assert handle is None
    monkeypatch.setattr(Storage, "time", lambda _: time.time() + 31 * DAY)
    with run_lease(storage, run_id):
        told = collect_runs(config.store, max_idle_seconds=30 * DAY, dry_run=True)
        done = collect_runs(config.store, max_idle_seconds=30 * DAY)
        collect_garbage(config.store, max_idle_seconds=300 * DAY)
    assert [one.folder for one in done][:5] == [one.folder for one in told][:5]
    assert folder in {one.folder for one in done}
    assert {key.split("/")[1] for key in storage.list("runs")} == {run_id}
    assert list(storage.list("searches")) == []
    assert len(list_sets(storage)) == 1
    assert open_run(config.store, run_id).data().train.drawn is not None  # tokens of all rows

    monkeypatch.setattr(Storage, "time", lambda _: time.time() + 62 * DAY)
    collect_runs(config.store, max_idle_seconds=30 * DAY)
    collect_garbage(config.store, max_idle_seconds=300 * DAY)
    left = {key.split("/")[0] for key in storage.list("")}
    assert left & {"runs", "searches", "data", "activations"} == set()
