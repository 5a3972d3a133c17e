"""Retraining night after night, in this process, on a real Prefect server and MLflow's registry."""

import contextlib
import csv
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from afcore.config import Config, parse_config
from afcore.data.examples import Examples
from afcore.data.held_rows import hold_rows
from afcore.errors import LeaseHeldError, LeaseLostError
from afcore.model.finetuned import load_finetuned
from afcore.predict import predict_rows
from afcore.retraining import registering
from afcore.retraining.looking import retrain_lease
from afcore.runs.model_folder import write_model_folder
from afcore.runs.run import open_run
from afcore.storage.objects import Storage
from tests.conftest import write_csv
from tests.reports import make_report

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def rows(text_files: dict[str, Path]) -> list[dict[str, str]]:
    return read_csv(text_files["train"])


@pytest.fixture
def config(tiny_config: dict[str, Any], rows: list[dict[str, str]], tmp_path: Path) -> Config:
    """On a file of its own, without the last fifteen rows."""
    tree = tiny_config | {
        "freezing": {"policy": "static", "depth": 2},
        "retrain": {"model": "nightly", "margin": 0.9},
    }
    tree["training"] = tree["training"] | {"epochs": 2}
    tree["data"] = tree["data"] | {"train": str(write_csv(tmp_path / "rows.csv", rows[:-15]))}
    return parse_config(tree, source="test")


def retrain(config: Config, **options: Any) -> dict[str, Any]:
    from pipelines.retrain import retrain as flow

    found: dict[str, Any] = flow(config, **options)
    return found


