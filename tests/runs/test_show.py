"""What is shown of a run: stopped, at work, done, damaged; here and on S3."""

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from afcore.config import Config, parse_config
from afcore.errors import StoppedError, UserError
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.records import CheckpointRecord, EpochPlan, EpochStart, PartialRecord, record_of
from afcore.runs.run import Run, begin_run, run_lease
from afcore.runs.show import RunStatus, find_status
from afcore.storage.objects import Storage
from pipelines.cli.status_shown import epochs_table, intervals_table, print_status
from tests.conftest import BUCKET, write_config
from tests.e2e.command import autofreeze
from tests.test_stopping import after


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    """Two epochs; block 0 and more freeze in the first, and the second reads a set."""
    tiny_config["training"] |= {"epochs": 2}
    tiny_config["cache"] = {"mode": "on"}
    return parse_config(tiny_config, source="test")


def train(config: Config, epochs: int, stop_after: int | None = None) -> Run:
    """So many epochs, the last of which is stopped after some steps."""
    storage = Storage(config.store)
    record = identify_run(config, storage)
    with run_lease(storage, record.run_id) as lease:
        run = begin_run(storage, record)
        for epoch in range(1, epochs + 1):
            stop = after(stop_after) if stop_after else (lambda: False)
            try:
                run_epoch(run, epoch, lease.number, stop=stop)
            except StoppedError:
                assert stop_after is not None
    return run


def status_of(run: Run) -> RunStatus:
    return find_status(run.storage, run.record.run_id)


def columns(status: RunStatus) -> dict[str, list[str]]:
    return {str(c.header): [str(cell) for cell in c.cells] for c in epochs_table(status).columns}


def printed(status: RunStatus) -> str:
    console = Console(width=250, file=io.StringIO())
    print_status(status, console, why=True)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_that_was_stopped_within_an_epoch(config: Config) -> None:
    run = train(config, 1, stop_after=3)
    status = status_of(run)
    assert (status.state, status.attempts, status.damaged) == ("stopped", 1, [])
    assert status.next_step == "go on with epoch 1 after its step 3, reading tokens"
    (epoch,) = status.epochs
    assert epoch.committed == ["started", "partial"]
    assert epoch.plan == record_of(run, 0, EpochPlan)
    assert epoch.reads is None
    cells = columns(status)
    assert cells["committed"] == ["started, partial"]
    assert (cells["reads"], cells["boundary"], cells["steps"]) == (["tokens"], ["0 -> 0"], ["3"])
    assert status.folder == run.storage.uri(run.folder)


def test_a_run_whose_epochs_are_done(config: Config) -> None:
    run = train(config, 1)
    status = status_of(run)
    first, second = status.epochs
    checkpoint = record_of(run, 1, CheckpointRecord)
    assert checkpoint is not None
    assert first.committed == ["started", "checkpoint", "report"]
    assert (second.committed, second.plan) == ([], checkpoint.next)
    assert second.reads is not None
    boundary = checkpoint.freeze.boundary
    assert boundary > 0
    assert (second.reads.name, second.reads.state) == (f"activations@{boundary}", "there")
    assert status.next_step == f"train epoch 2, reading activations@{boundary}"

    run.storage.delete_folder(checkpoint.next.read_from.folder)
    assert columns(status_of(run))["set"] == ["-", "not there"]

    run = train(config, 2)
    status = status_of(run)
    assert status.next_step == "test and publish the best epoch's model"
    assert [epoch.report.epoch for epoch in status.epochs if epoch.report] == [1, 2]
    report = status.epochs[1].report
    assert report is not None
    cells = columns(status)
    assert cells["validation accuracy"][1] == f"{100 * report.validation['accuracy']:.2f} %"
    assert cells["boundary"] == [f"0 -> {boundary}", f"{boundary} -> {report.boundary_end}"]


def test_why_each_decision_was_made(config: Config) -> None:
    status = status_of(train(config, 1))
    state = status.epochs[0].state
    assert state is not None
    table = intervals_table(status)
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert len(rows) == len(state.trained.intervals) > 1
    for row, interval in zip(rows, state.trained.intervals, strict=True):
        seen, decision = interval.statistics, interval.decision
        assert row[:3] == (
            "1",
            str(seen.step),
            f"{seen.train_loss:.4f} ± {seen.train_loss_error:.4f}",
        )
        if decision is None:  # the last block alone trains
            assert set(row[4:]) == {"-"}
            continue
        assert row[4] == f"{decision.boundary_before} -> {decision.boundary_after}"
        assert len(row[6:]) == len(decision.eta)
    grew = [row for row in rows if "->" in row[4] and len(set(row[4].split(" -> "))) > 1]
    assert grew
    assert float(grew[0][6]) <= float(grew[0][5]), "eta of block 0 against the threshold"
    assert state.trained.validation["loss"] == pytest.approx(float(rows[-1][3]), abs=1e-4)
    assert "by block" in printed(status)


def test_a_run_that_is_at_work(config: Config) -> None:
    run = train(config, 1, stop_after=3)
    with run_lease(run.storage, run.record.run_id):
        status = status_of(run)
    assert (status.state, status.attempts) == ("at work", 2)
    assert "process" in (status.worker or "")


