"""Whole runs over a quantized prefix: cached, stopped, thawed, published, named, refused."""

import sys
from pathlib import Path
from typing import Any

import pytest

from afcore.config import Config, check_extras, parse_config
from afcore.errors import ConfigError
from afcore.freezing import frozen_start
from afcore.predict import predict_file
from afcore.preview import preview_run
from afcore.runs.identify import identify_run
from afcore.runs.model_folder import write_model_folder
from afcore.runs.publish import publish
from afcore.runs.run import Run, run_lease
from afcore.storage.objects import Storage
from tests.conftest import write_config
from tests.e2e.command import autofreeze
from tests.model.test_quantization import needs_bitsandbytes
from tests.runs.test_adapted_runs import checkpoint
from tests.tasks.test_each_task import losses, train

FROZEN = ["embeddings", "block.000", "block.001"]


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    """Blocks 0 and 1 frozen from the start, in 4 bits; two epochs that read a set."""
    tiny_config["training"] |= {"epochs": 2}
    tiny_config["freezing"] = {"policy": "static", "depth": 2}
    tiny_config["model"]["quantization"] = "4bit"
    return parse_config(tiny_config, source="test")


def sets(run: Run) -> set[str]:
    return {key.split("/")[1] for key in run.storage.list("activations")}


@needs_bitsandbytes
def test_cached_is_recomputed_and_stopped_is_undisturbed(config: Config) -> None:
    read, computed = train(config), train(config.replace(mode="freeze"))
    assert checkpoint(read, 1).trained.activation_bytes_read > 0
    assert losses(read) == pytest.approx(losses(computed), rel=1e-5)
    undisturbed = losses(computed)
    assert losses(train(config.replace(mode="freeze"), stop_after=5)) == undisturbed


@needs_bitsandbytes
@pytest.mark.parametrize(
    ("changes", "why"),
    [({"mode": "full"}, "mode full"), ({"freezing.depth": 0}, "no block is frozen from the start")],
)
def test_where_nothing_is_frozen_it_is_said(
    changes: dict[str, Any], why: str, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    identify_run(config, Storage(config.store))
    assert "nothing is quantized" not in caplog.text
    identify_run(config.replace(**changes), Storage(config.store))
    assert f"model.quantization: nothing is quantized ({why})" in caplog.text


@needs_bitsandbytes
def test_what_is_stored_and_named_are_the_weights_themselves(config: Config) -> None:
    run = train(config)
    for part in FROZEN:
        assert checkpoint(run, 2).parts[part] == run.record.weights[part], part
    whole = train(config.replace(**{"model.quantization": None}))
    assert whole.record.weights == run.record.weights
    assert losses(whole) != losses(run)


@needs_bitsandbytes
def test_sets_and_runs_are_named_by_it_where_it_counts(config: Config) -> None:
    changes: list[dict[str, Any]] = [{"model.quantization": kind} for kind in ("8bit", None)]
    runs = [train(config.replace(**change)) for change in ({}, *changes)]
    assert len({run.record.run_id for run in runs}) == 3
    assert len(sets(runs[-1])) == 3
    assert "bitsandbytes" in runs[0].record.versions
    assert "bitsandbytes" not in runs[2].record.versions
    train(config.replace(**{"training.seed": 5}))
    assert len(sets(runs[-1])) == 3, "another seed reads the same set"

    def name(**changed: Any) -> str:
        return identify_run(config.replace(mode="full", **changed), Storage(config.store)).run_id

    assert name() == name(**{"model.quantization": None})


@needs_bitsandbytes
def test_what_thaws_trains_its_own_weights(config: Config) -> None:
    tree = config.model_dump() | {"freezing": {"policy": "frozen_start", "depth": 2}}
    tree["training"] = {**tree["training"], "learning_rate": 1e-9, "stop": "never"}
    run = train(parse_config(tree, source="test"))
    first, last = checkpoint(run, 1), checkpoint(run, 2)
    assert first.freeze.boundary == 0, "nothing was learned"
    for part in FROZEN:
        assert first.parts[part] == run.record.weights[part] != last.parts[part], part


@needs_bitsandbytes
def test_what_freezes_later_keeps_its_own_weights(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for known in ("_LEARNED", "_KNOWN"):  # random as the tiny model is, it freezes more
        monkeypatch.setattr(frozen_start, known, 100.0)
    tree = config.model_dump() | {"freezing": {"policy": "frozen_start", "depth": 1}}
    tree["training"] = {**tree["training"], "epochs": 4}
    tree["cache"] = {**tree["cache"], "mode": "on"}
    rising = parse_config(tree, source="test")
    read, computed = train(rising), train(rising.replace(mode="freeze"))
    assert [checkpoint(read, epoch).freeze.boundary for epoch in (1, 2, 3)] == [1, 2, 3]
    assert losses(read) == pytest.approx(losses(computed), rel=1e-5)
    manifests = [key for key in sets(read) if read.storage.list(f"activations/{key}")]
    assert len(manifests) == 3


@needs_bitsandbytes
def test_the_published_model_is_whole_and_the_one_that_was_tested(
    config: Config, tmp_path: Path
) -> None:
    run = train(config)
    with run_lease(run.storage, run.record.run_id) as lease:
        report = publish(run, None, None, lease.seconds())
    model = tmp_path / "model"
    write_model_folder(config, run.record.run_id, model)
    assert report.totals.test is not None
    assert "frozen blocks were computed with weights in 4bit" in (model / "README.md").read_text()
    assert "quantization_config" not in (model / "config.json").read_text()
    found = predict_file(str(model), str(config.data.test), output=str(tmp_path / "p.csv"))
    assert found.score == pytest.approx(report.totals.test["accuracy"], abs=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "performance"}, "is for one worker, in mode freeze or cached, and this is mode"),
        ({"workers.max": 2}, "mode cached with 2 workers at most"),
        ({"freezing.policy": "gradient_norm"}, "with freezing.policy gradient_norm none are"),
        ({"model.quantization": "2bit"}, "model.quantization: got '2bit'"),
    ],
)
def test_what_cannot_be_is_said(config: Config, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.replace(**changes)
    assert message in str(caught.value)


def test_who_freezes_nothing_is_not_asked(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"model\.quantization: plan measures every boundary"):
        preview_run(config, ["cached"])
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for mode in ("full", "hf_trainer"):
        check_extras(config.replace(mode=mode))
    with pytest.raises(ConfigError, match="needs the package bitsandbytes"):
        check_extras(config)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_command_line_says_it_before_anything_is_loaded(
    config: Config,
    tiny_config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert autofreeze("run", write_config(tmp_path / "c.yaml", tiny_config)) == 2
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    errors = [line for line in err.splitlines() if line.startswith("Error:")]
    assert errors == [
        "Error: model.quantization: 4bit needs the package bitsandbytes: pip install "
        '"autofreeze[quantization]"'
    ]
    assert not Path(config.store).exists()
