"""Epochs on several workers: the numbers of one, whatever their count, and what they share."""

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from afcore.activations import residency
from afcore.activations.sets import list_sets
from afcore.config import Config, parse_config
from afcore.launch.job import Job
from afcore.launch.launcher import close_launchers
from afcore.launch.local import LaunchLocally
from afcore.runs.identify import identify_run
from afcore.runs.launch_epoch import launch_epoch
from afcore.runs.records import CheckpointRecord, done_reports, plan_of, record_of
from afcore.runs.run import Run, begin_run, run_lease
from afcore.runs.spent import wall_seconds
from afcore.storage.objects import Storage
from afcore.training.progress import Progress, watch_progress


@pytest.fixture(autouse=True, scope="module")
def _close() -> Iterator[None]:
    yield
    close_launchers()


@pytest.fixture
def without_dropout(tiny_bert: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def config(tiny_config: dict[str, Any], without_dropout: Path) -> Config:
    """Boundaries move by a schedule, within epochs too; sets in fp32; an uneven last batch."""
    tiny_config["model"]["name"] = str(without_dropout)
    tiny_config["freezing"] = {"policy": "linear", "depth": 2, "intervals_per_epoch": 3}
    tiny_config["cache"] = {"mode": "on", "dtype": "fp32", "share": False}
    tiny_config["workers"] = {"max": 2}
    return parse_config(tiny_config, source="test")


def train(config: Config, store: Path, counts: list[int], **settings: Any) -> Run:
    config = config.replace(store=str(store), **settings)
    storage = Storage(config.store)
    record = identify_run(config, storage)
    with run_lease(storage, record.run_id) as lease:
        run = begin_run(storage, record)
        for epoch, count in enumerate(counts, start=1):
            launch_epoch(run, epoch, lease.number, num_workers=count)
    return run


def checkpoints(run: Run) -> list[CheckpointRecord]:
    found = [
        record_of(run, epoch, CheckpointRecord)
        for epoch in range(1, run.config.training.num_epochs + 1)
    ]
    return [record for record in found if record is not None]


def weights(run: Run) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for part, digest in checkpoints(run)[-1].parts.items():
        found = load(run.storage.get(f"{run.parts_folder}/{digest}.safetensors"))
        tensors |= {f"{part}/{name}": tensor for name, tensor in found.items()}
    return tensors


@pytest.mark.faults
def test_workers_extend_a_set_and_train_on_it(
    config: Config, text_files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header, *rows = text_files["train"].read_text().splitlines(keepends=True)
    file = tmp_path / "rows.csv"
    settings = {
        "data.train": str(file),
        "freezing": {"policy": "static", "depth": 1},
        "cache": {"mode": "on", "dtype": "fp32"},
        "training.epochs": 1,
    }
    caplog.set_level("INFO", "afcore")
    runs = []
    for name, counts in (("alone", (1, 1)), ("together", (1, 2))):
        for count, num_rows in zip(counts, (len(rows) * 9 // 10, len(rows)), strict=True):
            file.write_text(header + "".join(rows[:num_rows]))
            runs.append(train(config, tmp_path / name, [count], **settings))
    assert caplog.text.count("examples are in the store; the others are computed") == 2
    alone, together = (
        {one.manifest.producer: one for one in list_sets(run.storage)}[run.record.run_id]
        for run in (runs[1], runs[3])
    )
    assert 0 < together.manifest.own_bytes == alone.manifest.own_bytes
    assert together.manifest.own_bytes < 0.2 * alone.layout.rows_by_shard.sum() * 128
    for number in range(len(alone.manifest.shards)):
        np.testing.assert_allclose(
            *(one.read_shard(number).view(np.float32) for one in (alone, together)), atol=1e-5
        )
    losses = [[s.loss for s in checkpoints(run)[0].trained.steps] for run in (runs[1], runs[3])]
    np.testing.assert_allclose(*losses, atol=2e-5, rtol=0)


@pytest.mark.slow
def test_what_this_process_held_is_let_go_before_workers_start(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_bytes = []
    run = LaunchLocally.run
    # What earlier tests held may still be in a circle that nobody has looked for.
    monkeypatch.setattr(residency, "_all_held", weakref.WeakKeyDictionary())

    def watched(launcher: LaunchLocally, job: Job) -> None:
        kept_bytes.append(sum(held.host_bytes for held in residency._all_held))
        run(launcher, job)

    monkeypatch.setattr(LaunchLocally, "run", watched)
    train(config, tmp_path / "store", [1, 1, 2])
    assert kept_bytes == [0]


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing_but_the_time(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = train(config, tmp_path / "alone", [1, 1, 1])
    elastic = train(config, tmp_path / "elastic", [1, 2, 1])
    moments: list[Progress] = []
    caplog.set_level("INFO", "afcore")
    with watch_progress(moments.append):
        together = train(config, tmp_path / "together", [2, 2, 2])
    assert [one.epoch for one in moments if one.step == one.num_steps] == [1, 2, 3]
    assert all(np.isfinite(one.loss) for one in moments if one.step == one.num_steps)
    expected = checkpoints(alone)
    assert len(alone.data().train) % config.training.batch_size not in (0, 1)
    assert any(len({step.boundary for step in record.trained.steps}) > 1 for record in expected)
    assert [c.num_workers for c in checkpoints(elastic)] == [1, 2, 1]
    assert [report.read_from for report in done_reports(alone, 3)] == [
        "tokens",
        "tokens",
        "activations@1",
    ]
    for run in (elastic, together):
        for theirs, ours in zip(checkpoints(run), expected, strict=True):
            assert [s.boundary for s in theirs.trained.steps] == [
                s.boundary for s in ours.trained.steps
            ]
            assert [s.learning_rate for s in theirs.trained.steps] == [
                s.learning_rate for s in ours.trained.steps
            ]
            losses = [[s.loss for s in record.trained.steps] for record in (theirs, ours)]
            np.testing.assert_allclose(*losses, atol=2e-5, rtol=0)
            assert theirs.trained.activation_bytes_read == ours.trained.activation_bytes_read
        after, before = weights(run), weights(alone)
        assert after.keys() == before.keys()
        for name, tensor in after.items():
            torch.testing.assert_close(tensor, before[name], atol=2e-4, rtol=1e-3)
    sets = [
        sorted(list_sets(run.storage), key=lambda s: s.manifest.boundary)
        for run in (alone, together)
    ]
    assert [s.manifest.boundary for s in sets[0]] == [1]
    for theirs, ours in zip(*sets, strict=True):
        assert theirs.manifest.shards[0].num_rows == ours.manifest.shards[0].num_rows
        assert not theirs.verify()


@pytest.mark.slow
def test_a_lost_profile_is_measured_here_and_not_by_a_worker(
    config: Config, tmp_path: Path
) -> None:
    """One that is gone, and one that is damaged."""
    config = config.replace(store=str(tmp_path / "store"), **{"cache.mode": "auto"})
    storage = Storage(config.store)
    record = identify_run(config, storage)
    with run_lease(storage, record.run_id) as lease:
        run = begin_run(storage, record)
        launch_epoch(run, 1, lease.number)
        key = f"{run.folder}/profile.json"
        for epoch, damaged in ((2, None), (3, b"{")):
            before = json.loads(storage.get(key))
            storage.delete(key)
            if damaged is not None:
                storage.put(key, damaged)
            launch_epoch(run, epoch, lease.number)
            again = json.loads(storage.get(key))
            assert again["seconds"] != before["seconds"]
            assert again["workers"] is not None


def test_one_worker_in_this_process_counts_what_it_opens(config: Config, tmp_path: Path) -> None:
    changes = {"workers.max": 1, "training.epochs": 1}
    run = train(config, tmp_path / "store", [1], **changes)
    (report,) = done_reports(run, 1)
    assert 0 < report.launch_seconds < report.seconds < wall_seconds(run)


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "given"), [("deadline_seconds", 1000.0), ("budget_usd", 10.0)])
def test_all_that_was_taken_counts_against_a_deadline_and_a_budget(
    config: Config, tmp_path: Path, limit: str, given: float
) -> None:
    hour_usd = 360.0  # ten cents a second
    changes = {f"workers.{limit}": given, "prices.gpu_hour_usd": hour_usd, "training.epochs": 2}
    run = train(config, tmp_path / "store", [1, 1], mode="performance", **changes)
    left = []
    for epoch in (1, 2):
        plan = plan_of(run, epoch)
        assert plan is not None
        assert plan.choice is not None
        left.append(getattr(plan.choice.workers, limit))
    each = 1.0 if limit == "deadline_seconds" else hour_usd / 3600
    trained = checkpoints(run)[0].trained.train_seconds
    assert left[0] < given, "preparation took some"
    assert left[1] < left[0] - trained * each, "the epoch that was just trained is not done yet"
    assert left[1] > given - wall_seconds(run) * each
