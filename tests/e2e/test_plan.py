"""Planning as a user meets it: the command before a run, the figures in the report after it."""

import json
from pathlib import Path
from typing import Any

import pytest

from afcore.config import Config, parse_config
from afcore.planning.choose import EpochChoice
from afcore.planning.profile import Profile
from afcore.preview import PlanReport
from afcore.results.report import EpochReport
from afcore.runs import decide
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.records import plan_of
from afcore.runs.run import Run, begin_run, read_record, run_lease
from afcore.storage.objects import Storage
from tests.conftest import stdlib_rows, write_config, write_csv
from tests.e2e.command import autofreeze
from tests.reports import make_report

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr("afcore.preview._BUDGET_SECONDS", 0.1)
    monkeypatch.setattr("afcore.runs.decide._BUDGET_SECONDS", 0.1)


def test_plan_predicts_each_mode_and_leaves_no_run(
    tiny_config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "c.yaml", tiny_config)
    report, trace = tmp_path / "out" / "plan.json", tmp_path / "trace.json"
    trace.write_text(make_report().model_dump_json(by_alias=True))
    two = ("--set", "training.epochs=2")
    assert autofreeze("plan", config, "--report", report, "--trace", trace, *two) == 0
    out = capsys.readouterr().out
    for shown in ("GB memory", "3 of 4", "all freezes at once", "as recorded", "US$"):
        assert shown in out
    plan = PlanReport.model_validate_json(report.read_text())
    assert plan.num_blocks == 4
    assert [row.boundary for row in plan.boundaries] == [0, 1, 2, 3]
    assert plan.memory_bytes == sorted(plan.memory_bytes, reverse=True)
    assert 0.5e9 < plan.memory_bytes[3] < plan.memory_bytes[0] < 0.6e9
    assert plan.boundaries[1].read.activation_bytes_written > 1000
    assert [(run.mode, run.case) for run in plan.runs] == [
        ("full", "nothing freezes"),
        *[
            (mode, case)
            for mode in ("freeze", "cached")
            for case in ("nothing freezes", "all freezes at once", "as recorded")
        ],
    ]
    assert all(run.train_seconds > 0 and run.cost_usd > 0 for run in plan.runs)
    cached = {run.case: run for run in plan.runs if run.mode == "cached"}
    assert cached["nothing freezes"].activation_bytes_written == 0
    assert (
        cached["all freezes at once"].activation_bytes_written
        == plan.boundaries[3].read.activation_bytes_written
    )
    keys = Storage(tiny_config["store"]).list("")
    assert keys
    assert not [key for key in keys if not key.startswith("data/")]


