"""Experiments and runs as MLflow has them: found, made, and taken out of its trash.

What a training needs and somebody deleted is restored, with a warning; nothing else is.
"""

import logging
from typing import Any

__all__ = ["TRAINING_TAG", "find_run", "forget_run", "open_experiment", "restore_run", "trial_runs"]

TRAINING_TAG = "autofreeze.training_id"
"""Of a run: the training that it records."""
_KIND = ("mlflow.experimentKind", "custom_model_development")
"""Of an experiment: its pages are those of trainings, not those of language models' traces."""
_MOST_RUNS = 50_000
_ACTIVE = "active"
_log = logging.getLogger(__name__)


def open_experiment(client: Any, name: str, artifacts: str | None) -> str:
    """Find an experiment, or make it, or take it out of the trash.

    Args:
        client: of MLflow.
        name: of the experiment.
        artifacts: where those of a new one lie; None: where the server puts them.

    Returns:
        Its id.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifacts, tags=dict([_KIND])))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:  # it is not that another process has just made it
                raise
    _restore_experiment(client, found.experiment_id)
    if _KIND[0] not in found.tags:
        client.set_experiment_tag(found.experiment_id, *_KIND)
    return str(found.experiment_id)


def find_run(client: Any, experiment_id: str, training_id: str) -> Any:
    """The MLflow run of a training, a deleted one only if there is no other; or None."""
    from mlflow.entities import ViewType

    found = client.search_runs(
        [experiment_id],
        f"tags.`{TRAINING_TAG}` = '{training_id}'",
        run_view_type=ViewType.ALL,
    )
    return min(found, key=lambda run: run.info.lifecycle_stage != _ACTIVE, default=None)


def trial_runs(client: Any, parent: str) -> list[Any]:
    """The MLflow runs of a search's trials that can be found again, deleted ones too."""
    from mlflow.entities import ViewType

    found = client.search_runs(
        [client.get_run(parent).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent}' AND tags.execution_mode = 'trial' "
        f"AND tags.`{TRAINING_TAG}` != ''",
        run_view_type=ViewType.ALL,
        max_results=_MOST_RUNS,
    )
    return list(found)


def forget_run(client: Any, run: Any) -> None:
    """Put a run in the trash, where its training does not find it."""
    if run.info.lifecycle_stage != _ACTIVE:
        client.restore_run(run.info.run_id)  # no other takes a change
    client.delete_tag(run.info.run_id, TRAINING_TAG)
    client.delete_run(run.info.run_id)


def restore_run(client: Any, run_id: str) -> bool:
    """Take a run and its experiment out of the trash; whether one of them was there."""
    run = client.get_run(run_id)
    restored = _restore_experiment(client, run.info.experiment_id)
    if run.info.lifecycle_stage == _ACTIVE:
        return restored
    client.restore_run(run_id)
    _log.warning("MLflow run %s was deleted; its training goes on, so it is restored", run_id)
    return True


def _restore_experiment(client: Any, experiment_id: str) -> bool:
    """Take an experiment out of the trash, but not its runs, which MLflow restores with it."""
    from mlflow.entities import ViewType

    experiment = client.get_experiment(experiment_id)
    if experiment.lifecycle_stage == _ACTIVE:
        return False
    deleted = client.search_runs(
        [experiment_id], run_view_type=ViewType.DELETED_ONLY, max_results=_MOST_RUNS
    )
    client.restore_experiment(experiment_id)
    for run in deleted:
        client.delete_run(run.info.run_id)
    _log.warning(
        "MLflow experiment %r was deleted; it is restored for this training, and what was in "
        "it stays deleted",
        experiment.name,
    )
    return True
