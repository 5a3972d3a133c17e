"""The flow ``retrain``: train again when the data has changed, and keep the better model.

::

    look          read the rows; the same as last time: end
    drift         what differs, and the champion on the rows added
    finetune      the flow, as by itself
    register      the new version, compared with the champion on the test rows; the alias
    last.json     the retraining is done

Interrupted, the same command goes on: the training where it was, the rest anew.
"""

import logging
from datetime import datetime
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import deployment, flow_run

from afcore.config import Config
from afcore.results.report import RunReport
from afcore.retraining.champion_files import forget_others, start_folder
from afcore.retraining.drift import Drift, drift_of
from afcore.retraining.looking import RowsTonight, look, note_retraining, retrain_lease
from afcore.retraining.registering import (
    Registered,
    champion_before,
    champion_on_added,
    register_and_judge,
)
from afcore.retraining.version_retention import note_kept_versions
from afcore.storage.lease import Lease
from afcore.storage.objects import Storage
from afcore.tracking.registry import CHAMPION, ModelRegistry, ModelVersion
from pipelines.device_lock import one_run_a_device
from pipelines.environment import configure_logging
from pipelines.finetune import finetune
from pipelines.given_config import config_of, given_config
from pipelines.prefect_artifacts import show_retraining, wait_until_shown
from pipelines.run_titles import data_name, model_name

__all__ = ["retrain"]

_log = logging.getLogger("afcore.retraining")


@task(name="look", task_run_name="look", cache_policy=NO_CACHE, persist_result=False)
def look_at_rows(config: Config) -> RowsTonight:
    """Read the rows, and what is recorded of the last retraining."""
    return look(config, Storage(config.store, waits=True))


@task(name="drift", task_run_name="drift", cache_policy=NO_CACHE, persist_result=False)
def look_for_drift(
    config: Config, tonight: RowsTonight, champion: ModelVersion | None
) -> tuple[Drift, list[str]]:
    """How the rows differ, and what the champion answers on those added, in sentences."""
    drift = drift_of(config, tonight)
    asked = None
    if champion is not None:
        asked = champion_on_added(config, tonight, _registry(config), champion)
    return drift, [asked] if asked else []


@task(name="register", task_run_name="register", cache_policy=NO_CACHE, persist_result=False)
def register(
    config: Config, report: RunReport, tonight: RowsTonight, champion: ModelVersion | None
) -> Registered:
    """Register the model, compare it with the champion, and move the alias or not."""
    return register_and_judge(config, report, tonight, _registry(config), champion)


def _flow_run_name() -> str:
    config = config_of(flow_run.parameters)
    return f"{config.registered_model}: {model_name(config)} on {data_name(config)}, again"


@flow(name="retrain", flow_run_name=_flow_run_name, validate_parameters=True)
def retrain(
    config: Config,
    fresh: bool = False,
    config_path: str | None = None,
    overrides: list[str] | None = None,
) -> dict[str, Any]:
    """Train again if the rows have changed since the last time, and keep the better model.

    Unchanged rows end it in seconds. The new model becomes a version in MLflow's registry; the
    alias `champion` moves to it only where it is not worse, on the same test rows, by more than
    `retrain.margin` allows.

    Args:
        config: The training, completely described.
        fresh: Train anew, even where the rows are unchanged.
        config_path: YAML file to read instead of config, as seen from the worker's folder.
        overrides: Values that differ, key.path=value each, e.g. retrain.margin=0.02.
    """
    configure_logging()
    config = given_config(config, config_path, overrides)
    storage = Storage.of_run(config.store)
    with retrain_lease(storage, config.registered_model) as lease:
        note_kept_versions(storage, config)
        found = _retrain(config, storage, lease, fresh)
    wait_until_shown("the retraining")
    return found


def _retrain(config: Config, storage: Storage, lease: Lease, fresh: bool) -> dict[str, Any]:
    tonight = look_at_rows(config)
    if tonight.unchanged and not fresh:
        lines = _unchanged_lines(config, tonight)
        _say(lines)
        return {"trained": False, "lines": lines}
    registry = _registry(config)
    champion = champion_before(config, storage, tonight, registry, fresh=fresh)
    with one_run_a_device(config.workers):
        drift, asked = look_for_drift(config, tonight, champion)
    trains = config
    if champion is not None and config.retrain.start == "champion":
        trains = config.replace(**{"model.name": str(start_folder(config, registry, champion))})
    result = finetune(trains, fresh=fresh)
    result.pop("recorded", False)
    report = RunReport.model_validate(result)
    with one_run_a_device(config.workers):
        lease.check()
        registered = register(trains, report, tonight, champion)
    lines = _lines(config, tonight, report, registered, [*drift.sentences(), *asked])
    _show(registry, report, drift.markdown(asked), lines)
    lease.check()
    note_retraining(storage, tonight, report.run_id, registered.version.version, drift.tonight)
    _say(lines)
    now = registered.version if registered.verdict.moves else champion
    if now is not None:
        forget_others(config, now)
    return {
        "trained": True,
        "lines": lines,
        "report": result,
        "model": registered.version.name,
        "version": registered.version.version,
        "champion": now.version if now is not None else None,
    }


def _say(lines: list[str]) -> None:
    """In the log of a deployment's run; the command line prints them at its end."""
    if deployment.id is not None:
        for line in lines:
            _log.info("%s", line)


def _registry(config: Config) -> ModelRegistry:
    return ModelRegistry(config.tracking.uri, config.tracking.experiment)


def _unchanged_lines(config: Config, tonight: RowsTonight) -> list[str]:
    assert tonight.last is not None
    when = datetime.fromtimestamp(tonight.last.finished).strftime("%Y-%m-%d %H:%M")
    return [
        f"nothing to do: all {len(tonight.splits['train']):,} training rows, and the rows of the "
        f"other splits, are those of {when}",
        f"version {tonight.last.version} of {config.registered_model!r} was trained on them (run "
        f"{tonight.last.run_id}); --fresh trains anew",
    ]


def _lines(
    config: Config,
    tonight: RowsTonight,
    report: RunReport,
    registered: Registered,
    drift: list[str],
) -> list[str]:
    """What came of it, in plain words."""
    version, before = registered.version, registered.before
    split = "test" if report.totals.test is not None else "validation"
    start = "the base model"
    if before is not None and config.retrain.start == "champion":
        start = f"the champion, version {before.version}"
    held = version if registered.verdict.moves else before
    return [
        f"data: {tonight.changes}",
        *(f"drift: {sentence}" for sentence in drift),
        f"trained from {start}: run {report.run_id}, {report.main.title} "
        f"{report.main.shown(report.main_score)} on {split}",
        f"registered: version {version.version} of {version.name!r} in {config.tracking.uri}",
        f"alias {CHAMPION!r}: {registered.verdict.reason}",
        f"now {CHAMPION!r} is version {held.version}: models:/{version.name}@{CHAMPION}"
        if held is not None
        else f"no version has the alias {CHAMPION!r}",
    ]


def _show(registry: ModelRegistry, report: RunReport, drift: str, lines: list[str]) -> None:
    """In MLflow, as artifacts of the training's run, and in Prefect, as one of this flow's."""
    assert report.mlflow_run_id is not None
    text = "\n".join(["# Retraining", "", *(f"* {line}" for line in lines), ""])
    registry.log_text(report.mlflow_run_id, drift, "retrain/drift.md")
    registry.log_text(report.mlflow_run_id, text, "retrain/retraining.md")
    show_retraining(f"{text}\n## Drift\n\n{drift}")