def test_plan_of_label_columns_has_no_column_of_another_name(
    tiny_config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("afcore.search.study_forecast._BUDGET_SECONDS", 0.1)
    rows = [{"text": row["text"], "module": row["label"]} for row in stdlib_rows()]
    for row in rows:
        row["long"] = str(len(row["text"]) > 60)
    tiny_config["data"] = {"train": str(write_csv(tmp_path / "a.csv", rows)), "max_length": 32}
    tiny_config["freezing"] = {"policy": "static", "depth": 1}
    tiny_config["search"] = {"labels": ["module", "long"]}
    config = write_config(tmp_path / "c.yaml", tiny_config)
    assert autofreeze("plan", config, "--modes", "cached") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Predicted study" in out
    assert "│ none stops │ 2 │" in out


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"model": {"name": "./no-model"}}, [], "there is no such folder"),
        ({"data": {"train": "nowhere.csv"}}, [], "cannot load the data"),
        ({"store": "gopher://x/y"}, [], "Protocol not known"),
        ({}, ["--modes", "fast"], "known are full, freeze, cached"),
        ({}, ["--trace", "nowhere.json"], "--trace nowhere.json: cannot be read"),
        ({}, ["--trace", "{config}"], "is no report of autofreeze run or compare"),
        ({}, ["--set", "prices.gpu=aws/abacus"], "no price is known of 'aws/abacus'; known are"),
        ({}, ["--figure", "plan.png"], "with one worker there is nothing to choose from"),
        ({}, ["--set", "freezing.policy=static", "--set", "freezing.depth=9"], "at most 3 can be"),
    ],
)
def test_a_mistake_gets_one_message_and_exit_code_2(
    changes: dict[str, Any],
    options: list[str],
    message: str,
    tiny_config: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for section, values in changes.items():
        if isinstance(values, dict):
            tiny_config[section] |= values
        else:
            tiny_config[section] = values
    config = write_config(tmp_path / "c.yaml", tiny_config)
    assert autofreeze("plan", config, *(o.format(config=config) for o in options)) == 2
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    (error,) = [line for line in err.splitlines() if line.startswith("Error:")]
    assert message in error


def test_a_trace_of_another_number_of_epochs_is_refused(
    tiny_config: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config, trace = write_config(tmp_path / "c.yaml", tiny_config), tmp_path / "trace.json"
    trace.write_text(make_report().model_dump_json(by_alias=True))
    assert autofreeze("plan", config, "--trace", trace) == 2
    assert "has 2 epochs, but training.epochs is 3" in capfd.readouterr().err


def test_a_trace_of_a_deeper_model_is_refused(
    tiny_config: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config, trace = write_config(tmp_path / "c.yaml", tiny_config), tmp_path / "trace.json"
    deep = make_report().epochs[0].model_copy(update={"boundary_start": 11})
    report = make_report().model_copy(update={"epochs": [deep], "intervals": []})
    trace.write_text(report.model_dump_json(by_alias=True))
    one = ("--set", "training.epochs=1")
    assert autofreeze("plan", config, "--trace", trace, *one) == 2
    assert "has boundary 11, but the model has 4 blocks" in capfd.readouterr().err


@pytest.fixture
def auto(tiny_config: dict[str, Any]) -> Config:
    static = {"cache.mode": "auto", "freezing.policy": "static", "freezing.depth": 2}
    return parse_config(tiny_config, source="test").replace(**static)


def train(config: Config, epochs: int) -> tuple[Run, list[EpochReport]]:
    storage = Storage(config.store)
    record = identify_run(config, storage)
    with run_lease(storage, record.run_id) as lease:
        run = begin_run(storage, record)
        return run, [run_epoch(run, epoch, lease.number) for epoch in range(1, epochs + 1)]


def test_predictions_are_recorded_and_a_restart_measures_nothing(
    auto: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, records = train(auto, 1)
    plan = plan_of(run, 1)
    assert plan.choice.source.totals.keys() == {"tokens", "set"}
    first = records[0]
    assert first.predicted_train_seconds == pytest.approx(plan.choice.forecast.train_seconds)
    assert first.predicted_materialize_seconds == pytest.approx(
        plan.choice.forecast.materialize_seconds
    )
    # With a boundary that stays, what was predicted before is what is compared after.
    assert first.prediction_error == pytest.approx(
        first.predicted_train_seconds / first.train_seconds - 1
    )
    assert first.decision == plan.choice.source_text()

    def again(*args: Any, **options: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(decide, "measure_run", again)
    _, records = train(auto, 3)
    plans = [plan_of(run, e) for e in (1, 2, 3)]
    assert [p.choice.source.epochs_left for p in plans] == [3, 2, 1]
    assert [r.decision for r in records] == [p.choice.source_text() for p in plans]
    assert plan_of(run, 4) is None
    assert plans[1].choice.scale != 1.0


@pytest.mark.parametrize(
    ("slower", "read_from", "written"),
    [("computing", ["activations@2"] * 3, True), ("reading", ["tokens"] * 3, False)],
)
def test_measurements_decide_what_is_read(
    auto: Config, monkeypatch: pytest.MonkeyPatch, slower: str, read_from: list[str], written: bool
) -> None:
    _bias(monkeypatch, slower)
    run, records = train(auto, 3)
    assert [record.read_from for record in records] == read_from
    assert (records[0].activation_bytes_written > 0) is written
    assert any(key.endswith("manifest.json") for key in run.storage.list("activations")) is written


def test_a_set_in_the_store_is_left_alone_where_computing_is_faster(
    auto: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(auto.replace(**{"cache.mode": "on"}), 1)
    _bias(monkeypatch, "reading")
    run, records = train(auto, 2)
    assert [record.read_from for record in records] == ["tokens", "tokens"]
    choice = plan_of(run, 1).choice
    assert choice.source.exists
    assert choice.source.totals["set"] == pytest.approx(3 * _read_seconds(run, choice))
    assert "compute from tokens" in records[0].decision


def test_a_set_that_turns_out_slow_is_not_read_again(
    auto: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    _bias(monkeypatch, "computing")
    train(auto, 1)
    real = decide.RunPlanner.scale
    monkeypatch.setattr(decide.RunPlanner, "scale", lambda *a: real(*a) * 1e-12)
    _, records = train(auto, 3)
    assert [record.read_from for record in records] == [
        "activations@2",
        "activations@2",  # decided before the machine became so fast
        "tokens",
    ]


def test_where_nothing_is_measured_nothing_is_predicted(auto: Config) -> None:
    for changes in ({"cache.mode": "on"}, {"cache.mode": "off"}, {"mode": "freeze"}):
        run, records = train(auto.replace(**changes), 1)
        assert not run.storage.exists(f"{run.folder}/profile.json")
        report = records[0]
        predictions = (report.predicted_train_seconds, report.prediction_error, report.decision)
        assert predictions == (None, None, None)


def _read_seconds(run: Run, choice: EpochChoice) -> float:
    """Of an epoch that reads the set: the bias leaves nothing else."""
    profile = read_record(run.storage, f"{run.folder}/profile.json", Profile)
    reading, speeds = decide.place_set(run, choice.source.set_bytes), profile.bandwidths
    read = speeds.gather_seconds(reading) + speeds.fetch_seconds(reading.store_bytes)
    return choice.forecast.suffix_seconds + read


def _bias(monkeypatch: pytest.MonkeyPatch, slower: str) -> None:
    """A tiny model's true figures are too close together to decide anything for sure."""
    real = decide.measure_run
    factor = {"computing": 1e6, "reading": 1e-9}[slower]
    monkeypatch.setattr(decide, "measure_run", lambda *a, **k: real(*a, **k).scaled(factor))
    monkeypatch.setattr(decide.RunPlanner, "scale", lambda *_: 1.0)


def test_the_plan_report_is_json(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", tiny_config)
    report = tmp_path / "plan.json"
    assert autofreeze("plan", config, "--modes", "full", "--report", report) == 0
    tree = json.loads(report.read_text())
    assert [run["mode"] for run in tree["runs"]] == ["full"]
    assert tree["profile"]["seconds"] > 0