def test_nights_with_and_without_new_rows(
    config: Config,
    rows: list[dict[str, str]],
    text_files: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = mlflow.MlflowClient(config.tracking.uri)
    first = retrain(config)
    text = "\n".join(first["lines"])
    assert "the first retraining of this model" in text
    assert "moved to the new version, the first one" in text
    assert first["champion"] == first["version"] == "1"
    check_registered(client, config, first)
    check_served(config, first, text_files["test"])

    # The same rows in another order, and in another file, are no change.
    other = write_csv(Path(str(config.data.train)).with_name("other.csv"), rows[:-15][::-1])
    same = retrain(config.replace(**{"data.train": str(other)}))
    assert "nothing to do" in same["lines"][0]
    assert not same["trained"]
    assert len(client.search_model_versions("name = 'nightly'")) == 1

    # Rows come, with a label that is new; one goes; the test set is another one.
    strange = {"text": "A strange new row with words.", "label": "zebra"}
    write_csv(other, [*rows[1:], strange, strange | {"text": "Another strange row of stripes."}])
    test = write_csv(other.with_name("few.csv"), [*read_csv(text_files["test"])[:20], strange])
    config = config.replace(
        **{"data.train": str(other), "data.test": str(test), "retrain.start": "champion"}
    )
    with caplog.at_level(logging.INFO, logger="afcore"):
        second = retrain(config)
    text = "\n".join(second["lines"])
    assert "17 rows added, 1 gone, the test set is another one" in text
    assert "drift: new labels: zebra (2 rows)" in text
    assert "drift: the champion, version 1, on the 17 rows added: accuracy" in text
    assert "trained from the champion, version 1" in text
    assert "is scored on tonight's test rows" in caplog.text
    assert "95 % interval over 21 test rows" in text
    assert "the lower end is above minus retrain.margin, -90.00 points" in text
    assert client.get_model_version_by_alias("nightly", "champion").version == 2
    check_started_from_champion(config, first, second)
    before, after = (validation_rows(config, result) for result in (first, second))
    assert before <= after  # of the row that is gone, none validated
    assert not before & training_rows(config, second)


def test_interrupted_after_the_alias_was_moved_it_ends_as_if_it_had_not_been(
    config: Config, rows: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipelines.retrain as flow

    class KilledError(Exception):
        """As a SIGKILL would end the process."""

    def dies(*_: Any) -> None:
        raise KilledError

    devices: list[str] = []
    asked: list[list[str]] = []
    answers = registering.answers_of_champion

    @contextlib.contextmanager
    def one_run_a_device(_: Any) -> Iterator[float]:
        devices.append("cpu")
        yield 0.0
        devices.pop()

    def answered(*args: Any) -> Any:
        asked.append(list(devices))
        return answers(*args)

    monkeypatch.setattr(flow, "one_run_a_device", one_run_a_device)
    monkeypatch.setattr(registering, "answers_of_champion", answered)
    client = mlflow.MlflowClient(config.tracking.uri)
    with monkeypatch.context() as patched:
        patched.setattr(flow, "note_retraining", dies)
        with pytest.raises(KilledError):
            retrain(config)
    first = retrain(config)
    assert first["champion"] == first["version"] == "1"
    assert any("moved to the new version, the first one" in line for line in first["lines"])

    more = write_csv(tmp_path / "more.csv", rows)
    config = config.replace(**{"data.train": str(more), "retrain.start": "champion"})
    with monkeypatch.context() as patched:
        patched.setattr(flow, "note_retraining", dies)
        with pytest.raises(KilledError):
            retrain(config)
    assert client.get_model_version_by_alias("nightly", "champion").version == 2
    second = retrain(config)
    assert second["champion"] == second["version"] == "2"
    text = "\n".join(second["lines"])
    assert "trained from the champion, version 1" in text
    assert "moved: the new version differs by" in text
    tags = client.get_model_version_by_alias("nightly", "champion").tags
    assert tags["autofreeze.champion"].startswith("moved: the new version differs by")
    assert len(client.search_model_versions("name = 'nightly'")) == 2
    assert "nothing to do" in retrain(config)["lines"][0]
    assert len(asked) >= 2
    assert all(held == ["cpu"] for held in asked)


def check_registered(client: mlflow.MlflowClient, config: Config, result: dict[str, Any]) -> None:
    report = result["report"]
    version = client.get_model_version_by_alias("nightly", "champion")
    assert version.run_id == report["mlflow_run_id"]
    assert version.tags["autofreeze.run_id"] == report["run_id"]
    assert version.tags["autofreeze.train_rows"] == str(report["data"]["train_examples"])
    run = client.get_run(report["mlflow_run_id"])
    logged = {item.tags[0].value: item.dataset for item in run.inputs.dataset_inputs}
    assert set(logged) == {"train", "validation", "test"}
    assert json.loads(logged["train"].profile)["num_rows"] == report["data"]["train_examples"]
    assert version.tags["autofreeze.train_digest"].startswith(logged["train"].digest)
    assert {a.path for a in client.list_artifacts(report["mlflow_run_id"], "retrain")} == {
        "retrain/drift.md",
        "retrain/retraining.md",
    }


def check_served(config: Config, result: dict[str, Any], test: Path) -> None:
    """The registered model answers as the training's own code does, and as its test counted."""
    mlflow.set_tracking_uri(config.tracking.uri)
    served = mlflow.pyfunc.load_model("models:/nightly@champion")
    assert served.metadata.signature.inputs.to_dict()[0]["type"] == "string"
    assert served.input_example == ["This is an example."]
    rows = read_csv(test)
    answered = served.predict([row["text"] for row in rows])["label"].tolist()
    folder = Path(config.store).parent / "written"
    write_model_folder(config, result["report"]["run_id"], folder)
    assert answered == predict_rows(load_finetuned(str(folder)), hold_rows("rows", rows))
    right = sum(label == row["label"] for label, row in zip(answered, rows, strict=True))
    assert right / len(rows) == pytest.approx(result["report"]["totals"]["test"]["accuracy"])


def check_started_from_champion(
    config: Config, first: dict[str, Any], second: dict[str, Any]
) -> None:
    """By the weights above the boundary: those below were never trained, and their set is found."""
    weights = [
        open_run(config.store, result["report"]["run_id"]).record.weights
        for result in (first, second)
    ]
    changed = {part for part in weights[0] if weights[0][part] != weights[1][part]}
    assert {"block.002", "block.003"} <= changed
    assert not {"block.000", "block.001"} & changed


def validation_rows(config: Config, result: dict[str, Any]) -> set[bytes]:
    return tokens_of(open_run(config.store, result["report"]["run_id"]).data().validation)


def training_rows(config: Config, result: dict[str, Any]) -> set[bytes]:
    return tokens_of(open_run(config.store, result["report"]["run_id"]).data().train)


def tokens_of(examples: Examples) -> set[bytes]:
    tokens = examples.inputs["input_ids"]
    return {tokens.row(number).tobytes() for number in range(len(examples))}


def test_one_that_another_has_taken_over_from_registers_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipelines.retrain as flow

    def taken_over(*_: Any, **__: Any) -> dict[str, Any]:
        """As if this process had hung, while another one took the lease."""
        storage = Storage(config.store)
        (row,) = [key for key in storage.list("retrain") if key.endswith("/lease/000001.json")]
        storage.put(row.replace("000001", "000002"), storage.get(row))
        return make_report().model_dump(mode="json", by_alias=True)

    monkeypatch.setattr(flow, "finetune", taken_over)
    with pytest.raises(LeaseLostError):
        retrain(config)
    client = mlflow.MlflowClient(config.tracking.uri)
    assert client.search_model_versions("name = 'nightly'") == []


def test_two_that_overlap_do_not_both_train(config: Config) -> None:
    with (
        retrain_lease(Storage(config.store), "nightly"),
        pytest.raises(LeaseHeldError, match="retraining of 'nightly' is already being worked on"),
    ):
        retrain(config)
