"""Several label columns over one text column: a study each, and one set for all."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from afcore.activations.sets import list_sets
from afcore.config import load_config, parse_config
from afcore.errors import AutoFreezeError, ConfigError
from afcore.search import trial_run
from afcore.search.conduct_study import StudyConductor, prepare_study
from afcore.search.label_studies import file_of_label, label_configs, names_of_labels
from afcore.search.search_report import LabelsReport
from afcore.storage.objects import Storage
from tests.conftest import stdlib_rows, write_config, write_csv


@pytest.mark.faults
@pytest.mark.usefixtures("prefect_server")
def test_each_label_column_has_its_best_and_one_set_serves_all(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.cli import app

    monkeypatch.chdir(tmp_path)
    rows = [{**row, "long": str(len(row["text"]) > 60)} for row in stdlib_rows()]
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    train, test = (
        write_csv(tmp_path / name, some) for name, some in (("a.csv", rows[1::2]), ("b.csv", rows))
    )
    tree["data"] = {"train": str(train), "test": str(test), "max_length": 32}
    tree["training"] = {**tree["training"], "epochs": 1}
    tree["search"] = {"folds": 2, "storage": f"sqlite:///{tmp_path}/o.db"}
    path = write_config(tmp_path / "config.yaml", tree)
    report_path = tmp_path / "search.json"
    command = ["search", str(path), "--labels", "label,long", "--report", str(report_path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "Best of each label column" in done.output
    report = LabelsReport.model_validate_json(report_path.read_text())
    assert list(report.labels) == ["label", "long"]
    runs = []
    for label, one in report.labels.items():
        (row,) = one.trials
        assert row.state == "finished"
        assert one.winner is not None
        assert one.winner["totals"]["test"] is not None
        winner = load_config(str(tmp_path / f"config.best.{label}.yaml"))
        assert winner.data.label == label
        assert winner.data.fold is None
        written = (tmp_path / f"config.out_of_fold.{label}.csv").read_text().splitlines()
        assert len(written) == 1 + len(rows[1::2])
        runs.append(one.winner["run_id"])
    assert len(set(runs)) == 2
    built = {label: [e.built for e in one.trials[0].epochs] for label, one in report.labels.items()}
    assert built == {"label": [[1], []], "long": [[], []]}
    sets = list_sets(Storage(winner.store))
    assert {found.manifest.num_examples for found in sets} <= {len(rows[1::2]), winner_rows(report)}
    results = [key for key in Storage(winner.store).list("runs") if key.endswith("/result.json")]
    assert {key.split("/")[1] for key in results} == set(runs)


@pytest.mark.usefixtures("prefect_server")
def test_a_limit_that_one_label_column_used_up_leaves_the_next_without_trials(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.cli import app

    monkeypatch.chdir(tmp_path)
    rows = [{**row, "long": str(len(row["text"]) > 60)} for row in stdlib_rows()[:60]]
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["data"] = {"train": str(write_csv(tmp_path / "a.csv", rows)), "max_length": 32}
    tree["training"] = {**tree["training"], "epochs": 1}
    tree["search"] = {"storage": f"sqlite:///{tmp_path}/o.db", "max_seconds": 0.001, "trials": 3}
    path = write_config(tmp_path / "config.yaml", tree)
    report_path, figures = tmp_path / "search.json", tmp_path / "figures"
    command = ["search", str(path), "--labels", "label,long", "--report", str(report_path)]
    command += ["--over", "training.learning_rate=1e-4,2e-4,3e-4", "--figures", str(figures)]
    for _ in range(2):  # the second time nothing may be begun at all
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        label, long = LabelsReport.model_validate_json(report_path.read_text()).labels.values()
        assert label.winner is not None
        assert [len(label.trials), len(long.trials)] == [1, 0]
        assert "max_seconds" in (label.stopped or "")
        assert "max_seconds" in (long.stopped or "")
        assert (long.best, long.winner, long.config_file) == (None, None, None)
    assert [folder.name for folder in figures.iterdir()] == ["label"]


@pytest.mark.usefixtures("prefect_server")
def test_a_label_column_whose_trials_fail_leaves_the_others_theirs(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.cli import app

    monkeypatch.chdir(tmp_path)
    rows = [
        {"text": row["text"], "a b": row["label"], "a-b": str(len(row["text"]) > 60)}
        for row in stdlib_rows()[:60]
    ]
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["data"] = {"train": str(write_csv(tmp_path / "a.csv", rows)), "max_length": 32}
    tree["training"] = {**tree["training"], "epochs": 1}
    tree["search"] = {"storage": f"sqlite:///{tmp_path}/o.db"}
    path, launch = write_config(tmp_path / "config.yaml", tree), trial_run.launch_epoch

    def fails(run: Any, *args: Any, **kwargs: Any) -> Any:
        if run.config.data.label == "a b":
            raise AutoFreezeError("the loss is nan.")
        return launch(run, *args, **kwargs)

    monkeypatch.setattr(trial_run, "launch_epoch", fails)
    report_path = tmp_path / "search.json"
    command = ["search", str(path), "--labels", "a b,a-b", "--report", str(report_path)]
    command += ["--over", "training.learning_rate=1e-4,2e-4", "--sampler", "grid"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2, done.output
    said = " ".join(done.output.split())
    assert "label column 'a b': no trial has finished" in said
    assert "failed: the loss is nan. Change what it says" in said
    assert "Traceback" not in said
    first, second = LabelsReport.model_validate_json(report_path.read_text()).labels.values()
    assert [row.state for row in first.trials] == ["failed"] * 2
    assert (first.best, first.winner) == (None, None)
    assert second.winner is not None
    assert second.config_file == "config.best.a-b-2.yaml"
    assert [file.name for file in tmp_path.glob("*.best.*")] == ["config.best.a-b-2.yaml"]


def test_sets_hold_texts_alone(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    rows = [{**row, "long": str(len(row["text"]) > 60)} for row in stdlib_rows()[:40]]
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["data"] = {"train": str(write_csv(tmp_path / "a.csv", rows)), "max_length": 32}
    tree["training"] = {**tree["training"], "epochs": 1}
    tree["search"] = {"labels": "label,long", "storage": f"sqlite:///{tmp_path}/o.db"}
    shared, heads = [], []
    for one in label_configs(parse_config(tree, source="test")).values():
        conductor = StudyConductor(prepare_study(one))
        with conductor.next_trial() as handle:
            assert handle is not None
            row = conductor.train(handle)
        shared.append(row.shared())
        heads.append(conductor.prepared.record.task.head_settings["num_labels"])
    assert heads == [3, 2]
    assert shared == ["epochs: 1 trained; set built: 1", "epochs: 1 trained; set read: 1"]
    assert len(list_sets(Storage(tree["store"]))) == 1


def test_what_is_opened_is_held_for_one_column_at_a_time(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    from pipelines.search import _prepared

    rows = [{**row, "long": str(len(row["text"]) > 60), "b": row["label"]} for row in stdlib_rows()]
    tree = {**tiny_config}
    tree["data"] = {"train": str(write_csv(tmp_path / "a.csv", rows[:60])), "max_length": 32}
    tree["search"] = {"labels": "label,long,b", "storage": f"sqlite:///{tmp_path}/o.db"}
    found = _prepared(parse_config(tree, source="test"))
    assert list(found) == ["label", "long", "b"]
    assert [len(one.inputs._looks) for one in found.values()] == [1, 0, 0]


def winner_rows(report: LabelsReport) -> int:
    winner = report.labels["label"].winner
    assert winner is not None
    count: int = winner["data"]["train_examples"]
    return count


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["intent", "topic"], ["intent", "topic"]),
        (["a b", "a-b", "a/b"], ["a-b", "a-b-2", "a-b-3"]),
        (["a b", "a-b-2", "a-b"], ["a-b", "a-b-2", "a-b-3"]),
        (["Long", "long"], ["Long", "long-2"]),  # where file systems take them for one
        ([""], [""]),
    ],
)
def test_each_column_has_a_file_of_its_own(labels: list[str], names: list[str]) -> None:
    found = names_of_labels(labels)
    assert [found[label] for label in labels] == names
    assert file_of_label("x/a.best.yaml", "a-b") == "x/a.best.a-b.yaml"
    assert file_of_label("x/a.best.yaml", "") == "x/a.best.yaml"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"labels": ["a", "a"]}}, "give names of columns, each once"),
        ({"search": {"labels": "a,b", "vary": {"data.label": ["c"]}}}, "vary data.label or give"),
    ],
)
def test_labels_that_cannot_be(
    tiny_config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        label_configs(parse_config(tiny_config | changes, source="test"))
