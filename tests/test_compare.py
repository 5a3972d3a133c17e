"""A comparison, once something was trained, outlives a server of MLflow's that is away."""

from typing import Any

import mlflow
import pytest
import requests

from afcore.config import parse_config
from afcore.errors import ConfigError
from tests.reports import make_report


def test_what_was_compared_waits_for_mlflow(
    tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines import compare as module

    log_batch, refusals = mlflow.MlflowClient.log_batch, list[int]()

    def trained(config: Any, **_parameters: Any) -> dict[str, Any]:
        refusals[:] = [1, 2]
        report = make_report(config.mode, config.training.seed)
        return report.model_dump(mode="json", by_alias=True)

    def refusing(client: Any, *args: Any, **given: Any) -> None:
        if refusals:
            refusals.pop()
            raise requests.ConnectionError("refused")
        log_batch(client, *args, **given)

    monkeypatch.setattr(module, "finetune", trained)
    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", refusing)
    config = parse_config(tiny_config, "test")
    result = module.compare.fn(config, ["full"], seeds=2)
    assert [run["seed"] for run in result["runs"]] == [0, 1]
    assert refusals == []
    client = mlflow.MlflowClient(config.tracking.uri)
    (parent,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["full/speedup"] == 1.0


def test_runs_that_another_server_has_are_compared_all_the_same(
    tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a store whose results were logged to a database that is gone."""
    from pipelines import compare as module

    def recorded(config: Any, **_parameters: Any) -> dict[str, Any]:
        report = make_report(config.mode, seconds=20.0 if config.mode == "full" else 10.0)
        return report.model_dump(mode="json", by_alias=True) | {"recorded": True}

    monkeypatch.setattr(module, "finetune", recorded)
    result = module.compare.fn(parse_config(tiny_config, "test"), ["full", "cached"])
    assert result["recorded"] == [True, True]
    assert "the speed-up of MLflow run abc cannot be logged here" in caplog.text
    client = mlflow.MlflowClient(tiny_config["tracking"]["uri"])
    (parent,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["cached/speedup"] == result["speedup"]["cached"] > 1


@pytest.mark.parametrize("parent", [None, "run of the comparison"])
def test_a_run_waits_for_mlflow_where_others_were_before_it(
    parent: str | None, tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines import finetune as module

    class OpenedError(Exception):
        pass

    def open_tracker(_uri: str, _experiment: str, *, waits: bool = False) -> None:
        raise OpenedError(waits)

    monkeypatch.setattr(module, "prepare", module.prepare.fn)
    monkeypatch.setattr(module, "Tracker", open_tracker)
    with pytest.raises(OpenedError) as caught:
        module._finetune(parse_config(tiny_config, "test"), False, parent)
    assert caught.value.args == (parent is not None,)


@pytest.mark.parametrize(("modes", "seeds"), [([], 1), (["full"], 0)])
def test_nothing_to_compare_is_said(
    modes: list[str], seeds: int, tiny_config: dict[str, Any]
) -> None:
    from pipelines.compare import compare

    with pytest.raises(ConfigError, match="nothing to compare: modes is"):
        compare.fn(parse_config(tiny_config, "test"), modes, seeds)
