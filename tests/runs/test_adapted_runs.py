"""Whole runs whose blocks train adapters: stopped, cached, thawed, published, compared."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import transformers
from peft import PeftModel

from afcore.config import Config, check_extras, parse_config
from afcore.errors import ConfigError
from afcore.model.adapters import LoraSettings, adapted_blocks
from afcore.peer.trainer_run import _recipe
from afcore.predict import predict_file
from afcore.preview import preview_run
from afcore.runs.identify import identify_run
from afcore.runs.model_folder import write_model_folder
from afcore.runs.publish import publish
from afcore.runs.records import CheckpointRecord, record_of
from afcore.runs.retention import collect_runs
from afcore.runs.run import Run, begin_run, run_lease
from afcore.runs.state import load_checkpoint
from afcore.storage.objects import Storage
from afcore.tracking.tracker import Tracker
from tests.conftest import write_config
from tests.e2e.command import autofreeze
from tests.tasks.test_each_task import losses, train

BASE = ["embeddings", *(f"block.{i:03d}" for i in range(4))]


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    """Blocks 0 and 1 frozen from the start; two epochs, the second of which reads a set."""
    tiny_config["training"] |= {"epochs": 2}
    tiny_config["freezing"] = {"policy": "static", "depth": 2}
    tiny_config["adapter"] = {"kind": "lora", "rank": 2, "alpha": 4}
    return parse_config(tiny_config, source="test")


def checkpoint(run: Run, epoch: int) -> CheckpointRecord:
    record = record_of(run, epoch, CheckpointRecord)
    assert record is not None
    return record


def test_stopped_and_gone_on_is_undisturbed_and_the_base_is_stored_once(config: Config) -> None:
    undisturbed = train(config)
    expected = losses(undisturbed), checkpoint(undisturbed, 2).parts
    first, last = checkpoint(undisturbed, 1).parts, expected[1]
    for part in BASE:
        assert first[part] == last[part] == undisturbed.record.weights[part], part
    changed = {part for part in last if first[part] != last[part]}
    assert {"adapter.block.002", "adapter.block.003", "head"} < changed
    assert {name for name in last if "adapter" in name and "optimizer" not in name} == {
        "adapter.block.002",
        "adapter.block.003",
    }
    assert not {"optimizer.embeddings", "optimizer.block.003"} & last.keys()
    stopped = train(config, stop_after=5)
    assert (losses(stopped), checkpoint(stopped, 2).parts) == expected


def test_cached_is_recomputed_and_a_prefix_without_adapters_is_everybodys(config: Config) -> None:
    read, computed = train(config), train(config.replace(mode="freeze"))
    assert checkpoint(read, 1).trained.activation_bytes_read > 0
    assert losses(read) == pytest.approx(losses(computed), rel=1e-5)
    sets = {key.split("/")[1] for key in read.storage.list("activations")}
    train(config.replace(**{"adapter": None}))
    train(config.replace(**{"adapter.rank": 3, "training.seed": 5}))
    assert {key.split("/")[1] for key in read.storage.list("activations")} == sets


def test_a_boundary_that_rises_freezes_adapters_and_names_the_set_by_them(config: Config) -> None:
    tree = config.model_dump() | {
        "freezing": {"policy": "linear", "intervals_per_epoch": 2},
        "training": config.training.model_dump() | {"epochs": 3},
    }
    run = train(parse_config(tree, source="test"))
    last = checkpoint(run, 3)
    boundary = checkpoint(run, 2).freeze.boundary
    assert boundary > 0
    assert adapted_blocks(load_checkpoint(run, 3)) == [0, 1, 2, 3]
    assert last.parts["adapter.block.000"] == checkpoint(run, 2).parts["adapter.block.000"]
    assert last.trained.activation_bytes_read > 0
    sets = {key.split("/")[1] for key in run.storage.list("activations")}
    other = train(run.config.replace(**{"training.learning_rate": 2e-3}))
    assert {key.split("/")[1] for key in other.storage.list("activations")} > sets


def test_what_thaws_gets_adapters_then(config: Config) -> None:
    tree = config.model_dump() | {"freezing": {"policy": "frozen_start", "depth": 2}}
    tree["training"] = {**tree["training"], "learning_rate": 1e-9, "stop": "never"}
    run = train(parse_config(tree, source="test"))
    assert checkpoint(run, 1).freeze.boundary == 0, "nothing was learned"
    assert "adapter.block.000" not in checkpoint(run, 1).parts
    assert adapted_blocks(load_checkpoint(run, 2)) == [0, 1, 2, 3]


def test_the_folder_is_the_merged_model_with_the_adapters_beside_it(
    config: Config, tmp_path: Path
) -> None:
    run = train(config)
    with run_lease(run.storage, run.record.run_id) as lease:
        report = publish(run, None, None, lease.seconds())
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        write_model_folder(config, run.record.run_id, folder)
    one, two = (
        {p.relative_to(f).as_posix(): p.read_bytes() for p in f.rglob("*") if p.is_file()}
        for f in folders
    )
    assert one == two
    model = folders[0]
    assert report.totals.test is not None
    assert config.data.test is not None
    card = (model / "README.md").read_text()
    assert "* adapter: LoRA of rank 2, alpha 4, dropout 0, on all linear layers of the" in card
    assert "alone, as PEFT loads it, in the folder `adapter`" in card
    found = predict_file(str(model), config.data.test, output=str(tmp_path / "p.csv"))
    assert found.score == pytest.approx(report.totals.test["accuracy"], abs=1e-7)
    kind = transformers.AutoModelForSequenceClassification
    merged = kind.from_pretrained(model).eval()
    base = kind.from_pretrained(config.model.name, num_labels=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT asks Transformers by old names
        adapted = PeftModel.from_pretrained(base, str(model / "adapter")).eval()
    batch = {"input_ids": torch.tensor([[2, 9, 11, 30, 3]])}
    split = load_checkpoint(run, report.totals.best_epoch)
    with torch.no_grad():
        wanted = split.model.eval()(**batch).logits
        torch.testing.assert_close(adapted(**batch).logits, wanted, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(merged(**batch).logits, wanted, rtol=1e-5, atol=1e-5)


def test_adapters_whose_checkpoints_were_deleted_come_from_mlflow(
    config: Config, tmp_path: Path
) -> None:
    run = train(config)
    tracker = Tracker(config.tracking.uri, "test")
    mlflow_run_id = tracker.begin(run.record.training_id, "n")
    with run_lease(run.storage, run.record.run_id) as lease:
        publish(run, tracker, mlflow_run_id, lease.seconds())
    for name in ("before", "after"):
        write_model_folder(config, run.record.run_id, tmp_path / name)
        removed = collect_runs(config.store, max_idle_seconds=1e9)
        assert [one.why for one in removed] == ["its model is in MLflow"] * (name == "before")
    before, after = (
        {p.relative_to(f).as_posix(): p.read_bytes() for p in f.rglob("*") if p.is_file()}
        for f in (tmp_path / "before", tmp_path / "after")
    )
    assert after.keys() == before.keys()
    alone = {name for name in before if name.startswith("adapter/")}
    assert "adapter/adapter_model.safetensors" in alone
    for name in {"model.safetensors", *alone}:
        assert after[name] == before[name], name


def test_the_run_is_named_by_its_adapters_where_they_count(config: Config) -> None:
    def name(**changes: Any) -> str:
        changed = config.replace(**changes)
        return identify_run(changed, Storage(config.store)).run_id

    assert len({name(), name(**{"adapter.rank": 3}), name(adapter=None)}) == 3
    lora = {"mode": "hf_trainer_lora"}
    assert name(**lora) != name(**lora, adapter=None)
    trainer = {"mode": "hf_trainer"}
    assert name(**trainer) == name(**trainer, adapter=None)


def test_the_trainers_lora_is_that_of_the_section(config: Config) -> None:
    def recipe(**changes: Any) -> Any:
        one = config.replace(mode="hf_trainer_lora", **changes)
        storage = Storage(config.store)
        return _recipe(begin_run(storage, identify_run(one, storage)))

    assert recipe().lora == LoraSettings(rank=2, alpha=4)
    assert recipe(adapter=None).lora == LoraSettings()


def test_what_cannot_be_is_said(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="mode performance chooses workers"):
        config.replace(mode="performance")
    with pytest.raises(ConfigError, match="adapter: plan measures"):
        preview_run(config, ["cached"])
    with pytest.raises(ConfigError, match=r"adapter\.rank: got 0"):
        config.replace(**{"adapter.rank": 0})
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError) as caught:
        check_extras(config)
    assert str(caught.value) == (
        'adapter.kind: lora needs the package peft: pip install "autofreeze[lora]"'
    )
    check_extras(config.replace(mode="hf_trainer"))


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_comparison_with_lora_on_all_blocks(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    tiny_config["training"] |= {"epochs": 1}
    tiny_config["freezing"] = {"policy": "static", "depth": 2}
    path = write_config(tmp_path / "c.yaml", tiny_config)
    report = tmp_path / "compare.json"
    settings = ["--set", "adapter.kind=lora", "--set", "adapter.rank=2"]
    modes = ["--modes", "hf_trainer_lora,cached"]
    assert autofreeze("compare", path, *modes, *settings, "--report", report) == 0
    runs = json.loads(report.read_text())["runs"]
    assert [run["mode"] for run in runs] == ["hf_trainer_lora", "cached"]
    client = mlflow.MlflowClient(tiny_config["tracking"]["uri"])
    files = client.list_artifacts(runs[1]["mlflow_run_id"], "adapter")
    assert "adapter/adapter_config.json" in {file.path for file in files}