def test_damaged_records(config: Config) -> None:
    run = train(config, 1, stop_after=3)
    partial = run.epoch_key(1, "partial")
    run.storage.put(partial, b"{")
    status = status_of(run)
    assert status.damaged == [run.storage.uri(partial)]
    assert status.next_step == "train epoch 1 again from its start, reading tokens"
    run.storage.put(run.epoch_key(1, "started"), b"{")
    status = status_of(run)
    assert f"refuse: {run.storage.uri(run.epoch_key(1, 'started'))} is damaged" in status.next_step
    assert "cannot be read: " in printed(status)


def test_a_damaged_record_of_the_run_itself(config: Config) -> None:
    run = train(config, 1, stop_after=3)
    key = f"runs/{run.record.run_id}/run.json"
    run.storage.put(key, b"{")
    status = status_of(run)
    assert (status.record, status.damaged) == (None, [run.storage.uri(key)])
    assert status.next_step == "go on with epoch 1 after its step 3, reading tokens"
    assert printed(status).startswith(f"run {run.record.run_id}: stopped, 1 attempts")
    run.storage.put(f"runs/{run.record.run_id}/other/epochs/001/started.json", b"{}")
    status = status_of(run)
    assert status.epochs == []
    assert "which training counts cannot be read. Train anew with --fresh" in status.next_step


def test_a_part_that_is_gone(config: Config) -> None:
    run = train(config, 1, stop_after=3)
    partial = record_of(run, 1, PartialRecord)
    assert partial is not None
    run.storage.delete(f"{run.parts_folder}/{partial.parts['head']}.safetensors")
    assert status_of(run).next_step == "train epoch 1 again from its start, reading tokens"
    run = train(config, 1)
    checkpoint = record_of(run, 1, CheckpointRecord)
    assert checkpoint is not None
    run.storage.delete(f"{run.parts_folder}/{checkpoint.parts['head']}.safetensors")
    expected = "refuse: checkpoint part head is missing. Train anew with --fresh"
    assert status_of(run).next_step == expected


def test_a_configuration_finds_its_run(config: Config, tmp_path: Path) -> None:
    run = train(config, 1, stop_after=3)
    other = train(config.replace(**{"training.seed": 5}), 1, stop_after=2)
    cheaper = config.replace(**{"prices.gpu_hour_usd": 1.0, "tracking.experiment": "x"})
    assert find_status(run.storage, cheaper).run_id == run.record.run_id
    mine = run.record.run_id
    common = next(i for i in range(17) if mine[: i + 1] != other.record.run_id[: i + 1])
    assert find_status(run.storage, mine[: common + 1]).run_id == mine
    with pytest.raises(UserError, match="2 runs begin with ''"):
        find_status(run.storage, "")
    with pytest.raises(UserError, match="no run of this configuration"):
        find_status(run.storage, config.replace(**{"training.seed": 6}))
    # Rows that have changed make another run of the same configuration: the last one begun.
    data = tmp_path / "rows.csv"
    data.write_bytes(Path(config.data.train).read_bytes())
    elsewhere = config.replace(**{"data.train": str(data)})
    before = train(elsewhere, 1, stop_after=2)
    lines = data.read_text(encoding="utf-8").splitlines()
    data.write_text("\n".join([*lines, lines[-1]]) + "\n", encoding="utf-8")
    later = train(elsewhere, 1, stop_after=2)
    assert later.record.run_id != before.record.run_id
    assert find_status(run.storage, elsewhere).run_id == later.record.run_id


@pytest.mark.s3
def test_a_run_on_s3(config: Config, s3_endpoint: str) -> None:
    run = train(config.replace(store=f"s3://{BUCKET}/show-{time.time_ns()}"), 1)
    assert record_of(run, 1, EpochStart) is not None
    status = status_of(run)
    assert status.folder.startswith(f"s3://{BUCKET}/show-")
    assert status.epochs[1].reads is not None
    assert status.epochs[1].reads.state == "there"


def test_the_command(
    config: Config,
    tiny_config: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_config(tmp_path / "c.yaml", tiny_config)
    assert autofreeze("show", path) == 2
    assert "no run of this configuration" in " ".join(capsys.readouterr().err.split())
    assert autofreeze("show", "abc", "--store", config.store) == 2
    assert "no run 'abc' in" in " ".join(capsys.readouterr().err.split())
    run = train(config, 1, stop_after=3)
    for wanted in (["show", path], ["show", run.record.run_id, "--store", config.store]):
        assert autofreeze(*wanted) == 0
        out = capsys.readouterr().out
        assert f"run {run.record.run_id}: stopped, 1 attempts" in out
        assert "next: go on with epoch 1 after its step 3, reading tokens" in out
    assert autofreeze("show", path, "--json") == 0
    tree = json.loads(capsys.readouterr().out)
    assert (tree["state"], tree["epochs"][0]["state"]["step"]) == ("stopped", 3)


def test_it_says_where_mlflow_has_the_run(config: Config) -> None:
    run = train(config, 1)
    assert "MLflow" not in printed(status_of(run))
    run.note_tracking("0123abcd")
    where = f"MLflow: run 0123abcd in experiment 'test' of {config.tracking.uri}"
    assert where in printed(status_of(run)).splitlines()
